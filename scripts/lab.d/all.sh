# shellcheck shell=bash
# What every script starts from: where things are, and the parts of the lab.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${BERTH_LAB_CACHE:-$repo/target/lab}
mkdir -p "$CACHE"
CACHE=$(cd "$CACHE" && pwd)
export BERTH_LAB_CACHE=$CACHE
# depmod and modprobe live in /sbin, which a plain user's PATH lacks.
PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin

for part in say packages kernels images rust; do
    # shellcheck source=/dev/null
    . "$repo/scripts/lab.d/$part.sh"
done

# Everything the lab needs. Asks the network for nothing when the cache is warm.
prepare_lab() {
    install_tools
    fetch_kernel 6.12
    fetch_kernel 6.1
    build_images
}
