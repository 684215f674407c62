#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# What a whole volume takes: empty, and with very many files. Not on the aged one, which is never empty.
# row: mount of 10 files
# row: unmount of 10 files
# row: mount of many files
# row: unmount after many changes
# row: unmount of many files
# row: fsck of many files
. "$(dirname "$0")/lib.sh"

[ "${AGED:-}" != 1 ] || exit 0
files=$(by_size 20000 1000000)
[ "${QUICK:-}" = 1 ] || INODES=$((files + files / 10))
check() {
	case $FS in
	aegisfs | aegisfs-fuse) fsck.aegisfs -n -f "$disk" ;;
	ext4 | fuse2fs) e2fsck -fn "$disk" ;;
	xfs) xfs_repair -n "$disk" ;;
	btrfs) btrfs check --readonly "$disk" ;;
	esac >/dev/null 2>&1
}
mount_timed() {
	drop_caches
	seconds "$1" attach "$disk"
}

fresh
aegis-bench create $WORK/few 10 1 100
detach
mount_timed "mount of 10 files"
seconds "unmount of 10 files" detach
attach "$disk"
aegis-bench create $WORK/many "$files" $((files / 500)) 100
seconds "unmount after many changes" detach
mount_timed "mount of many files"
seconds "unmount of many files" detach
drop_caches
case $FS in
ntfs-3g | bindfs) ;;
*) seconds "fsck of many files" check ;;
esac
attach "$disk"
finish
