# SPDX-License-Identifier: GPL-2.0-only
# What the test scripts on the host share. Source it; then the tools are in the path under their
# installed names, $tmp is an empty directory, and at the end everything in it is unmounted and removed.
# shellcheck shell=bash

set -euo pipefail

# In a mount namespace of our own: others that are made on this machine meanwhile would keep copies
# of our mounts, and with them our images, in use.
if [[ -z ${AEGIS_NAMESPACE:-} && $(id -u) == 0 ]] && unshare --mount true 2>/dev/null; then
	AEGIS_NAMESPACE=own exec unshare --mount --propagation private "$0" "$@"
fi

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
: "${AEGIS_BIN:?set it to the directory with the built programs}"
if [[ -n ${AEGIS_TMP:-} ]]; then
	tmp=$(mktemp -d "$AEGIS_TMP/test.XXXXXX")
else
	tmp=$(mktemp -d)
fi

# Cargo cannot name a program with a dot.
mkdir "$tmp/bin"
for name in mkfs.aegisfs fsck.aegisfs aegisfs aegisfs-fuse; do
	for built in "$AEGIS_BIN/$name" "$AEGIS_BIN/${name/./-}"; do
		if [[ -x $built ]]; then
			ln -sf "$(readlink -f "$built")" "$tmp/bin/$name"
		fi
	done
done
ln -sf aegisfs-fuse "$tmp/bin/mount.fuse.aegisfs"
PATH=$tmp/bin:$PATH:/usr/sbin:/sbin
# The VM gets tests/guest as it is: no bytecode there.
export PYTHONDONTWRITEBYTECODE=1
# Repairs save what they overwrite.
export AEGISFS_UNDO_DIR=$tmp/undo

skip() {
	echo "$*"
	exit 77
}

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

cleanup() {
	local status=$?
	set +e
	local point
	cd /
	findmnt --raw --noheadings --output TARGET | grep -F "$tmp/" | tac | while read -r point; do
		umount --lazy "$point"
	done
	if [[ $status != 0 && $status != 77 && -n ${AEGIS_KEEP:-} ]]; then
		echo "kept: $tmp" >&2
	else
		# A serving process may still be writing its last checkpoint.
		rm -rf "$tmp" 2>/dev/null || { sleep 1; rm -rf "$tmp"; }
	fi
}
trap cleanup EXIT

# Fails unless the command fails, and its output matches the pattern.
refused() {
	local pattern=$1 output
	shift
	if output=$("$@" 2>&1); then
		fail "succeeded, which it must not: $*"
	fi
	grep -qE -- "$pattern" <<<"$output" || fail "$*: expected /$pattern/, got: $output"
}

# The command succeeds, and its output matches the pattern.
shows() {
	local pattern=$1 output
	shift
	output=$("$@" 2>&1) || fail "$*: exit status $?: $output"
	grep -qE -- "$pattern" <<<"$output" || fail "$*: expected /$pattern/, got: $output"
}

need_fuse() {
	[[ -c /dev/fuse && -w /dev/fuse ]] || skip "/dev/fuse is missing"
	[[ $(id -u) == 0 ]] || command -v fusermount3 >/dev/null || skip "fusermount3 is missing"
}

need() {
	local program
	for program in "$@"; do
		command -v "$program" >/dev/null || skip "$program is missing"
	done
}

# mount_volume IMAGE DIRECTORY [OPTIONS]
mount_volume() {
	mkdir -p "$2"
	aegisfs-fuse "$1" "$2" ${3:+-o "$3"}
}

# Unmounts, and waits until the serving process has let go of the image.
unmount_volume() {
	local source
	source=$(findmnt --raw --noheadings --output SOURCE "$1")
	umount "$1"
	flock --timeout 300 "$source" true || fail "$source is still in use after unmounting"
}

# Every structure and every byte of data is sound.
check_volume() {
	aegisfs inspect trees "$1" >/dev/null || fail "$2: damaged trees"
	[[ -x $tmp/bin/fsck.aegisfs ]] || return 0
	fsck.aegisfs -f -n --data "$1" >"$tmp/fsck" || fail "$2: $(cat "$tmp/fsck")"
}

# Process that serves the mount at a directory.
server_of() {
	pgrep -f -- "--serve .*-- .* $1\$"
}
