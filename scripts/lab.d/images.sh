# shellcheck shell=bash
# The two initramfs kinds: one L1, and an L2 per kernel series. All parts end up in CACHE/guest,
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

build_l1() {
    local root=$CACHE/work/l1 init=${repo:?}/resources/lab/l1-init.sh archive=$CACHE/guest/l1.cpio
    if unchanged "$archive" "$(inputs_of "$init" 6.12)"; then return; fi
    say "packing the initramfs of L1"
    rm -rf "$root"
    skeleton "$root" "$init"
    copy_modules 6.12 "$root" "${L1_MODULES[@]}"
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

build_images() { # build_images SERIES...
    [ -x "$CACHE/busybox/bin/busybox" ] || fetch_deb busybox-static "$CACHE/busybox"
    mkdir -p "$CACHE/guest"
    local series
    for series in "$@"; do
        ln -f "$CACHE/kernels/$series/vmlinuz" "$CACHE/guest/vmlinuz-$series"
        ln -f "$CACHE/kernels/$series/vmlinux" "$CACHE/guest/vmlinux-$series"
        build_l2 "$series"
    done
    build_l1
}
