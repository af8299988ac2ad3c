# shellcheck shell=bash
# What every script starts from: where things are, and the parts of the lab.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# A service or a container may come without HOME; ~ is then that of the password file.
export HOME=${HOME:-~}
# What takes long to fetch or to build, by its inputs, for all clones on this machine.
CACHE=${BERTH_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}
# What one run leaves behind; of this clone.
LOGS=$repo/target/lab
mkdir -p "$CACHE" "$LOGS"
CACHE=$(cd "$CACHE" && pwd)
export BERTH_LAB_CACHE=$CACHE
# depmod and modprobe live in /sbin, which a plain user's PATH lacks.
PATH=$PATH:/usr/sbin:/sbin

for part in say cache packages kernels own_kernel images rust dependencies structure acpi lab_tests; do
    # shellcheck source=/dev/null
    . "$repo/scripts/lab.d/$part.sh"
done

# Tools, kernels of guests and hosts, initramfs archives; with `own`, the lab's own kernel, too. Asks
# the network for nothing when the cache is warm.
prepare_lab() { # prepare_lab [own]
    phase "tools, kernels, images"
    locked prepare_parts "$@"
}

prepare_parts() {
    install_tools
    fetch_kernel 6.12
    fetch_kernel 6.1
    if [ "${1:-}" = own ]; then build_own_kernel; fi
    build_images
}
