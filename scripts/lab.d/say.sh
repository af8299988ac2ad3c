# shellcheck shell=bash
# Progress on stderr with the time since the start, and the one way to fail.

say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }

# phase NAME: from here on the time is that of NAME; report_phases says how long each took.
phase() {
    phase_ends
    phase_name=$1 phase_start=$SECONDS
    say "$1"
}

phase_ends() {
    [ -z "${phase_name:-}" ] || phases+=("$((SECONDS - phase_start)) $phase_name")
    phase_name=
}

report_phases() {
    phase_ends
    local line
    printf 'time by phase, in seconds\n' >&2
    for line in "${phases[@]}"; do printf '%6d  %s\n' "${line%% *}" "${line#* }" >&2; done
    printf '%6d  all\n' "$SECONDS" >&2
}

die() {
    died=1
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  help: %s\n' "$line" >&2; done
    exit 1
}

# Whatever else ends a script early ends it with a word too.
trap 'stopped "$?" "$BASH_COMMAND"' EXIT
stopped() { [ "$1" = 0 ] || [ -n "${died:-}" ] || say "stopped with status $1 by: $2"; }

# Ends with a status that was told of already.
leave() {
    died=1
    exit "$1"
}

may_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

# Runs a command as root; `apt-get install` is the one thing here that needs it.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif may_be_root; then
        sudo "$@"
    else
        die "installing packages needs root, and there is no sudo" "run this script once as root"
    fi
}
