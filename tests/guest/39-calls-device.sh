#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Devices that are read-only, fail, or go away; the volume after that.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 600
. "$(dirname "$0")/lib.sh"
need dmsetup python3 xfs_io

modprobe aegisfs
modprobe dm-mod 2> /dev/null || skip "this kernel has no device mapper"

# ---- a device that cannot be written
mkfs
mount_volume
echo old > "$MNT/file"
sync
echo new > "$MNT/journalled"
sync "$MNT/journalled"
xfs_io -x -c shutdown "$MNT" > /dev/null # Leaves a journal.
unmount_volume
blockdev --setro "$DEV"
# mount(8) tries read-only by itself when it was not told otherwise.
if mount -t aegisfs "$DEV" "$MNT" 2> /dev/null; then
	[[ $(grep " $MNT " /proc/mounts) == *" ro,"* ]] || die "writable on a device that is not"
	unmount_volume
fi
mount_volume ro
same "replayed in memory" "old new" "$(cat "$MNT/file" "$MNT/journalled" | tr '\n' ' ' | sed 's/ $//')"
refused "Read-only" touch "$MNT/x"
refused "" mount -o remount,rw "$MNT"
unmount_volume
blockdev --setrw "$DEV"
# The same, but writable: read-only all the same until it is remounted.
mount_volume ro
same "dirty and read-only" new "$(cat "$MNT/journalled")"
mount -o remount,rw "$MNT"
echo more > "$MNT/more"
mount -o remount,ro "$MNT"
unmount_volume
mount_volume ro,norecovery
cat "$MNT/file" > /dev/null
unmount_volume

# ---- every option by remount
mount_volume
for option in commit=9 errors=continue errors=remount-ro discard nodiscard noatime lazytime sync async ro rw; do
	mount -o "remount,$option" "$MNT" || die "remount,$option"
done
for option in nonsense commit=0 errors=x norecovery subvol=none; do
	refused "" mount -o "remount,$option" "$MNT"
	echo "still here" > "$MNT/still"
done
unmount_volume

# ---- a device that fails, and comes back
sectors=$(blockdev --getsz "$DEV")
good="0 $sectors linear $DEV 0"
dmsetup create aegis-test --table "$good"
MAPPED=/dev/mapper/aegis-test
swap() {
	dmsetup suspend --nolockfs --noflush aegis-test
	dmsetup load aegis-test --table "$1"
	dmsetup resume aegis-test
}
for round in 1 2 3; do
	mount -t aegisfs "$MAPPED" "$MNT"
	cd "$MNT"
	echo "durable $round" > "durable$round"
	sync
	head -c 20000000 /dev/urandom > dirty
	exec 7> deleted
	echo x >&7
	rm deleted
	case $round in
	1) swap "0 $sectors error" ;;
	2) swap "0 2048 linear $DEV 0
2048 $((sectors - 2048)) error" ;;
	3) # Writes fail, reads do not.
		modprobe dm-flakey
		swap "0 $sectors flakey $DEV 0 0 3600 1 error_writes" ;;
	esac
	sync dirty 2> /dev/null && die "round $round: fsync said that all is well"
	refused "" bash -c 'for i in $(seq 1 50); do echo x > new$i && sync new$i; done'
	ls > /dev/null 2>&1 || true
	cat "durable$round" > /dev/null 2>&1 || true
	sync 2> /dev/null || true
	python3 -c '
# Ends by SIGBUS or an error, or stores into a page that nothing will write.
import mmap
try:
    f = open("dirty", "r+b")
    m = mmap.mmap(f.fileno(), 4096)
    m[0] = 1
except OSError:
    pass' 2> /dev/null || true
	exec 7>&-
	cd /
	umount "$MNT" || die "round $round: unmount"
	swap "$good"
	mount -t aegisfs "$MAPPED" "$MNT" || die "round $round: mount after the device came back"
	for r in $(seq 1 "$round"); do
		same "round $round: durable" "durable $r" "$(cat "$MNT/durable$r")"
	done
	echo ok > "$MNT/ok"
	umount "$MNT"
	fsck.aegisfs -n -f "$MAPPED" || die "round $round: fsck found something"
done
dmsetup remove aegis-test

# ---- the device is pulled out
bdf=$(basename "$(readlink -f "/sys/class/block/$(basename "$DEV")/device")")
unbind=/sys/bus/virtio/drivers/virtio_blk
if [ -e "$unbind/$bdf" ]; then
	mount_volume
	cd "$MNT"
	head -c 20000000 /dev/urandom > dirty2
	sum=$(digest dirty2)
	echo "$bdf" > $unbind/unbind &
	sleep 2
	# Taken away in order: what was dirty was written before. What comes after is an error.
	refused "" touch x
	refused "" bash -c 'echo x >> dirty2 && sync dirty2'
	cd /
	umount "$MNT" || die "unmount without a device"
	wait
	echo "$bdf" > $unbind/bind
	for _ in $(seq 20); do [ -b "$DEV" ] && break; sleep 0.5; done
	mount_volume
	same "after it came back" "durable 3" "$(cat "$MNT/durable3")"
	same "what was dirty" "$sum" "$(digest "$MNT/dirty2")"
	checked
fi
