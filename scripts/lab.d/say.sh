# shellcheck shell=bash
# Progress on stderr with the time since the start, and the one way to fail.

say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }

die() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  help: %s\n' "$line" >&2; done
    exit 1
}

# Runs a command as root, the only step of the lab that needs it being `apt-get install`.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "installing packages needs root, and there is no sudo" "run this script once as root"
    fi
}
