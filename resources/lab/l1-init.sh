#!/bin/sh
# /init of the lab host (L1): modules, file systems, then a server of commands that come through
# virtio-serial ports (tests/probe). tests/harness/agent.rs is the other end. /lab is the folder of kernels and initramfs
# archives, /share what this run of the tests puts in; both are 9p (80 MB/s, measured).
# Under TCG on two cores QEMU's start to "L1: up" takes 7 s.

# The kernel's first root is a tmpfs, in which everybody may make files. No host has that.
chmod 755 /
mkdir -p /var/lib
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

# The harness's other end, which came with this run.
cp /share/probe /bin/probe
ports=
for port in /sys/class/virtio-ports/*; do
    case $(cat "$port/name") in
        berth.*) ports="$ports /dev/${port##*/}" ;;
    esac
done
# shellcheck disable=SC2086 # a word for each port
probe agent $ports &
echo "L1: up after $(cut -d' ' -f1 /proc/uptime) s"

# Whoever attaches to the console finds a shell; leaving it ends the lab host.
cd /root || exit
setsid cttyhack sh -l </dev/ttyS0 >/dev/ttyS0 2>&1
poweroff -f
