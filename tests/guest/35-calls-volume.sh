#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Calls about the volume: ioctls, trimming, freezing, syncfs; 32-bit callers.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 400
. "$(dirname "$0")/lib.sh"
need python3 fstrim gcc

modprobe aegisfs
mkfs -L label -U 5eed1234-9abc-4ef0-8234-0123456789ab
mount_volume
cd "$MNT"

# ---- who it is
python3 - << 'PY'
import ctypes, fcntl, os, struct
fd = os.open(".", os.O_RDONLY)
uuid = fcntl.ioctl(fd, 0x80111500, bytes(17))
assert uuid == bytes([16]) + bytes.fromhex("5eed12349abc4ef082340123456789ab"), uuid
path = fcntl.ioctl(fd, 0x80811501, bytes(129))
assert path[1:1 + path[0]] == b"aegisfs/5eed1234-9abc-4ef0-8234-0123456789ab", path
assert fcntl.ioctl(fd, 2, bytes(4)) == struct.pack("I", 4096)    # FIGETBSZ
assert fcntl.ioctl(fd, 0x81009431, bytes(256)).rstrip(b"\0") == b"label"
for unknown in [0x1234, 0x80045678, 0x4010aaaa]:
    try:
        fcntl.ioctl(fd, unknown, bytes(64))
        raise SystemExit("an unknown ioctl worked")
    except OSError as e:
        assert e.errno == 25, e
libc = ctypes.CDLL(None, use_errno=True)
for bad in [0, 1, 2 ** 62, 2 ** 64 - 8]:
    for command in [0x81009431, 0xc0185879, 0x80811501]:
        assert libc.ioctl(fd, ctypes.c_ulong(command), ctypes.c_void_p(bad)) == -1
        assert ctypes.get_errno() in (14, 22, 95), ctypes.get_errno()
PY
xfs_io -c 'label -s other' . > /dev/null
same label other "$(blkid -p -s LABEL -o value "$DEV" 2> /dev/null || xfs_io -c label . | sed 's/label = "\(.*\)"/\1/')"
refused "not permitted" setpriv --reuid 1000 --clear-groups python3 -c '
import fcntl, os
fcntl.ioctl(os.open(".", os.O_RDONLY), 0x41009432, b"mine".ljust(256, b"\0"))'

