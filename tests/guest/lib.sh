# SPDX-License-Identifier: GPL-2.0-only
# Helpers of the guest tests: source it after the header comments.
set -euo pipefail

MNT=/mnt/aegis
DEV=${AEGIS_DISK1:-}

die() {
	echo "FAILED: $*" >&2
	exit 1
}

skip() {
	echo "$*"
	exit 77
}

need() {
	local tool
	for tool; do
		command -v "$tool" > /dev/null || skip "$tool is not installed"
	done
}

# sized WHAT NORMAL SMALL: how much; a kernel that checks itself takes up to thirty times as long for it
sized() {
	case $(uname -r) in
	*debug*)
		echo "$1: $3 instead of $2, on the debug kernel" >&2
		echo "$3"
		;;
	*) echo "$2" ;;
	esac
}

# same WHAT EXPECTED ACTUAL
same() {
	[ "$2" = "$3" ] || die "$1: expected '$2', got '$3'"
}

# refused ERRNO-TEXT COMMAND...: the command fails with that message
refused() {
	local text=$1 output
	shift
	if output=$("$@" 2>&1); then
		die "worked, but should not: $*"
	fi
	[[ $output == *"$text"* ]] || die "'$*' said '$output', not '$text'"
}

# mkfs [OPTION...]: a new volume on the first disk
mkfs() {
	[ -n "$DEV" ] || die "no disk"
	mkfs.aegisfs -q -f "$@" "$DEV"
}

# mount_volume [OPTIONS]
mount_volume() {
	mkdir -p "$MNT"
	mount -t aegisfs ${1:+-o "$1"} "$DEV" "$MNT"
}

unmount_volume() {
	umount "$MNT"
}

# fresh [MKFS-OPTION...]: a new volume, mounted
fresh() {
	modprobe aegisfs
	mkfs "$@"
	mount_volume
}

# remount_cold [OPTIONS]: unmounts and mounts again: nothing is cached any more
remount_cold() {
	unmount_volume
	mount_volume "${1:-}"
}

drop_caches() {
	sync
	# 4: no log line for each time.
	echo 4 > /proc/sys/vm/drop_caches
	echo 3 > /proc/sys/vm/drop_caches
}

# checked: unmounts, and has fsck find nothing
checked() {
	unmount_volume
	if command -v fsck.aegisfs > /dev/null; then
		fsck.aegisfs -n -f "$DEV" || die "fsck found something"
	fi
}

digest() {
	sha256sum "$@" | cut -d' ' -f1
}
