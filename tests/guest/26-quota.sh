#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Quota: the tools of Debian, limits at every call that takes something, soft limits, exact counts.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 600
. "$(dirname "$0")/lib.sh"
need setquota repquota quota quotaon edquota xfs_io xfs_quota python3 setpriv fsck.aegisfs

USER=1234
as_user() { setpriv --reuid $USER --regid $USER --clear-groups "$@"; }
# Root without the right to exceed limits.
bound() { setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource "$@"; }
DENIED="Disk quota exceeded"

# field TYPE ID KEY: a number from the volume's own report
field() {
	aegisfs quota get --json "--$1" "$2" "$MNT" | python3 -c "import json,sys; print(json.load(sys.stdin)['$3'])"
}

# recount: usage is what the files come to
recount() {
	sync
	"$(dirname "$0")/lib_quota.py" recount "$MNT" || die "usage is not what the files come to"
}

# ---- counting begins at the first mount with an option
fresh
mkdir -m 777 "$MNT/dir"
head -c 100000 /dev/zero > "$MNT/dir/first"
refused "not counted" aegisfs quota report "$MNT"
refused "" mount -o remount,usrquota "$MNT"
unmount_volume
mount_volume usrquota,grpquota,prjquota
grep -q "^$DEV .*,usrquota,grpquota,prjquota " /proc/mounts || die "options are not shown"
recount
same "inodes of root" 3 "$(field user 0 inodes_used)"

# ---- Debian's tools
setquota -u $USER 4000 8000 5 8 "$MNT"
quota -v -u $USER | grep -qE "$DEV +0 +4000 +8000 +0 +5 +8" || die "quota does not show the limits"
repquota -v -a -u | grep -qE "^#$USER +-- +0 +4000 +8000 +0 +5 +8" || die "repquota does not show the limits"
repquota -u -g "$MNT" | grep -qE "^root +--" || die "repquota does not show root"
xfs_quota -f -x -c "report -u -b -n" "$MNT" | grep -qE "^#$USER +0 +4000 +8000" || die "xfs_quota does not show the limits"
EDITOR='sed -i s/8000/9000/' edquota -u $USER
same "limit by edquota" $((9000 * 1024)) "$(field user $USER space_hard)"
setquota -u $USER 4000 8000 5 8 "$MNT"
quotaoff -u "$MNT"
as_user bash -c "for i in 1 2 3 4 5 6 7 8 9 10; do touch $MNT/dir/off\$i; done"
rm "$MNT"/dir/off*
quotaon -u "$MNT"
[ "$(ls -A "$MNT")" = dir ] || die "quota files are listed"
refused "" rm "$MNT/aquota.user"
refused "Permission denied" as_user cat "$MNT/aquota.user"

# ---- inodes
cd "$MNT/dir"
as_user mkdir d
as_user ln -s target s
as_user mkfifo p
for i in 1 2 3 4; do as_user touch f$i; done
same "grace has begun" "+" "$(repquota -u "$MNT" | sed -nE "s/^#$USER +.(.) .*/\1/p")"
as_user touch f5
for command in "touch f6" "mkdir f6" "ln -s x f6" "mkfifo f6"; do
	refused "$DENIED" as_user $command
done
as_user ln f1 hard        # No new inode.
as_user mv f1 d/f1
bound touch rootly        # Root's own quota, which has no limit.
refused "$DENIED" bound chown $USER rootly
chown $USER rootly        # May exceed limits.
same "exceeded by root" 9 "$(field user $USER inodes_used)"
rm rootly f2 f3 f4
as_user touch f2
rm -f f2 f5 s p
recount

# ---- space: a short write, then none; overwriting is free
LIMIT=$((8000 * 1024))
as_user bash -c "dd if=/dev/zero of=big bs=1M count=20 status=none" 2> /tmp/err && die "wrote 20 MB"
grep -q "$DENIED" /tmp/err || die "$(cat /tmp/err)"
same "written up to the limit" $LIMIT "$(stat -c %s big)"
sync
same "used at the limit" $LIMIT "$(field user $USER space_used)"
as_user dd if=/dev/urandom of=big bs=1M count=7 conv=notrunc status=none
as_user dd if=/dev/urandom of=big bs=4k count=1000 conv=notrunc oflag=direct status=none
sync
same "used after overwriting" $LIMIT "$(field user $USER space_used)"
refused "$DENIED" as_user bash -c "echo more > d/small"
refused "$DENIED" as_user dd if=/dev/zero of=d/direct bs=64k count=1 oflag=direct status=none
refused "$DENIED" as_user fallocate -l 1M d/allocated
refused "$DENIED" as_user fallocate -o $LIMIT -l 4K big
as_user truncate -s 1G d/hole
as_user python3 - <<-'PYTHON'
	import mmap, os, signal, sys
	def fault(*_): os._exit(7)
	pid = os.fork()
	if pid == 0:
	    f = os.open("d/hole", os.O_RDWR)
	    m = mmap.mmap(f, 1 << 20)
	    m[4096] = 1
	    os._exit(0)
	_, status = os.waitpid(pid, 0)
	if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGBUS:
	    print("a store over the limit ended with", status)
	    sys.exit(1)
