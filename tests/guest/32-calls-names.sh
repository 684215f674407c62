#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Names in all forms; overlayfs on top.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 300
. "$(dirname "$0")/lib.sh"
need python3

fresh
"$(dirname "$0")/lib_calls.py" "$MNT" names

# ---- as lower and upper layer of overlayfs
cd "$MNT"
mkdir lower upper work merged
mkdir -p lower/dir/sub
echo lower > lower/file
echo lower > lower/dir/file
modprobe overlay
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=on,metacopy=on overlay merged
echo upper >> merged/file
same "copied up" "lower upper" "$(tr '\n' ' ' < merged/file | sed 's/ $//')"
same "below" lower "$(cat lower/file)"
rm merged/dir/file
[ -c upper/dir/file ] || die "no whiteout"
mv merged/dir merged/moved
[ ! -e merged/dir ] || die "the directory is still there"
same "moved" sub "$(ls merged/moved)"
rm -r merged/moved
mkdir merged/dir
same "opaque" "" "$(ls merged/dir)"
chmod 700 merged/file
touch -d 2001-01-01 merged/file
exec 7< merged/file
rm merged/file
same "open and deleted" lower "$(head -1 <&7)"
exec 7<&-
umount merged
cd /
checked
