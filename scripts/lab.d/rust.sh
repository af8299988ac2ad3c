# shellcheck shell=bash
# The Rust toolchain and the one special build: a berth for L1.

RUST_TARGET=x86_64-unknown-linux-gnu

rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "${repo:?}/Cargo.toml"; }

# at_least WANTED FOUND, both versions
at_least() { [ -n "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# True when the cargo in PATH is as new as Cargo.toml asks, or the one that rustup installs in the
# home folder is, which then comes first.
find_cargo() {
    local first
    for first in "" "${CARGO_HOME:-$HOME/.cargo}/bin:"; do
        if at_least "$(rust_wanted)" "$(cd "$repo" && PATH=$first$PATH cargo --version 2>/dev/null | cut -d' ' -f2)"; then
            PATH=$first$PATH
            return
        fi
    done
    return 1
}

# Compiler packages of Debian, best first: its own, and the newer one that it keeps for browsers.
DEBIAN_RUST=("cargo rustc" "cargo-web rustc-web")

# Ways to a new enough cargo; each fails when it is none here.
rust_from_debian() {
    local packages
    may_be_root || return 1
    apt_ready tools
    for packages in "${DEBIAN_RUST[@]}"; do
        if at_least "$(rust_wanted)" "$(candidate "${packages#* }")"; then
            say "installing $packages $(candidate "${packages#* }") (the Rust compiler)"
            # shellcheck disable=SC2086 # two packages
            try_apt_install $packages && find_cargo && return
            say "apt-get did not: $(grep '^E:' "$CACHE/apt/install.log" | head -n 1)"
        fi
    done
    return 1
}

rust_from_rustup() {
    if ! command -v rustup >/dev/null; then
        may_be_root && apt_ready tools && [ -n "$(candidate rustup)" ] || return 1
        say "installing rustup (fetches the Rust compiler)"
        try_apt_install rustup || return 1
    fi
    say "fetching the stable Rust toolchain with rustup"
    rustup -q toolchain install stable --profile minimal --component rustfmt --component clippy >&2 || return 1
    export RUSTUP_TOOLCHAIN=stable
    find_cargo
}

fetch_https() { curl --proto '=https' --tlsv1.2 -sSfL "$1" -o "$2"; } # fetch_https URL FILE

rust_from_the_project() {
    if ! command -v curl >/dev/null; then
        may_be_root || return 1
        apt_install "fetches the Rust project's installer" curl
    fi
    say "fetching the stable Rust toolchain with the Rust project's installer, into ${CARGO_HOME:-$HOME/.cargo}"
    local installer=$LOGS/rustup-init.sh
    fetch_https https://sh.rustup.rs "$installer" ||
        fetch_https https://static.rust-lang.org/rustup/rustup-init.sh "$installer" || return 1
    RUSTUP_INIT_SKIP_PATH_CHECK=yes sh "$installer" -qy --no-modify-path --profile minimal \
        --default-toolchain stable --component rustfmt --component clippy >&2 || return 1
    export RUSTUP_TOOLCHAIN=stable
    find_cargo
}

# A compiler, a linker with the static libraries, and certificates for cargo's downloads.
need_cargo() {
    local missing=()
    [ -e "$(cc -print-file-name=libc.a 2>/dev/null)" ] || missing+=(gcc libc6-dev)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}${CARGO_HTTP_CAINFO:-}" ] ||
        missing+=(ca-certificates)
    if [ "${#missing[@]}" != 0 ]; then apt_install "link Rust programs and fetch their parts" "${missing[@]}"; fi
    find_cargo || rust_from_debian || rust_from_rustup || rust_from_the_project ||
        die "no cargo of version $(rust_wanted) or newer is here or could be had" \
            "install Rust as https://rustup.rs describes, then run this again"
}

# `cargo fmt` and `cargo clippy`, which Debian has in packages of their own.
need_rust_lints() {
    if cargo_has fmt && cargo_has clippy; then return; fi
    case $(dpkg -S "$(command -v rustc)" 2>/dev/null) in
        rustc-web:*) apt_install "check the source" rustfmt-web rust-web-clippy ;;
        rustc:*) apt_install "check the source" rustfmt rust-clippy ;;
        *) if command -v rustup >/dev/null; then rustup -q component add rustfmt clippy >&2; fi ;;
    esac
    if cargo_has fmt && cargo_has clippy; then return; fi
    die "cargo fmt or cargo clippy is missing from the Rust installation of $(command -v cargo)" \
        "with rustup: rustup component add rustfmt clippy"
}

cargo_has() { cargo "$1" --version >/dev/null 2>&1; }

# L1 has no libraries, so berth is linked statically; RUSTFLAGS without --target would hit build
# scripts and proc macros too, which cannot be static.
static_cargo() { # static_cargo build|test ARGUMENT...
    (cd "$repo" && RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
        cargo "$1" --locked --release --target "$RUST_TARGET" "${@:2}")
}

# What scripts/demo and scripts/lab run: built as berth is, it shares all dependencies.
lab_tool() { static_cargo test -q -p berth --test lab_tool -- "$@"; }

# Sets BERTH_BIN; the probe of guests and hosts (tests/probe) comes to lie beside it.
build_static_berth() {
    say "building berth (release, static)"
    static_cargo build -p berth -p berth-probe
    export BERTH_BIN=${CARGO_TARGET_DIR:-$repo/target}/$RUST_TARGET/release/berth
}