# ---- the same from a 32-bit program: system calls by the old gate
cat > /tmp/compat.c << 'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
static long call(long n, long a, long b, long c, long d)
{
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)r;
}
int main(void)
{
	char *low = mmap(0, 65536, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int fd = open(".", O_RDONLY);
	unsigned *word = (void *)low;
	if (call(54, fd, 0x80046601, (long)low, 0)) return 1;	/* FS_IOC32_GETFLAGS */
	*word |= 0x40;
	if (call(54, fd, 0x40046602, (long)low, 0)) return 2;	/* FS_IOC32_SETFLAGS */
	*word = 0;
	if (call(54, fd, 0x80046601, (long)low, 0) || !(*word & 0x40)) return 3;
	*word = 0;
	if (call(54, fd, 0x40046602, (long)low, 0)) return 4;
	if (call(54, fd, 0x81009431, (long)low, 0) || strcmp(low, "other")) return 5;
	if (call(54, fd, 0x1234, (long)low, 0) != -25) return 6;
	if (call(220, fd, (long)low, 65536, 0) <= 0) return 7;	/* getdents64 */
	return 0;
}
C
if gcc -O1 -o /tmp/compat /tmp/compat.c; then
	status=0
	/tmp/compat || status=$?
	# Killed: the kernel runs no 32-bit programs.
	if [ $status -ge 128 ] || [[ $(uname -r) == *uml ]]; then
		echo "32-bit calls are skipped: this kernel has none"
	else
		same "32-bit calls" 0 "$status"
	fi
fi

# ---- trimming: all free space, nothing else
discarded() {
	awk '{ print $14 * 512 }' "/sys/class/block/$(basename "$DEV")/stat"
}
trim() {
	fstrim -v "$@" . | sed 's/.*(\([0-9]*\) bytes.*/\1/'
}
if [ "$(cat "/sys/class/block/$(basename "$DEV")/queue/discard_max_bytes")" != 0 ]; then
	head -c 100000000 /dev/urandom > keep
	head -c 300000000 /dev/urandom > go
	for i in $(seq 1 2 300); do echo "$i" > "small$i"; done
	sync
	sum=$(digest keep)
	rm go
	sync
	before=$(discarded)
	done=$(trim)
	free=$(df --output=avail -B1 . | tail -1)
	[ "$done" -gt $((free / 10 * 9)) ] || die "trimmed $done of $free free bytes"
	same "what the device was told" "$done" "$(($(discarded) - before))"
	[ "$(trim -l 64M)" -le $((64 << 20)) ] || die "more than asked for"
	some=$(trim -o 256M -l 512M -m 1M)
	[ "$some" -gt 0 ] && [ "$some" -le $((512 << 20)) ] || die "trimmed $some"
	same "nothing is that long" 0 "$(trim -m 2M -l 1M)"
	refused "Invalid argument" fstrim -o 1T .
	refused "Invalid argument" fstrim -l 100 .
	refused "" setpriv --reuid 1000 --clear-groups fstrim .
	# While others write and delete, which moves free space about.
	(for i in $(seq 1 12); do head -c 20000000 keep > "copy$i"; sync; rm -f "copy$((i - 3))"; done) &
	writer=$!
	while kill -0 $writer 2> /dev/null; do trim > /dev/null; done
	wait $writer
	drop_caches
	same "content" "$sum" "$(digest keep)"
	for i in 10 11 12; do
		cmp <(head -c 20000000 keep) "copy$i" || die "copy $i"
	done
	# A trim, and then a crash: nothing that is needed has gone.
	rm copy1?
	trim > /dev/null
	xfs_io -x -c shutdown . > /dev/null
	cd /
	unmount_volume
	fsck.aegisfs -n -f --data "$DEV" || die "fsck after a trim and a crash"
	mount_volume discard
	cd "$MNT"
	same "content" "$sum" "$(digest keep)"
	# Online: freed space is discarded as it becomes free, by a checkpoint: after six commit intervals at the latest.
	before=$(discarded)
	head -c 50000000 /dev/urandom > go
	sync
	rm go
	sync
	for _ in 1 2 3 4 5 6 7; do sleep 6; touch x; sync; [ "$(discarded)" -ge $((before + 50000000)) ] && break; done
	[ "$(discarded)" -ge $((before + 50000000)) ] || die "discard= told $(($(discarded) - before)) bytes"
	mount -o remount,ro .
	refused "Read-only" fstrim .
	mount -o remount,rw .
else
	refused "not supported" fstrim .
fi

# ---- syncfs makes all of the volume durable
echo new > synced
sync -f .
xfs_io -x -c shutdown . > /dev/null
cd /
unmount_volume
mount_volume
same syncfs new "$(cat "$MNT/synced")"

# ---- a frozen volume: writers of all kinds wait
cd "$MNT"
truncate -s 1M mapped
fsfreeze -f .
for work in 'echo x > new' 'rm synced' 'chmod 600 mapped' 'mkdir d' 'setfattr -n user.a mapped' 'ln mapped m2' \
	'python3 -c "import mmap; f = open(\"mapped\", \"r+b\"); m = mmap.mmap(f.fileno(), 4096); m[0] = 1"'; do
	bash -c "$work" &
	jobs+=" $!"
done
sleep 3
for job in $jobs; do kill -0 "$job" 2> /dev/null || die "a change went through a frozen volume"; done
refused "busy" fsfreeze -f .
ls -l > /dev/null
fsfreeze -u .
wait
same "after thawing" "600 d m2 new" "$(stat -c %a mapped) $(ls -d d m2 new | tr '\n' ' ' | sed 's/ $//')"
cd /
checked
