# shellcheck shell=bash
# Debian packages, through a private apt configuration: the user's sources stay as they are.
#
# Two things need suites the user may not have. QEMU's igb NIC exists since 8.0 and Debian 12
# ships 7.2, so there QEMU comes from the backports. And the lab's kernels are always Debian
# 12's 6.1 and 6.12, on any host release, so that a test means the same everywhere.

# What the lab runs, as command:package pairs; only what is missing gets installed.
LAB_COMMANDS=(cpio:cpio depmod:kmod xz:xz-utils zstd:zstd cc:gcc)

# apt-get or apt-cache with the private lists and cache.
lab_apt() {
    local tool=$1
    shift
    "$tool" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$CACHE/apt/sources" \
        -o Dir::State::Lists="$CACHE/apt/lists" -o Dir::Cache="$CACHE/apt/cache" \
        -o APT::Sandbox::User= -o Acquire::Languages=none "$@"
}

# The archive the user's own apt uses for a suite; nothing when there is none.
# shellcheck disable=SC2016 # apt expands these, not the shell
site_of() { apt-get indextargets --format '$(RELEASE) $(SITE)' | awk -v s="$1" '$1 == s { print $2; exit }'; }

apt_source() { # apt_source SITE SUITES
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: amd64\nSigned-By: %s\n\n' \
        "$1" "$2" /usr/share/keyrings/debian-archive-keyring.gpg
}

# Writes the private configuration and fetches its lists, once per run and only when called.
apt_ready() {
    [ -z "${apt_is_ready:-}" ] || return 0
    command -v apt-get >/dev/null || die "the lab is built from Debian packages and this machine has no apt-get"
    [ "$(dpkg --print-architecture)" = amd64 ] || die "the lab needs an amd64 Debian"
    local codename mirror security suites
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=${BERTH_DEBIAN_MIRROR:-$(site_of "$codename")}
    mirror=${mirror:-$(site_of stable)}
    [ -n "$mirror" ] || die "no Debian archive found in this machine's apt sources" \
        "set BERTH_DEBIAN_MIRROR to the URL of one"
    security=$(site_of "$codename-security")
    suites="$codename $codename-updates bookworm bookworm-updates bookworm-backports"
    suites=$(tr ' ' '\n' <<<"$suites" | awk '!seen[$0]++' | paste -sd' ')

    mkdir -p "$CACHE/apt/sources" "$CACHE/apt/lists/partial" "$CACHE/apt/cache/archives/partial"
    {
        apt_source "$mirror" "$suites"
        if [ -n "$security" ]; then apt_source "$security" "$codename-security"; fi
    } >"$CACHE/apt/sources/lab.sources"
    say "fetching package lists ($suites) from $mirror"
    lab_apt apt-get -q update >"$CACHE/apt/update.log" 2>&1 ||
        die "apt-get update failed: $(tail -n 3 "$CACHE/apt/update.log")"
    apt_is_ready=1
}

# apt_install WHY PACKAGE...
apt_install() {
    local why=$1 codename
    shift
    apt_ready
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    local target=()
    if [ "$codename" = bookworm ]; then target=(-t bookworm-backports); fi
    say "installing $* ($why)"
    as_root env DEBIAN_FRONTEND=noninteractive "$(command -v bash)" -c \
        "$(declare -f lab_apt); CACHE=$(printf %q "$CACHE"); lab_apt \"\$@\"" lab_apt \
        apt-get install -qy --no-install-recommends "${target[@]}" "$@" >"$CACHE/apt/install.log" 2>&1 ||
        die "apt-get install $* failed: $(tail -n 5 "$CACHE/apt/install.log")"
}

qemu_major() { qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9]*\).*/\1/p'; }

install_tools() {
    local pair missing=()
    for pair in "${LAB_COMMANDS[@]}"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    if [ "${#missing[@]}" != 0 ]; then apt_install "the lab's images are made with them" "${missing[@]}"; fi
    if [ "$(qemu_major || true)" -ge 8 ] 2>/dev/null; then return; fi
    apt_install "emulates the lab host; 8.0 or newer for its igb NIC" qemu-system-x86
    [ "$(qemu_major)" -ge 8 ] || die "QEMU is older than 8.0 even from $(. /etc/os-release && echo "$PRETTY_NAME")"
}

# fetch_deb PACKAGE FOLDER: downloads the package and unpacks it, without installing it.
fetch_deb() {
    apt_ready
    say "fetching $1"
    mkdir -p "$CACHE/apt/debs" "$2"
    (cd "$CACHE/apt/debs" && rm -f "${1}"_*.deb && lab_apt apt-get -q download "$1" >download.log 2>&1) ||
        die "cannot download $1: $(tail -n 2 "$CACHE/apt/debs/download.log")"
    dpkg-deb -x "$CACHE/apt/debs/$1"_*.deb "$2"
    rm -f "$CACHE/apt/debs/$1"_*.deb
}
