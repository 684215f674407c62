#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
# Quota through FUSE: what is counted, limits of other users than root, a crash, fsck's recount.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3 setpriv
[[ $(id -u) == 0 ]] || skip "other users' files need root"

mnt=$tmp/mnt
chmod 755 "$tmp"
user=1234
as_user() { setpriv --reuid $user --regid $user --clear-groups "$@"; }
# used: what the report says of the user, of an image
used() {
	aegisfs quota get --json --user $user "$tmp/image" |
		python3 -c 'import json,sys; q = json.load(sys.stdin); print(q["space_used"], q["inodes_used"])'
}
# found: what the files come to
found() {
	find "$mnt" -uid $user -printf '%b\n' | awk '{ n++; s += $1 } END { print s * 512, n + 0 }'
}

mkfs.aegisfs -q "$tmp/image" 128M
refused "mount it once with usrquota" aegisfs quota report "$tmp/image"

# The first mount with an option counts what is there.
mount_volume "$tmp/image" "$mnt"
mkdir -m 777 "$mnt/dir"
as_user bash -c "head -c 5000 /dev/zero >'$mnt/dir/before'"
unmount_volume "$mnt"
mount_volume "$tmp/image" "$mnt" usrquota,grpquota,allow_other
want=$(found)
unmount_volume "$mnt"
[[ $(used) == "$want" ]] || fail "counted: $(used), files: $want"

# Limits, set on the image.
aegisfs quota set "$tmp/image" --user $user --space-hard 1M --inodes-hard 5
mount_volume "$tmp/image" "$mnt" usrquota,grpquota,allow_other
cd "$mnt/dir" || exit
for i in 1 2 3; do as_user touch $i; done
as_user dd if=/dev/urandom of=big bs=1M count=3 2>/dev/null && fail "3 MB written"
want=$(((1 << 20) - 8192))
[[ $(stat -c %s big) == "$want" ]] || fail "a write stopped at $(stat -c %s big), not at $want"
refused "Disk quota exceeded" as_user touch 4
refused "Disk quota exceeded" as_user mkdir d
refused "Disk quota exceeded" as_user ln -s x y
refused "Disk quota exceeded" as_user fallocate -l 100000 1
refused "Disk quota exceeded" as_user bash -c 'echo more > 1'
as_user dd if=/dev/urandom of=big bs=64k count=16 conv=notrunc iflag=fullblock 2>/dev/null && fail "grew"
as_user dd if=/dev/urandom of=big bs=64k count=15 conv=notrunc 2>/dev/null || fail "overwriting at the limit"
touch rootly
chown $user rootly || fail "root may exceed limits"
rm rootly
as_user truncate -s 0 big || fail "truncating at the limit"
as_user bash -c 'echo more > 1' || fail "writing below the limit"
cd / || exit

# A crash changes no count.
for i in $(seq 60); do head -c $((i * 511)) /dev/urandom >"$mnt/dir/r$i"; done
chown $user "$mnt"/dir/r?5
rm "$mnt"/dir/r?0
sync "$mnt/dir/r1"
want=$(found)
kill -9 $(server_of "$mnt")
umount -l "$mnt"
fsck.aegisfs -n -f "$tmp/image" || fail "fsck found something"
[[ $(used) == "$want" ]] || fail "after the crash: $(used), files: $want"
