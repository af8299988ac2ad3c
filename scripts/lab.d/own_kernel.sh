# shellcheck shell=bash
# The lab's own kernel, with what Debian's kernels leave out: kernels/NAME/{root,release,vmlinux},
# built from Debian's source package with resources/lab/NAME.config. Needs 1.2 GB while it builds,
# and 9 minutes of one CPU.

OWN_KERNEL=iommufd
OWN_KERNEL_SOURCE=linux-source-6.12
# The rest of what L1 needs is built in.
OWN_KERNEL_MODULES=(kvm-amd)

# The kernel and its L1, for the hosts that run it; after prepare_lab.
prepare_own_kernel() {
    build_own_kernel
    ln -f "$CACHE/kernels/$OWN_KERNEL/vmlinux" "$CACHE/guest/vmlinux-$OWN_KERNEL"
    build_l1 "$OWN_KERNEL" "${OWN_KERNEL_MODULES[@]}"
}

# True for a profile of resources/lab whose L1 runs it.
wants_own_kernel() { grep -qs "\"kernel\": \"$OWN_KERNEL\"" "${repo:?}/resources/lab/$1.json"; }

# Only for who builds it, as command:package pairs.
KERNEL_COMMANDS=(make:make gcc:gcc bc:bc flex:flex bison:bison)

install_kernel_tools() {
    local pair missing=()
    for pair in "${KERNEL_COMMANDS[@]}"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    # For the programs that build it; objtool among them reads and writes ELF files.
    has_header stdio.h || missing+=(libc6-dev)
    has_header gelf.h || missing+=(libelf-dev)
    if [ "${#missing[@]}" != 0 ]; then apt_install "build the lab's own kernel" "${missing[@]}"; fi
}

has_header() { echo "#include <$1>" | cc -E - >/dev/null 2>&1; }

# Again only when the config or this file changed.
build_own_kernel() {
    local home=$CACHE/kernels/$OWN_KERNEL config=${repo:?}/resources/lab/$OWN_KERNEL.config
    local inputs tree=$CACHE/work/linux lost
    inputs=$(cat "$config" "$repo/scripts/lab.d/own_kernel.sh" | sha256sum)
    if [ -s "$home/vmlinux" ] && [ "$(cat "$home/inputs" 2>/dev/null)" = "$inputs" ]; then return; fi
    install_kernel_tools
    rm -rf "$home" "$tree" "$tree.deb"
    mkdir -p "$home" "$tree"
    fetch_deb "$OWN_KERNEL_SOURCE" "$tree.deb"
    say "unpacking $OWN_KERNEL_SOURCE"
    tar -xf "$tree.deb/usr/src/$OWN_KERNEL_SOURCE.tar.xz" -C "$tree" --strip-components=1 \
        --exclude="$OWN_KERNEL_SOURCE/Documentation/*/*" \
        --exclude="$OWN_KERNEL_SOURCE/drivers/gpu/drm/*.[ch]" --exclude="$OWN_KERNEL_SOURCE/sound/*.[ch]"
    say "building a kernel from it with ${config#"$repo"/} ($home/build.log)"
    make_kernel allnoconfig KCONFIG_ALLCONFIG="$config"
    # Options that others need and the config forgot fall out of it without a word.
    lost=$(grep '^CONFIG' "$config" | grep -vxFf "$tree/.config") &&
        die "${config#"$repo"/} asks for what other options rule out: $lost"
    make_kernel -j "$(nproc)" vmlinux modules
    make_kernel modules_install INSTALL_MOD_PATH="$home/root" INSTALL_MOD_STRIP=1 DEPMOD=true
    make -s -C "$tree" kernelrelease >"$home/release"
    depmod -b "$home/root" "$(cat "$home/release")"
    mv "$tree/vmlinux" "$home/vmlinux"
    rm -f "$CACHE/guest/l1-$OWN_KERNEL.cpio"
    echo "$inputs" >"$home/inputs"
    rm -rf "$tree" "$tree.deb"
}

make_kernel() {
    make -s -C "$tree" "$@" >>"$home/build.log" 2>&1 ||
        die "make $1 failed: $(tail -n 3 "$home/build.log")"
}
