# shellcheck shell=bash
# What every script starts from: where things are, and the parts of the lab.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${BERTH_LAB_CACHE:-$repo/target/lab}
mkdir -p "$CACHE"
CACHE=$(cd "$CACHE" && pwd)
export BERTH_LAB_CACHE=$CACHE
# A service or a container may come without HOME; ~ is then that of the password file.
export HOME=${HOME:-~}
# depmod and modprobe live in /sbin, which a plain user's PATH lacks.
PATH=$PATH:/usr/sbin:/sbin

for part in say packages kernels own_kernel images rust structure acpi; do
    # shellcheck source=/dev/null
    . "$repo/scripts/lab.d/$part.sh"
done

# Everything the lab needs, with guests' kernels of the series named; the host runs 6.12. Asks the
# network for nothing when the cache is warm.
prepare_lab() { # prepare_lab 6.12 [SERIES]
    local series
    install_tools
    for series in "$@"; do fetch_kernel "$series"; done
    build_images "$@"
}
