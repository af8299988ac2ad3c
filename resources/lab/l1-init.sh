#!/bin/sh
# /init of the lab host (L1): modules, file systems, then one command server per virtio-serial
# port. tests/harness/agent.rs is the other end. /lab is the folder of kernels and initramfs
# archives, /share what this run of the tests puts in; both are 9p (80 MB/s, measured).
# Under TCG on two cores QEMU's start to "L1: up" takes 7 s.

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /lab /share /root
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug
export PATH=/bin HOME=/root
# As many files as a service manager allows its services.
# shellcheck disable=SC3045 # busybox has -H
ulimit -Hn 524288
# For tests that run berth as somebody else than root: su USER -c COMMAND.
printf 'root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n' >/etc/passwd

# KVM holds on to the TSC's rate that it finds when it is loaded. While that is the kernel's first
# guess, guests lose their timers later.
while grep -q tsc-early /sys/devices/system/clocksource/clocksource0/current_clocksource; do
    sleep 0.1
done
for module in kvm-amd vfio-pci vfio_iommu_type1 igb 9pnet_virtio 9p; do
    modprobe "$module" || echo "L1: cannot load $module"
done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose lab /lab
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share /share

# Reads "SECONDS SCRIPT_BYTES STDIN_BYTES\n", the script and its standard input; answers
# "STATUS STDOUT_BYTES STDERR_BYTES\n" and both outputs. A script that outlives its seconds is
# killed with its whole session.
serve() {
    work=/run/agent/${1##*/}
    mkdir -p "$work"
    exec 3<>"$1"
    while :; do
        # End of file means that nobody is connected yet.
        read -r seconds script_bytes stdin_bytes <&3 || { sleep 0.2; continue; }
        # In one piece, because head reads ahead; nothing comes after this until we answer.
        head -c "$((script_bytes + stdin_bytes))" <&3 >"$work/request"
        head -c "$script_bytes" "$work/request" >"$work/script"
        tail -c "+$((script_bytes + 1))" "$work/request" >"$work/stdin"
        timeout -s KILL "$seconds" setsid sh "$work/script" \
            <"$work/stdin" >"$work/stdout" 2>"$work/stderr" 3>&- &
        job=$!
        wait "$job"
        status=$?
        [ "$status" != 137 ] || kill -KILL -- "-$job" 2>/dev/null
        echo "$status $(stat -c %s "$work/stdout") $(stat -c %s "$work/stderr")" >&3
        cat "$work/stdout" "$work/stderr" >&3
    done
}

for port in /sys/class/virtio-ports/*; do
    case $(cat "$port/name") in
        berth.*) serve "/dev/${port##*/}" & ;;
    esac
done
echo "L1: up after $(cut -d' ' -f1 /proc/uptime) s"

# Whoever attaches to the console finds a shell; leaving it ends the lab host.
cd /root || exit
setsid cttyhack sh -l </dev/ttyS0 >/dev/ttyS0 2>&1
poweroff -f
