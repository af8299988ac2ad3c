# shellcheck shell=bash
# The cache is shared by all clones of this project on a machine. What is in it lies under a key of
# its inputs, comes there whole by a rename, and is never changed.

# locked COMMAND...: one script at a time fills the cache. Calls may nest.
locked() {
    if [ -n "${cache_lock:-}" ]; then
        "$@"
        return
    fi
    exec {cache_lock}>"$CACHE/lock"
    if ! flock -n "$cache_lock"; then
        say "waiting for another script that fills $CACHE"
        flock "$cache_lock"
    fi
    "$@"
    exec {cache_lock}>&-
    unset cache_lock
}

# key_of: the key of what comes on standard input.
key_of() { sha256sum | head -c 16; }

# The text of functions without their comments: what they make changes with it.
recipe() { declare -f "$@"; }

# Marks an entry as used, and removes what nobody has used for a month.
used() { # used ENTRY
    touch "$1"
    find "${1%/*}" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +
}
