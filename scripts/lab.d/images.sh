# shellcheck shell=bash
# The two initramfs kinds: an L1 and an L2 per kernel. All parts end up in CACHE/guest,
# the folder that L1 sees as /lab.

L1_MODULES=(kvm-amd vfio-pci vfio_iommu_type1 igb igbvf e1000e nvme i2c-i801 crc32c_generic ext4 virtio_balloon 9p 9pnet_virtio)
L2_MODULES=(igb igbvf e1000e nvme uio_pci_generic xhci_pci button evdev pvpanic-mmio)

pack() { # pack ROOT ARCHIVE: an uncompressed newc archive, owned by root
    (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$2.partial"
    mv "$2.partial" "$2"
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

# True when the archive was made from these very inputs; remembers them when it was not.
unchanged() { # unchanged ARCHIVE INPUTS
    local stamp=$1.inputs
    if [ -s "$1" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$2" ]; then return 0; fi
    rm -f "$1"
    echo "$2" >"$stamp"
    return 1
}

inputs_of() { cat "$1" "${repo:?}/scripts/lab.d/images.sh" "$CACHE/kernels/$2/release" | sha256sum; }

build_l1() { # build_l1 KERNEL MODULE...
    local root=$CACHE/work/l1-$1 init=${repo:?}/resources/lab/l1-init.sh archive=$CACHE/guest/l1-$1.cpio
    if unchanged "$archive" "$(inputs_of "$init" "$1")"; then return; fi
    say "packing the initramfs of L1 for Linux $1"
    rm -rf "$root"
    skeleton "$root" "$init"
    copy_modules "$1" "$root" "${@:2}"
    pack "$root" "$archive"
}

build_l2() { # build_l2 SERIES
    local root=$CACHE/work/l2-$1 init=${repo:?}/resources/lab/l2-init.sh archive=$CACHE/guest/l2-$1.cpio
    if unchanged "$archive" "$(inputs_of "$init" "$1")"; then return; fi
    say "packing the initramfs of L2 for Linux $1"
    rm -rf "$root"
    skeleton "$root" "$init"
    copy_modules "$1" "$root" "${L2_MODULES[@]}"
    pack "$root" "$archive"
}

# Debian's modprobe with its libraries, for what busybox's lacks: `install` and `softdep`.
# L1 calls it as `/lab/kmod/ld-linux-x86-64.so.2 --argv0 modprobe --library-path /lab/kmod /lab/kmod/kmod`.
build_kmod() {
    local root=$CACHE/work/kmod folder=$CACHE/guest/kmod package
    if [ -x "$folder/kmod" ]; then return; fi
    rm -rf "$root" "$folder.partial"
    for package in kmod libc6 libzstd1 liblzma5 libssl3; do fetch_deb "$package" "$root"; done
    mkdir -p "$folder.partial"
    cp "$root/bin/kmod" "$root"/lib/x86_64-linux-gnu/{ld-linux-x86-64.so.2,libc.so.6,liblzma.so.5} \
        "$root"/usr/lib/x86_64-linux-gnu/{libzstd.so.1,libcrypto.so.3} "$folder.partial/"
    rm -rf "$root"
    mv "$folder.partial" "$folder"
}

fetch_busybox() {
    [ -x "$CACHE/busybox/bin/busybox" ] || fetch_deb busybox-static "$CACHE/busybox"
    mkdir -p "$CACHE/guest"
}

build_images() { # build_images SERIES...
    fetch_busybox
    local series
    for series in "$@"; do
        ln -f "$CACHE/kernels/$series/vmlinuz" "$CACHE/guest/vmlinuz-$series"
        ln -f "$CACHE/kernels/$series/vmlinux" "$CACHE/guest/vmlinux-$series"
        build_l2 "$series"
    done
    build_l1 6.12 "${L1_MODULES[@]}"
    build_kmod
}
