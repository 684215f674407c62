#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
# File operations through FUSE, and their results after a remount.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3

mkfs.aegisfs -q "$tmp/image" 512M
mount_volume "$tmp/image" "$tmp/mnt"
python3 "$here/lib_posix.py" "$tmp/mnt" || fail "operations"

# All that they left must be there after a remount: content, attributes, holes.
manifest() {
	(cd "$tmp/mnt" && find . -xdev -printf '%p %y %m %U %G %n %s %b %T@ %C@ %l\n' | sort &&
		find . -xdev -type f -size -100M -print0 | sort -z | xargs -0 sha256sum)
}
manifest >"$tmp/before"
unmount_volume "$tmp/mnt"
mount_volume "$tmp/image" "$tmp/mnt" ro
manifest >"$tmp/after"
diff -u "$tmp/before" "$tmp/after" | head -50 || true
cmp "$tmp/before" "$tmp/after" || fail "the tree has changed by a remount"
touch "$tmp/mnt/x" 2>/dev/null && fail "a read-only mount was written to"
unmount_volume "$tmp/mnt"
check_volume "$tmp/image" "after file operations"
