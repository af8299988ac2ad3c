# shellcheck shell=bash
# Debian packages, through a private apt configuration: the user's sources stay as they are.
#
# It has two sets of sources. `tools` is this machine's own release, to install from; on Debian 12
# with its backports, because QEMU's igb NIC exists since 8.0 and Debian 12 ships 7.2. `kernels` is
# Debian 12 on any machine, to take files from: the lab always has its 6.1 and 6.12, so that a
# test means the same everywhere.

# What the lab runs, as command:package pairs; only what is missing gets installed.
LAB_COMMANDS=(cpio:cpio depmod:kmod xz:xz-utils zstd:zstd bzip2:bzip2 iasl:acpica-tools)

# apt-get or apt-cache on a set of sources. Lists are shared, which needs no cleaning up: what is
# not in the set is not looked at. `kernels` knows of no installed package: what this machine has
# is of no concern to it, and apt would fetch the installed version.
lab_apt() { # lab_apt SET TOOL ARGUMENT...
    local folder=$CACHE/apt/$1 tool=$2 status=()
    [ "$1" != kernels ] || status=(-o Dir::State::status=/dev/null)
    shift 2
    "$tool" "${status[@]}" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$folder/sources" \
        -o Dir::State::Lists="$CACHE/apt/lists" -o APT::Get::List-Cleanup=false \
        -o Dir::Cache="$folder/cache" -o APT::Sandbox::User= -o Acquire::Languages=none "$@"
}

codename() { (. /etc/os-release && echo "${VERSION_CODENAME:-}"); }

# The archive the user's own apt has for a suite; nothing when there is none. What apt would fetch
# tells it before any list was fetched, as in a fresh container.
site_of() {
    apt-get --print-uris update | awk -v suite="/dists/$1/InRelease'" -F' ' '
        !found && substr($1, length($1) - length(suite) + 1) == suite {
            print substr($1, 2, length($1) - length(suite) - 1)
            found = 1
        }'
}

apt_source() { # apt_source SITE SUITES
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: amd64\nSigned-By: %s\n\n' \
        "$1" "$2" /usr/share/keyrings/debian-archive-keyring.gpg
}

# Writes a set of sources and fetches its lists, once per run and only when called.
apt_ready() { locked fetch_lists "$1"; } # apt_ready SET

fetch_lists() { # fetch_lists SET
    case " ${apt_is_ready:-} " in *" $1 "*) return 0 ;; esac
    command -v apt-get >/dev/null || die "the lab is built from Debian packages and this machine has no apt-get"
    [ "$(dpkg --print-architecture)" = amd64 ] || die "the lab needs an amd64 Debian"
    local release mirror security='' suites folder=$CACHE/apt/$1
    release=$(codename)
    mirror=${BERTH_DEBIAN_MIRROR:-$(site_of "$release")}
    mirror=${mirror:-$(site_of stable)}
    [ -n "$mirror" ] || die "no Debian archive found in this machine's apt sources" \
        "set BERTH_DEBIAN_MIRROR to the URL of one"
    case $1-$release in
        kernels-*) suites="bookworm bookworm-backports" ;;
        *-bookworm) suites="bookworm bookworm-updates bookworm-backports" ;;
        *) suites="$release $release-updates" ;;
    esac
    if [ "$1" = tools ]; then security=$(site_of "$release-security"); fi

    mkdir -p "$folder/sources" "$CACHE/apt/lists/partial" "$folder/cache/archives/partial"
    {
        apt_source "$mirror" "$suites"
        if [ -n "$security" ]; then apt_source "$security" "$release-security"; fi
    } >"$folder/sources/lab.sources"
    say "fetching package lists ($suites${security:+ $release-security}) from $mirror"
    lab_apt "$1" apt-get -q -o APT::Update::Error-Mode=any update >"$folder/update.log" 2>&1 ||
        die "apt-get update failed: $(tail -n 3 "$folder/update.log")"
    apt_is_ready="${apt_is_ready:-} $1"
}

# The version of a package that apt-get would install, without Debian's revision; nothing when there
# is none.
candidate() { # candidate PACKAGE
    LC_ALL=C lab_apt tools apt-cache policy "$1" |
        sed -n 's/^  Candidate: \([0-9:]*:\)\{0,1\}\([0-9][0-9.]*\).*/\2/p'
}

# apt_install WHY PACKAGE...: never at the price of a package that is there.
apt_install() {
    local why=$1
    shift
    apt_ready tools
    say "installing $* ($why)"
    try_apt_install "$@" ||
        die "apt-get install $* failed: $(tail -n 5 "$CACHE/apt/install.log")"
}

try_apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive "$(command -v bash)" -c \
        "$(declare -f lab_apt); CACHE=$(printf %q "$CACHE"); lab_apt tools \"\$@\"" lab_apt \
        apt-get install -qy --no-remove --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" \
        >"$CACHE/apt/install.log" 2>&1
}

qemu_major() { qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9]*\).*/\1/p'; }

qemu_is_new_enough() { [ "$(qemu_major || true)" -ge 8 ] 2>/dev/null; }

install_tools() {
    local pair missing=()
    for pair in "${LAB_COMMANDS[@]}"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    if [ "${#missing[@]}" != 0 ]; then apt_install "the lab's images and checks" "${missing[@]}"; fi
    if qemu_is_new_enough; then return; fi
    local from=()
    if [ "$(codename)" = bookworm ]; then from=(-t bookworm-backports); fi
    apt_install "emulates the lab host; 8.0 or newer for its igb NIC" qemu-system-x86 "${from[@]}"
    qemu_is_new_enough ||
        die "QEMU is older than 8.0 even from $(. /etc/os-release && echo "$PRETTY_NAME")"
}

# fetch_deb PACKAGE FOLDER: downloads a package of Debian 12 and unpacks it, without installing it.
fetch_deb() {
    apt_ready kernels
    say "fetching $1"
    mkdir -p "$CACHE/apt/debs" "$2"
    (cd "$CACHE/apt/debs" && rm -f "${1}"_*.deb && lab_apt kernels apt-get -q download "$1" >download.log 2>&1) ||
        die "cannot download $1: $(tail -n 2 "$CACHE/apt/debs/download.log")"
    dpkg-deb -x "$CACHE/apt/debs/$1"_*.deb "$2"
    rm -f "$CACHE/apt/debs/$1"_*.deb
}
