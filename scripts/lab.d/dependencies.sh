# shellcheck shell=bash
# What cargo made of other people's crates, for all clones: it depends on their versions, the compiler
# and its flags, not on berth's source or on where a clone lies. dependencies/KEY has the clone's target
# folder without what is made of berth's own crates. cargo finds it fresh, or builds it again.

# A target folder that the user chose may be shared with other projects.
own_target() { [ -z "${CARGO_TARGET_DIR:-}" ]; }

dependencies_key() {
    {
        cat "${repo:?}"/Cargo.{lock,toml} "$repo"/*/fuzz/Cargo.{lock,toml} "$repo/scripts/fuzz"
        rustc -vV
        echo "${RUSTFLAGS:-}"
        recipe static_cargo copy_dependencies own_crates
    } | key_of
}

# The crates without a source: berth's own, and the programs that are built of them.
own_crates() {
    cat "${repo:?}/Cargo.lock" "$repo"/*/fuzz/Cargo.lock |
        awk '/^\[\[package/ { name = "" } /^name/ { gsub(/"/, "", $3); name = $3 }
             /^source/ { name = "" } /^$/ && name != "" { print name }' | sort -u
    (cd "$repo" && find . -path ./target -prune -o \( -path '*/fuzz_targets/*.rs' -o -path './tests/*.rs' -o -path './*/tests/*.rs' \) -print |
        sed 's|.*/||; s|\.rs$||' | sort -u)
    echo lab_tool
}

# Times stay as they are, by which cargo tells what is older than its inputs.
copy_dependencies() { # copy_dependencies FROM TO
    local crate without=()
    while read -r crate; do
        without+=(--exclude="$crate-*" --exclude="${crate//-/_}-*" --exclude="lib${crate//-/_}-*")
    done < <(own_crates)
    (cd "$1" && find . -type d -name .fingerprint -printf '%h\n') |
        while read -r profile; do
            for part in .fingerprint build deps; do
                if [ -d "$1/$profile/$part" ]; then printf '%s\0' "$profile/$part"; fi
            done
        done |
        tar -C "$1" "${without[@]}" --null --files-from=- -cf - |
        tar -C "$2" -xf -
}

# Before the first build, into a clone that has built nothing yet.
restore_dependencies() {
    local target=${repo:?}/target kept
    own_target || return 0
    kept=$CACHE/dependencies/$(dependencies_key)
    if [ -d "$kept" ] && [ ! -e "$target/debug" ] && [ ! -e "$target/$RUST_TARGET" ]; then
        say "taking built crates from $kept"
        cp -a --reflink=auto "$kept/." "$target/"
    fi
}

# After the last build.
keep_dependencies() {
    local kept
    own_target || return 0
    kept=$CACHE/dependencies/$(dependencies_key)
    if [ ! -d "$kept" ]; then
        say "keeping built crates in $kept"
        rm -rf "$kept.partial"
        mkdir -p "$kept.partial"
        copy_dependencies "${repo:?}/target" "$kept.partial"
        mv "$kept.partial" "$kept"
    fi
    used "$kept"
}
