# Read by e2e/demo and e2e/test: checks for what both need, and installs what Debian has of it.
# shellcheck shell=bash

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# needs COMMAND PACKAGE...: installs the packages where the command is missing and this may be done.
needs() {
    local command=$1
    shift
    if command -v "$command" >/dev/null; then
        return
    fi
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "$command is missing; install it (in Debian: apt-get install $*)"
    fi
    printf '%s: installing %s\n' "${0##*/}" "$*" >&2
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >&2 ||
        fail "cannot install $*; install $command by other means"
}

# at_least VERSION WANTED: compares major.minor.
at_least() {
    local -i have_major=${1%%.*} want_major=${2%%.*}
    local have_minor=${1#*.} want_minor=${2#*.}
    ((have_major > want_major)) || { ((have_major == want_major)) && ((${have_minor%%.*} >= ${want_minor%%.*})); }
}

# fetched PACKAGE FILE WITHOUT: a file of a Debian package, unpacked to that path under where `e2e/cluster` keeps its
# binaries; WITHOUT is what to do where there is no Debian.
fetched() {
    local package=$1 file=$2 without=$3
    local folder=${COUNTERSIGN_E2E_CACHE:-target/e2e}/debian
    if [[ -e $folder/$file ]]; then
        return
    fi
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        fail "$package is missing, and this is not Debian; $without"
    fi
    printf '%s: fetching %s\n' "${0##*/}" "$package" >&2
    mkdir -p "$folder"
    local room
    room=$(mktemp -d "$folder/fetching-XXXXXX")
    # A new machine knows no packages yet; only root may ask for them.
    if ! {
        { (cd "$room" && apt-get download "$package") ||
            { [[ $(id -u) == 0 ]] && apt-get update && (cd "$room" && apt-get download "$package"); }; } &&
            dpkg-deb -x "$room/${package}"_*.deb "$room/root"
    } >&2; then
        rm -rf "$room"
        fail "cannot fetch the Debian package $package (as root: apt-get update); or $without"
    fi
    # Whole or not at all: others may run beside this. Libraries lie in a folder that is named after the machine.
    mkdir -p "$folder/${file%/*}"
    local found=$room/root/$file
    if [[ $file == usr/lib/* ]]; then
        found=("$room"/root/usr/lib/*/"${file#usr/lib/}")
    fi
    mv -f "${found[0]}" "$folder/$file"
    rm -rf "$room"
}

# Installed as a package it would start a service. One that is on the PATH already serves as well.
needs_prometheus() {
    if ! command -v prometheus >/dev/null; then
        fetched prometheus usr/bin/prometheus 'put the binary of https://prometheus.io/download on the PATH'
    fi
}

# What gives a process another time. It is preloaded by its path, so that nothing has to be installed.
needs_faketime() {
    fetched libfaketime usr/lib/faketime/libfaketimeMT.so.1 \
        "put its libfaketimeMT.so.1 into ${COUNTERSIGN_E2E_CACHE:-target/e2e}/debian/usr/lib/faketime"
}

prepare() {
    [[ $(uname -s) == Linux ]] || fail "this takes Linux, and this is $(uname -s); use a virtual machine or a container"
    if [[ ! -e /etc/ssl/certs/ca-certificates.crt && ! -e /etc/pki/tls/certs/ca-bundle.crt ]]; then
        needs update-ca-certificates ca-certificates
    fi
    needs cc gcc libc6-dev
    needs git git
    # Where their own installers put them, and a login shell would look.
    [[ -d $HOME/.cargo/bin ]] && PATH=$PATH:$HOME/.cargo/bin
    [[ -d /usr/local/go/bin ]] && PATH=$PATH:/usr/local/go/bin
    export PATH
    command -v cargo >/dev/null || fail "Rust 1.90 or newer is needed, and cargo is not on the PATH; install it from https://rustup.rs"
    local rust go
    rust=$(rustc --version) || fail "'rustc --version' fails; install Rust 1.90 or newer from https://rustup.rs"
    rust=${rust#rustc }
    at_least "${rust%% *}" 1.90 || fail "Rust 1.90 or newer is needed, this is ${rust%% *}; run 'rustup update stable'"
    command -v go >/dev/null || fail "Go 1.26 or newer is needed, and go is not on the PATH; install it from https://go.dev/dl"
    go=$(GOTOOLCHAIN=local go env GOVERSION) || fail "'go env GOVERSION' fails; install Go 1.26 or newer from https://go.dev/dl"
    at_least "${go#go}" 1.26 || fail "Go 1.26 or newer is needed, this is ${go#go}; install a newer one from https://go.dev/dl"
}
