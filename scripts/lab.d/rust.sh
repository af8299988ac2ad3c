# shellcheck shell=bash
# The Rust toolchain and the one special build: a berth for L1.

RUST_TARGET=x86_64-unknown-linux-gnu

# True when the cargo in PATH is as new as Cargo.toml asks.
cargo_is_new_enough() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "${repo:?}/Cargo.toml")
    found=$(cd "$repo" && cargo --version 2>/dev/null | cut -d' ' -f2)
    [ -n "$found" ] && [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

need_cargo() {
    if cargo_is_new_enough; then return; fi
    if ! command -v rustup >/dev/null; then
        apt_ready
        if lab_apt apt-cache policy rustup | grep -q 'Candidate: [0-9]'; then
            apt_install "brings the Rust compiler; Debian's own is too old" rustup
        else
            die "no cargo new enough for Cargo.toml's rust-version, and this Debian has no rustup package" \
                "install Rust as the Rust project describes (rustup), then run this again"
        fi
    fi
    say "installing the stable Rust toolchain with rustup"
    rustup -q toolchain install stable --profile default
    export RUSTUP_TOOLCHAIN=stable
    cargo_is_new_enough || die "even rustup's stable toolchain is older than Cargo.toml's rust-version"
}

# L1 has no libraries, so berth is linked statically; RUSTFLAGS without --target would hit build
# scripts and proc macros too, which cannot be static. Sets BERTH_BIN.
build_static_berth() {
    say "building berth (release, static)"
    (cd "$repo" && RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
        cargo build --release --target "$RUST_TARGET" -p berth)
    export BERTH_BIN=${CARGO_TARGET_DIR:-$repo/target}/$RUST_TARGET/release/berth
}
