#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# statx, times and their mount options, chattr, projects.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 400
. "$(dirname "$0")/lib.sh"
need python3

fresh
"$(dirname "$0")/lib_calls.py" "$MNT" attrs
looks() {
	(cd "$MNT" && find . -printf '%p %m %T@ %C@\n' | sort && lsattr -pR . 2> /dev/null | sort)
}
before=$(looks)
remount_cold
after=$(looks)
[ "$before" = "$after" ] || {
	diff <(echo "$before") <(echo "$after") || true
	die "attributes differ after a remount"
}

# ---- access times
atime() {
	stat -c %X "$1"
}
cd "$MNT"
mkdir dir
echo content > dir/file
reads() { # OPTIONS: prints which of an old and a new access time a read changes
	mount -o "remount,$1" "$MNT"
	local changed=
	touch -d '3 days ago' dir/file
	touch -a -d '2 days ago' dir/file
	local old
	old=$(atime dir/file)
	cat dir/file > /dev/null
	[ "$(atime dir/file)" = "$old" ] || changed+="old "
	touch -a -d '1 hour ago' dir/file
	# The inode is older than its access time is.
	old=$(atime dir/file)
	cat dir/file > /dev/null
	[ "$(atime dir/file)" = "$old" ] || changed+="new "
	touch -a -d '2 days ago' dir
	old=$(atime dir)
	ls dir > /dev/null
	[ "$(atime dir)" = "$old" ] || changed+="dir"
	echo "$changed" | sed 's/ $//'
}
same noatime "" "$(reads noatime)"
same strictatime "old new dir" "$(reads strictatime)"
same nodiratime "old new" "$(reads strictatime,nodiratime)"
same relatime "old new dir" "$(reads relatime,diratime)"
chattr +A dir/file
same "chattr +A" "dir" "$(reads strictatime)"
chattr -A dir/file

# ---- lazytime: times stay in memory until sync or eviction
mount -o remount,lazytime,strictatime "$MNT"
[[ $(grep " $MNT " /proc/mounts) == *lazytime* ]] || die "no lazytime"
touch -d 2001-01-01 dir/file
sync
cat dir/file > /dev/null
lazy=$(stat -c %x dir/file)
drop_caches
same "lazytime and drop_caches" "$lazy" "$(stat -c %x dir/file)"
sleep 0.1
cat dir/file > /dev/null
lazy=$(stat -c %x dir/file)
cd /
remount_cold
same "lazytime and unmount" "$lazy" "$(stat -c %x "$MNT/dir/file")"

# ---- synchronous directories and files: there after a crash, without any sync
cd "$MNT"
mkdir sync
chattr +S sync
mkdir dirsync
chattr +D dirsync
sync
echo durable > sync/file
touch dirsync/file
mv dirsync/file dirsync/moved
mkdir dirsync/sub
ln dirsync/moved dirsync/linked
setfattr -n user.a -v durable sync/file
chmod 640 sync/file
xfs_io -x -c "shutdown" . > /dev/null # Without a flush of the journal.
cd /
unmount_volume
mount_volume
cd "$MNT"
same "chattr +S" "durable durable 640" \
	"$(cat sync/file) $(getfattr --only-values -n user.a sync/file) $(stat -c %a sync/file)"
same "chattr +D" "linked moved sub" "$(ls dirsync | tr '\n' ' ' | sed 's/ $//')"
cd /
unmount_volume
mount_volume sync
mkdir "$MNT/all"
echo durable > "$MNT/all/file"
xfs_io -x -c "shutdown" "$MNT" > /dev/null
unmount_volume
mount_volume
same "mount -o sync" durable "$(cat "$MNT/all/file")"
checked
