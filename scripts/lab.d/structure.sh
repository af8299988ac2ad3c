# shellcheck shell=bash
# Rules of the source tree that no compiler knows. Each function prints every breach and fails.

# One version of each rust-vmm crate: what they wrap (descriptors, ioctl numbers, guest memory)
# exists once, and types of two versions do not fit each other.
RUST_VMM='^((kvm|vfio|vm|virtio|iommufd)-[a-z-]+|vmm-sys-util|linux-loader|event-manager|seccompiler|acpi_tables)$'
MAX_LINES=500

breach() { printf 'error: %s\n' "$*" >&2; }

tree() { (cd "${repo:?}" && cargo tree --locked --workspace --prefix none "$@"); }

check_versions() {
    local twice name version
    twice=$(tree --duplicates --depth 0 --format '{p}') || return
    # Also in this list: one version that is built twice, with different features.
    twice=$(awk -v names="$RUST_VMM" '$1 ~ names { print $1, $2 }' <<<"$twice" | sort -u |
        awk '{ count[$1]++; line[NR] = $0; name[NR] = $1 }
             END { for (i = 1; i <= NR; i++) if (count[name[i]] > 1) print line[i] }')
    [ -n "$twice" ] || return 0
    while read -r name version; do
        breach "$name has more than one version here, and a rust-vmm crate may have one; ${version#v} is needed by:"
        tree --invert "$name@${version#v}" --depth 1 | sed '1d; s/^/         /' | sort -u >&2
    done <<<"$twice"
    return 1
}

check_lengths() {
    local long file lines
    long=$(cd "${repo:?}" && find . \( -path ./target -o -path ./.git \) -prune -o -name '*.rs' -print0 |
        xargs -0 awk -v max="$MAX_LINES" '
            function report() { if (lines > max) print substr(file, 3), lines }
            FNR == 1 { report(); file = FILENAME }
            { lines = FNR }
            END { report() }') || return
    [ -n "$long" ] || return 0
    while read -r file lines; do
        breach "$file has $lines lines, and a file may have $MAX_LINES: split it by subject"
    done <<<"$long"
    return 1
}

# A library's public items are out of the compiler's sight when nobody uses them. One whose name
# stands nowhere else in the tree has no user here; whoever needs it may make it again.
check_unused() {
    local unused
    # shellcheck disable=SC2016 # what looks like a variable is awk's
    unused=$(cd "${repo:?}" && find vmm devices arch tests -name target -prune -o -name '*.rs' -print0 |
        xargs -0 awk '
            { line = $0; while (match(line, /[A-Za-z_][A-Za-z0-9_]*/)) {
                count[substr(line, RSTART, RLENGTH)]++
                line = substr(line, RSTART + RLENGTH)
            } }
            match($0, /^ *pub (const fn|unsafe fn|fn|struct|enum|trait|type|const|static) +[A-Za-z_0-9]+/) {
                name = substr($0, RSTART, RLENGTH); sub(/.* /, "", name)
                where[name] = FILENAME ":" FNR
            }
            END { for (name in where) if (count[name] == 1) print where[name], name }' | sort) || return
    [ -n "$unused" ] || return 0
    while read -r place name; do
        breach "$place: nothing uses \`$name\`, which is public"
    done <<<"$unused"
    return 1
}

# A package outside of the workspace has a lock file of its own, which nothing else keeps current.
check_lock() { # check_lock FOLDER
    (cd "${repo:?}/$1" && cargo metadata --locked --format-version 1 >/dev/null) && return
    breach "$1/Cargo.lock is behind: run cargo metadata there without --locked"
    return 1
}

# What deny.toml says of licences, versions and sources, of berth's own crates and of everything that
# is linked into it or builds it. cargo-deny says more where it is installed.
check_dependencies() {
    if command -v cargo-deny >/dev/null; then
        (cd "${repo:?}" && cargo deny --workspace check licenses bans sources)
        return
    fi
    local allowed skipped failed=0 crate
    allowed=$(awk '/^allow = \[/ { inside = 1; next } inside && /^]/ { exit } inside' "${repo:?}/deny.toml" |
        tr -d '" ,')
    skipped=$(sed -n 's/.*crate = "\([^"]*\)@.*/\1/p' "${repo:?}/deny.toml")
    while read -r crate; do
        breach "$crate: deny.toml does not allow its licence"
        failed=1
    done < <(tree --format '{p}|{l}|' | sed 's/ (\*)$//' | sort -u | awk -F'|' -v allowed="$allowed" '
        # An expression of SPDX: AND binds all parts, OR leaves the choice.
        function may(text,   parts, count, i) {
            gsub(/[()]/, "", text)
            gsub("/", " OR ", text)
            count = split(text, parts, " AND ")
            for (i = 1; i <= count; i++) if (!may_one(parts[i])) return 0
            return count > 0
        }
        function may_one(text,   parts, count, i, name) {
            count = split(text, parts, " OR ")
            for (i = 1; i <= count; i++) {
                name = parts[i]
                gsub(" ", "", name)
                if (name in good) return 1
            }
            return 0
        }
        BEGIN { n = split(allowed, names, "\n"); for (i = 1; i <= n; i++) good[names[i]] = 1 }
        NF && !may($2) { print $1 " (" $2 ")" }')
    while read -r crate; do
        breach "$crate has several versions in Cargo.lock, and no reason for that in deny.toml"
        failed=1
    done < <(sed -n 's/^name = "\(.*\)"/\1/p' "${repo:?}/Cargo.lock" | uniq -d | grep -vxF "$skipped")
    while read -r crate; do
        breach "Cargo.lock: a source that deny.toml does not allow: $crate"
        failed=1
    done < <(sed -n 's/^source = "\(.*\)"/\1/p' "${repo:?}/Cargo.lock" | sort -u |
        grep -vxF 'registry+https://github.com/rust-lang/crates.io-index')
    return "$failed"
}

# Behind each dependency in the workspace's Cargo.toml stands why it is there.
check_reasons() {
    local line failed=0
    while read -r line; do
        breach "Cargo.toml: no reason for $line"
        failed=1
    done < <(awk '/^\[/ { inside = $0 == "[workspace.dependencies]"; next }
        inside && /=/ && !/#/ && !/path = / { print $1 }' "${repo:?}/Cargo.toml")
    return "$failed"
}

# The policies that are shipped are ones to their compilers, and the unit is as closed as it is said to be.
check_policies() {
    local folder=${repo:?}/resources/host out failed=0 exposure
    out=$(mktemp -d)
    if ! { checkmodule -M -m -o "$out/berth.mod" "$folder/berth.te" &&
        semodule_package -o "$out/berth.pp" -m "$out/berth.mod" -f "$folder/berth.fc"; } >"$out/log" 2>&1; then
        breach "resources/host/berth.te: $(cat "$out/log")"
        failed=1
    fi
    if ! apparmor_parser -QKS "$folder/apparmor.profile" >/dev/null 2>"$out/log"; then
        breach "resources/host/apparmor.profile: $(cat "$out/log")"
        failed=1
    fi
    exposure=$(systemd-analyze security --offline=true "$folder/berth@.service" 2>/dev/null |
        sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
    if ! awk -v exposure="${exposure:-10}" 'BEGIN { exit !(exposure <= 1.5) }'; then
        breach "resources/host/berth@.service: systemd-analyze security says ${exposure:-nothing}, not 1.5 at most"
        failed=1
    fi
    rm -rf "$out"
    return "$failed"
}

# Threads that share an address space can make each other act: what all of them may do is what counts.
print_calls() {
    awk '
        /^  "[a-z]+": \{/ { role = $1; gsub(/[":]/, "", role) }
        (role == "control" || role == "vcpu" || role == "memory") && /"syscall":/ {
            name = $0
            sub(/.*"syscall": "/, "", name)
            sub(/".*/, "", name)
            if (!(name in seen)) { seen[name] = 1; count++; names = names " " name }
        }
        END { printf "         %d in the machine'"'"'s process:%s\n", count, names }' "${repo:?}/resources/seccomp/x86_64.json"
}

# A fenced block of README.md under `<!-- from FILE -->` is a part of that file, word for word.
check_quotes() {
    (cd "${repo:?}" && awk '
        function slurp(file,   text, line) {
            text = "\n"
            while ((getline line <file) > 0) text = text line "\n"
            close(file)
            return text
        }
        /^<!-- from .* -->$/ { file = $3; next }
        file != "" && /^```/ {
            if (!inside) { inside = 1; start = FNR; quote = "\n"; next }
            if (index(slurp(file), quote) == 0) {
                printf "error: %s:%d quotes %s, where these lines are not\n", FILENAME, start, file
                failed = 1
            }
            inside = 0
            file = ""
        }
        inside { quote = quote $0 "\n" }
        END { exit failed }' README.md >&2)
}
