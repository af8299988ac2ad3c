# shellcheck shell=bash
# The lab's own kernel, for guests and for hosts with what Debian's kernels leave out:
# own-kernels/KEY/{root,release,vmlinux}, built from Debian's source package with
# resources/lab/kernel.config. Needs 1.2 GB while it builds, and 9 minutes of one CPU.

OWN_KERNEL_SOURCE=linux-source-6.12

# True for a profile of resources/lab whose L1 runs it.
wants_own_kernel() { grep -qs '"kernel": "lab"' "${repo:?}/resources/lab/$1.json"; }

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

options() { grep '^CONFIG' "$1"; } # options CONFIG

# Again only when an option or a step of the build changed. Sets OWN_KERNEL_HOME.
build_own_kernel() {
    local config=${repo:?}/resources/lab/kernel.config key
    key=$({ options "$config"; recipe compile_kernel make_kernel; echo "$OWN_KERNEL_SOURCE"; } | key_of)
    OWN_KERNEL_HOME=$CACHE/own-kernels/$key
    if [ ! -s "$OWN_KERNEL_HOME/vmlinux" ]; then
        install_kernel_tools
        phase "the lab's own kernel"
        compile_kernel "$config" "$OWN_KERNEL_HOME"
        phase "images"
    fi
    used "$OWN_KERNEL_HOME"
}

compile_kernel() { # compile_kernel CONFIG HOME
    local home=$2.partial tree=$CACHE/work/linux log=$LOGS/kernel.log lost
    rm -rf "$home" "$tree" "$tree.deb"
    mkdir -p "$home" "$tree"
    : >"$log"
    fetch_deb "$OWN_KERNEL_SOURCE" "$tree.deb"
    say "unpacking $OWN_KERNEL_SOURCE"
    tar -xf "$tree.deb/usr/src/$OWN_KERNEL_SOURCE.tar.xz" -C "$tree" --strip-components=1 \
        --exclude="$OWN_KERNEL_SOURCE/Documentation/*/*" \
        --exclude="$OWN_KERNEL_SOURCE/drivers/gpu/drm/*.[ch]" --exclude="$OWN_KERNEL_SOURCE/sound/*.[ch]"
    say "building a kernel from it with ${1#"$repo"/} ($log)"
    make_kernel allnoconfig KCONFIG_ALLCONFIG="$1"
    # Options that others need and the config forgot fall out of it without a word.
    lost=$(options "$1" | grep -vxFf "$tree/.config") &&
        die "${1#"$repo"/} asks for what other options rule out: $lost"
    make_kernel -j "$(nproc)" vmlinux modules
    make_kernel modules_install INSTALL_MOD_PATH="$home/root" INSTALL_MOD_STRIP=1 DEPMOD=true
    make -s -C "$tree" kernelrelease >"$home/release"
    depmod -b "$home/root" "$(cat "$home/release")"
    mv "$tree/vmlinux" "$home/vmlinux"
    rm -rf "$tree" "$tree.deb" "$2"
    mv "$home" "$2"
}

make_kernel() {
    make -s -C "$tree" "$@" >>"$log" 2>&1 ||
        die "make $1 failed: $(tail -n 3 "$log")"
}