PYTHON
# What is freed can be used at once, by the same user.
as_user fallocate -p -o 0 -l 1M big
as_user dd if=/dev/zero of=d/new bs=1M count=1 status=none
refused "$DENIED" as_user bash -c "echo more >> d/new"
# Small content counts sectors, and can be rewritten.
rm d/direct d/allocated
as_user truncate -s 4K d/new
as_user bash -c "for i in 1 2 3; do echo \$i > d/small; done"
as_user cp d/small d/small2
rm -rf big d hard f*
sync
same "nothing left" "0 0" "$(field user $USER space_used) $(field user $USER inodes_used)"
recount

# ---- an unlinked file counts until it is closed
(exec setpriv --reuid $USER --regid $USER --clear-groups bash -c \
	"exec 3> gone; rm gone; head -c 1M /dev/zero >&3; sync; exec sleep 1000") &
sleeper=$!
until [ "$(field user $USER space_used)" = 1048576 ]; do sleep 0.2; done
kill $sleeper
wait $sleeper || true
for _ in $(seq 50); do
	[ "$(field user $USER space_used)" = 0 ] && break
	sleep 0.2
done
same "closed" 0 "$(field user $USER space_used)"

# ---- groups: chgrp by an owner into a group that is full
setquota -g 4321 0 100 0 0 "$MNT"
as_user dd if=/dev/zero of=grouped bs=1k count=200 status=none
refused "$DENIED" setpriv --reuid $USER --regid $USER --groups 4321 chgrp 4321 grouped
same "group of the file" $USER "$(stat -c %g grouped)"
as_user truncate -s 50k grouped
setpriv --reuid $USER --regid $USER --groups 4321 chgrp 4321 grouped
same "space of the group" $((52 * 1024)) "$(field group 4321 space_used)"
# A directory that gives its group away.
mkdir -m 2777 given
chgrp 4321 given
refused "$DENIED" as_user dd if=/dev/zero of=given/file bs=1k count=100 status=none
rm -rf given grouped
recount

# ---- projects: a directory that hands its own on, a file that comes into one that is full
aegisfs quota set "$MNT" --project 7 --space-hard 100K --inodes-hard 3
mkdir -m 777 project
xfs_io -x -c "chproj 7" -c "chattr +P" project
as_user dd if=/dev/zero of=project/file bs=1k count=200 status=none 2> /dev/null && die "200 KiB in the project"
sync
same "space of the project" $((100 * 1024)) "$(field project 7 space_used)"
as_user touch project/third
refused "$DENIED" as_user touch project/fourth
same "df in the project" "102400 0" "$(df -B1 --output=size,avail project | tail -1 | xargs)"
as_user dd if=/dev/zero of=outside bs=1k count=20 status=none
sync
refused "$DENIED" as_user xfs_io -c "chproj 7" outside
rm -rf project outside
sync
same "an empty project" "0 0" "$(field project 7 space_used) $(field project 7 inodes_used)"

# ---- soft limits end after a time
aegisfs quota grace "$MNT" user --space 2 --inodes 2
setquota -u $USER 100 0 0 0 "$MNT"
as_user dd if=/dev/zero of=soft bs=1k count=200 status=none
sync
as_user dd if=/dev/zero of=soft2 bs=1k count=4 status=none
sleep 3
refused "$DENIED" as_user dd if=/dev/zero of=soft3 bs=1k count=4 status=none
rm soft
sync
as_user dd if=/dev/zero of=soft3 bs=1k count=4 status=none
setquota -u -T 1000 2000 -a 2> /dev/null || aegisfs quota grace "$MNT" user --space 1000 --inodes 2000
rm -f soft*

# ---- limits and counts survive a crash exactly
setquota -u $USER 0 50000 0 0 "$MNT"
as_user bash -c 'for i in $(seq 300); do head -c $((i * 97)) /dev/urandom > c$i; done; rm c?0 c?5'
sync
as_user bash -c 'for i in $(seq 300 400); do head -c $((i * 97)) /dev/urandom > c$i; done'
xfs_io -c fsync c350
xfs_io -x -c shutdown . > /dev/null
cd /
unmount_volume
fsck.aegisfs -n -f "$DEV" || die "fsck found something after the crash"
mount_volume usrquota,grpquota,prjquota
recount
same "limit after the crash" 51200000 "$(field user $USER space_hard)"

# ---- without options it counts on, and enforces nothing
unmount_volume
mount_volume
setquota -u $USER 1 1 1 1 "$MNT" 2> /dev/null && die "setquota without the option"
aegisfs quota set "$MNT" --user $USER --space-hard 4K --inodes-hard 1
as_user head -c 100000 /dev/zero > "$MNT/dir/free"
recount
mount -o remount,usrquota "$MNT"
refused "$DENIED" as_user touch "$MNT/dir/x"
mount -o remount,noquota "$MNT"
as_user touch "$MNT/dir/x"
recount
unmount_volume

# ---- the same on a volume that counts from the start, of which the image can be asked
mkfs -O quota
aegisfs quota set "$DEV" --project 7 --space-hard 1M --inodes-hard 10
aegisfs quota report "$DEV" | grep -qE "^project +7 " || die "no project"
mount_volume prjquota
same "limit of the project" 1048576 "$(field project 7 space_hard)"
checked
