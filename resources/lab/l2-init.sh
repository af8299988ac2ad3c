#!/bin/sh
# /init of the guest (L2). The kernel command line says what it does:
#
#   berth.do=net,ping:3,interrupts,poweroff
#
# Verbs run in order, each printing lines that start with "L2: ". After the last one the guest
# powers off, unless that verb already ended it.
#
#   net           bring eth0 up as 10.0.2.15/24       -> L2: net eth0 MAC
#   ping[:N]      ping 10.0.2.2, N times (default 3)  -> L2: ping ANSWERED/N
#   interrupts    the NIC's lines of /proc/interrupts -> L2: irq NAME COUNT (over all CPUs)
#   pci           PCI functions                       -> L2: pci BDF VENDOR:DEVICE DRIVER
#   machine       CPUs and memory                     -> L2: cpus N / L2: memory_kib N
#   bandwidth[:S] flood-ping for S seconds, payload 1400 bytes
#   sh:BASE64     run a script                        -> L2: sh STATUS
#   commands      run each line typed at the console, until "end" -> L2: did NUMBER STATUS
#   wait          sleep until the power button or a console line "end" ends it
#   shell         an interactive shell on the console
#   poweroff, reboot, panic                           how the guest ends
#
# The power button powers the guest off at any time (L2: power button).
#
# Measured on two cores: kernel start to "up" takes 3 s under plain TCG, 5 s as a guest of QEMU on
# the lab host; 14 s from the VMM's start over net,ping:3,interrupts to its end, if nothing else
# wants the cores.

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
export PATH=/bin HOME=/

mark() { echo "L2: $*"; }

# The serial port sends what a program wrote a moment later, and a kernel that ends at once does not
# send it any more. To set a terminal's mode waits until all is sent (TCSADRAIN).
last_words() { mark "$*"; stty -echo </dev/console; }

# One module load per distinct alias of a present device is all the udev this guest needs. Of
# ACPI's devices only pvpanic wants a module.
sort -u /sys/bus/pci/devices/*/modalias /sys/bus/acpi/devices/QEMU*/modalias 2>/dev/null | xargs modprobe -qa

# A press that nobody has the device open for is lost, so it is open before the guest says a word.
open_power_button() {
    modprobe -q button
    modprobe -q evdev
    for input in /sys/class/input/event*; do
        [ "$(cat "$input/device/name" 2>/dev/null)" = "Power Button" ] || continue
        exec 9<"/dev/input/${input##*/}"
        return
    done
    exec 9</dev/null
}

# Any event of the ACPI power button is a press: its device reports nothing else.
watch_power_button() {
    [ "$(head -c 24 <&9 | wc -c)" = 24 ] || return
    last_words power button
    poweroff -f
}

net() {
    [ -e /sys/class/net/eth0 ] || { mark net none; return; }
    ip link set eth0 up
    ip addr add 10.0.2.15/24 dev eth0
    # The igb negotiates its link for a while; the carrier file says when it is there.
    tries=0
    until [ "$(cat /sys/class/net/eth0/carrier 2>/dev/null)" = 1 ] || [ "$tries" = 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    mark net eth0 "$(cat /sys/class/net/eth0/address)"
}

pings() {
    answered=$(ping -c "$1" -i 0.2 -W 5 10.0.2.2 | sed -n 's/.* \([0-9]*\) packets received.*/\1/p')
    mark "ping ${answered:-0}/$1"
}

interrupts() {
    # Columns: "IRQ:", a count per CPU, chip, trigger, name.
    awk -v cpus="$(nproc)" '$NF ~ /^eth/ { n = 0; for (i = 2; i < 2 + cpus; i++) n += $i; print "L2: irq", $NF, n }' /proc/interrupts
}

pci() {
    for function in /sys/bus/pci/devices/*; do
        driver=none
        [ ! -e "$function/driver" ] || driver=$(basename "$(readlink "$function/driver")")
        mark "pci ${function##*/} $(cut -c3- "$function/vendor"):$(cut -c3- "$function/device") $driver"
    done
}

machine() {
    mark "cpus $(nproc)"
    mark "memory_kib $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
}

script() {
    echo "$1" | base64 -d >/script
    sh /script
    mark "sh $?"
}

# By this very shell, so that a command may change what comes after it.
commands() {
    stty -echo </dev/console
    mark takes commands
    number=0
    while read -r line && [ "$line" != "end" ]; do
        number=$((number + 1))
        eval "$line" </dev/null
        mark "did $number $?"
    done </dev/console
}

wait_for_end() {
    mark waiting
    while read -r line && [ "$line" != "end" ]; do
        mark "heard $line"
    done </dev/console
    # Without a console to read, only the power button ends this.
    [ "$line" = "end" ] || sleep 100000
}

open_power_button
watch_power_button &
# shellcheck disable=SC2034 # for commands from the console, which may end it
watcher=$!
mark "up after $(cut -d' ' -f1 /proc/uptime) s"
verbs=$(sed -n 's/.*berth\.do=\([^ ]*\).*/\1/p' /proc/cmdline)
for verb in $(echo "$verbs" | tr , ' '); do
    argument=${verb#*:}
    [ "$argument" != "$verb" ] || argument=
    case ${verb%%:*} in
        net) net ;;
        ping) pings "${argument:-3}" ;;
        interrupts) interrupts ;;
        pci) pci ;;
        machine) machine ;;
        bandwidth) timeout "${argument:-5}" ping -q -A -s 1400 10.0.2.2 ;;
        sh) script "$argument" ;;
        commands) commands ;;
        wait) wait_for_end ;;
        shell) setsid cttyhack sh -l ;;
        poweroff) last_words poweroff; poweroff -f ;;
        reboot) last_words reboot; reboot -f ;;
        panic) last_words panic; echo c >/proc/sysrq-trigger ;;
        *) mark "unknown verb $verb" ;;
    esac
done
last_words end of verbs
poweroff -f
