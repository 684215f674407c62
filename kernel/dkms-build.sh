#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Builds the module for a Debian kernel: dkms-build.sh RELEASE HEADERS
#
# The headers package has no Rust metadata, so a module cannot be built against it. This unpacks
# the kernel's source package, gives it the kernel's configuration, symbol list and version, and
# prepares it with the same compilers: then all exported symbols match. The prepared tree stays
# in /var/cache/aegisfs (about 350 MB) until another build of the same kernel's package needs it.
set -eu

release=$1
headers=$2
cache=${AEGISFS_DKMS_CACHE:-/var/cache/aegisfs}
sources=${AEGISFS_KERNEL_SOURCES:-/usr/src}

fail() {
    echo "aegisfs: $*" >&2
    exit 1
}

for file in .config Module.symvers; do
    [ -f "$headers/$file" ] ||
        fail "$headers/$file is missing: install linux-headers-$release"
done
grep -qx 'CONFIG_RUST=y' "$headers/.config" ||
    fail "kernel $release is built without Rust support: no Rust module can load on it"

# The compiler's name as the kernel's configuration records it: x86_64-linux-gnu-gcc-14.
cc=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ "]*\).*/\1/p' "$headers/.config")
command -v "$cc" > /dev/null ||
    fail "the compiler $cc, which built kernel $release, is not installed"
hostcc=gcc-${cc##*-}
command -v "$hostcc" > /dev/null || hostcc=$cc
for program in rustc bindgen flex bison bc pahole; do
    command -v "$program" > /dev/null ||
        fail "'$program' is not installed; building needs: rustc rust-src bindgen flex bison bc" \
            "pahole libelf-dev libssl-dev openssl python3"
done

# 7.3.4+deb13-cloud-amd64: source package linux-source-7.3, of exactly version 7.3.4.
version=$(echo "$release" | sed 's/[^0-9.].*//')
series=$(echo "$version" | cut -d. -f1-2)
archive=$sources/linux-source-$series.tar.xz
[ -f "$archive" ] ||
    fail "$archive is missing: install linux-source-$series from where the kernel came from"

tree=$cache/linux-$release
stamp=$tree/.aegisfs-prepared
# What a prepared tree depends on: another configuration or another compiler needs another tree.
key=$({
    cat "$headers/.config" "$headers/Module.symvers"
    "$cc" --version
    rustc --version
    bindgen --version
} | sha256sum)

if [ "$(cat "$stamp" 2> /dev/null)" != "$key" ]; then
    echo "preparing the source of kernel $release (a few minutes)"
    mkdir -p "$cache"
    rm -rf "$tree"
    mkdir "$tree"
    tar -xf "$archive" -C "$tree" --strip-components=1
    found=$(make -s --no-print-directory -C "$tree" kernelversion)
    [ "$found" = "$version" ] ||
        fail "$archive is version $found, the kernel is $version:" \
            "install the source package of the same version"
    cp "$headers/.config" "$headers/Module.symvers" "$tree"
    echo "${release#"$version"}" > "$tree/localversion"
    make -C "$tree" "-j$(nproc)" CC="$cc" HOSTCC="$hostcc" olddefconfig modules_prepare
    cmp -s "$headers/.config" "$tree/.config" ||
        fail "the configuration changed while the tree was prepared, so the compilers differ" \
            "from those that built the kernel; compare $headers/.config with $tree/.config"
    # Most of the source is not needed any more.
    for directory in Documentation drivers fs net samples sound tools/perf tools/testing; do
        rm -rf "${tree:?}/$directory"
    done
    find "$tree/arch" -mindepth 1 -maxdepth 1 -type d ! -name x86 -exec rm -rf {} +
    echo "$key" > "$stamp"
fi

make -C "$tree" "-j$(nproc)" CC="$cc" HOSTCC="$hostcc" M="$PWD" modules
