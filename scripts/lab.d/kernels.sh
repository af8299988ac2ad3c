# shellcheck shell=bash
# Debian kernels in the cache: kernels/SERIES/{root,release,vmlinuz,vmlinux}.

little_endian() { # little_endian FILE OFFSET BYTES
    od -An -v -tu"$3" -j "$2" -N "$3" "$1" | tr -d ' '
}

# Cuts the ELF kernel out of a bzImage. A VMM that loads the ELF spares the guest its own
# decompression, which an emulated CPU does slowly. Offsets: the setup header in the kernel's
# Documentation/arch/x86/boot.rst.
extract_vmlinux() { # extract_vmlinux BZIMAGE VMLINUX
    local sectors offset length magic
    sectors=$(little_endian "$1" $((0x1f1)) 1)
    offset=$(little_endian "$1" $((0x248)) 4)
    length=$(little_endian "$1" $((0x24c)) 4)
    offset=$((offset + (sectors + 1) * 512))
    magic=$(od -An -v -tx1 -j "$offset" -N 4 "$1" | tr -d ' ')
    local unpack
    case $magic in
        28b52ffd) unpack="zstd -dcq" ;;
        fd377a58) unpack="xz -dcq" ;;
        1f8b*) unpack="gzip -dcq" ;;
        *) die "unknown compression $magic in $1" ;;
    esac
    # The last four bytes of the payload are its unpacked size, not part of the stream.
    head -c $((offset + length - 4)) "$1" | tail -c $((length - 4)) | $unpack >"$2.partial"
    mv "$2.partial" "$2"
}

# The package behind the metapackage for a kernel series, newest first.
kernel_package() {
    lab_apt kernels apt-cache show linux-image-amd64 | awk -v series="$1." '
        /^Version:/ { wanted = index($2, series) == 1 }
        /^Depends:/ && wanted && !found++ { print $2 }'
}

fetch_kernel() { # fetch_kernel SERIES
    local home=$CACHE/kernels/$1 package image
    # Made last.
    if [ -s "$home/vmlinux" ]; then return; fi
    apt_ready kernels
    package=$(kernel_package "$1")
    [ -n "$package" ] || die "no $1 kernel among the packages of bookworm and its backports"
    rm -rf "$home"
    fetch_deb "$package" "$home/root"
    image=$(echo "$home"/root/boot/vmlinuz-*)
    echo "${image##*/vmlinuz-}" >"$home/release"
    # depmod on the whole tree, so that modprobe can say what a module needs.
    depmod -b "$home/root" "$(cat "$home/release")"
    ln -f "$image" "$home/vmlinuz"
    extract_vmlinux "$image" "$home/vmlinux"
}

# copy_modules KERNEL_HOME ROOT MODULE...: the modules and what they need, decompressed because
# busybox's modprobe reads no xz, with a fresh modules.dep.
copy_modules() {
    local home=$1 root=$2 release path
    release=$(cat "$home/release")
    shift 2
    mkdir -p "$root/lib/modules/$release"
    cp "$home/root/lib/modules/$release"/modules.{builtin,order,builtin.modinfo} "$root/lib/modules/$release/"
    while read -r path; do
        local plain=${path#"$home/root"}
        plain=$root${plain%.xz}
        mkdir -p "${plain%/*}"
        case $path in
            *.xz) xz -dc "$path" >"$plain" ;;
            *) cp "$path" "$plain" ;;
        esac
    done < <(modprobe -d "$home/root" -S "$release" -a --show-depends "$@" | awk '$1 == "insmod" { print $2 }' | sort -u)
    depmod -b "$root" "$release"
}
