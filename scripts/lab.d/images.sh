# shellcheck shell=bash
# The two initramfs kinds: an L1 and an L2 per kernel. With kernels and tools they are a set in the
# cache, sets/KEY, the folder that L1 sees as /lab.

L1_MODULES=(kvm-amd vfio-pci vfio_iommu_type1 igb igbvf e1000e nvme i2c-i801 crc32c_generic ext4 virtio_balloon 9p 9pnet_virtio
    8021q macvlan ipvlan bonding bridge md-mod raid1 dm-mod loop btrfs uio_pci_generic)
L2_MODULES=(igb igbvf e1000e nvme uio_pci_generic xhci_pci button evdev pvpanic-mmio)
# The rest of what hosts and guests need is built in.
OWN_L1_MODULES=(kvm-amd igb igbvf e1000e nvme)
OWN_L2_MODULES=(igb igbvf e1000e nvme uio_pci_generic)

pack() { # pack ROOT ARCHIVE: an uncompressed newc archive, owned by root
    (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$2"
}

# A root with busybox and an /init.
skeleton() { # skeleton ROOT INIT
    mkdir -p "$1"/{bin,dev,proc,sys,tmp,run,etc}
    cp "$CACHE/busybox/bin/busybox" "$1/bin/busybox"
    local applet
    for applet in $("$1/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
    done
    install -m 755 "$2" "$1/init"
}

# image SET KIND NAME KERNEL_HOME MODULE...: KIND is l1 or l2.
image() {
    local root=$CACHE/work/$2-$3
    say "packing the initramfs $2-$3"
    rm -rf "$root"
    skeleton "$root" "${repo:?}/resources/lab/$2-init.sh"
    copy_modules "$4" "$root" "${@:5}"
    pack "$root" "$1/$2-$3.cpio"
    rm -rf "$root"
}

# Debian's modprobe with its libraries, for what busybox's lacks: `install` and `softdep`.
# L1 calls it as `/lab/kmod/ld-linux-x86-64.so.2 --argv0 modprobe --library-path /lab/kmod /lab/kmod/kmod`.
fetch_kmod() {
    local root=$CACHE/work/kmod folder=$CACHE/kmod package
    if [ -x "$folder/kmod" ]; then return; fi
    rm -rf "$root" "$folder.partial"
    for package in kmod libc6 libzstd1 liblzma5 libssl3; do fetch_deb "$package" "$root"; done
    mkdir -p "$folder.partial"
    cp "$root/bin/kmod" "$root"/lib/x86_64-linux-gnu/{ld-linux-x86-64.so.2,libc.so.6,liblzma.so.5} \
        "$root"/usr/lib/x86_64-linux-gnu/{libzstd.so.1,libcrypto.so.3} "$folder.partial/"
    rm -rf "$root"
    mv "$folder.partial" "$folder"
}

# Debian's programs for volumes, and the one that loads AppArmor profiles, with all libraries of these packages: L1 calls one as
# `/lab/volumes/ld-linux-x86-64.so.2 --library-path /lab/volumes /lab/volumes/PROGRAM`.
VOLUME_PROGRAMS=(sbin/mdadm sbin/dmsetup sbin/mkfs.btrfs sbin/apparmor_parser)
VOLUME_PACKAGES=(mdadm dmsetup btrfs-progs apparmor libc6 libudev1 libcap2 libdevmapper1.02.1 libselinux1 libpcre2-8-0
    libblkid1 libuuid1 liblzo2-2 libzstd1 zlib1g libcom-err2 libext2fs2 libreiserfscore0)

fetch_volume_programs() {
    local root=$CACHE/work/volumes folder=$CACHE/volumes package program
    if [ -x "$folder/apparmor_parser" ]; then return; fi
    rm -rf "$root" "$folder" "$folder.partial"
    for package in "${VOLUME_PACKAGES[@]}"; do fetch_deb "$package" "$root"; done
    mkdir -p "$folder.partial"
    cp "$root"/{,usr/}lib/x86_64-linux-gnu/*.so.* "$folder.partial/"
    for program in "${VOLUME_PROGRAMS[@]}"; do cp "$root/$program" "$folder.partial/"; done
    rm -rf "$root"
    mv "$folder.partial" "$folder"
}

fetch_busybox() {
    [ -x "$CACHE/busybox/bin/busybox" ] || fetch_deb busybox-static "$CACHE/busybox"
}

# Sets BERTH_LAB_SET, for the harness. Again only when a kernel, an init script or a step changed.
build_images() {
    local series key folder
    fetch_busybox
    fetch_kmod
    fetch_volume_programs
    key=$({
        cat "${repo:?}"/resources/lab/l?-init.sh "$CACHE"/kernels/6.{12,1}/release
        echo "${OWN_KERNEL_HOME:-} ${L1_MODULES[*]}, ${L2_MODULES[*]}, ${OWN_L1_MODULES[*]}, ${OWN_L2_MODULES[*]}, ${VOLUME_PROGRAMS[*]}"
        recipe fill_set image skeleton pack copy_modules
    } | key_of)
    folder=$CACHE/sets/$key
    if [ ! -d "$folder" ]; then
        rm -rf "$folder.partial"
        mkdir -p "$folder.partial"
        fill_set "$folder.partial"
        mv "$folder.partial" "$folder"
    fi
    used "$folder"
    export BERTH_LAB_SET=$folder
}

fill_set() { # fill_set FOLDER
    local series
    for series in 6.12 6.1; do
        ln "$CACHE/kernels/$series/vmlinuz" "$1/vmlinuz-$series"
        ln "$CACHE/kernels/$series/vmlinux" "$1/vmlinux-$series"
        image "$1" l2 "$series" "$CACHE/kernels/$series" "${L2_MODULES[@]}"
    done
    image "$1" l1 6.12 "$CACHE/kernels/6.12" "${L1_MODULES[@]}"
    cp -r "$CACHE/kmod" "$CACHE/volumes" "$1/"
    [ -n "${OWN_KERNEL_HOME:-}" ] || return 0
    ln "$OWN_KERNEL_HOME/vmlinux" "$1/vmlinux-lab"
    image "$1" l1 lab "$OWN_KERNEL_HOME" "${OWN_L1_MODULES[@]}"
    image "$1" l2 lab "$OWN_KERNEL_HOME" "${OWN_L2_MODULES[@]}"
}
