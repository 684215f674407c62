#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Mounting: options and what /proc/mounts shows of them, remount, read-only, busy, wrong devices,
# unloading and loading the module.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 300
. "$(dirname "$0")/lib.sh"
need xfs_io

options() {
	awk -v at="$MNT" '$2 == at { print $4 }' /proc/mounts
}

# Write requests that the device has had.
writes() {
	awk '{ print $5 }' "/sys/class/block/$(basename "$DEV")/stat"
}

modprobe aegisfs
mkfs -L first -U 5eed1234-9abc-4ef0-8234-0123456789ab

# ---- options are shown, and what is shown is accepted
for want in "" errors=continue errors=panic errors=remount-ro commit=30 discard \
	commit=1,discard,errors=continue noatime,commit=7 ro ro,norecovery; do
	mount_volume "$want"
	shown=$(options)
	unmount_volume
	mount_volume "$shown"
	same "options of '$want'" "$shown" "$(options)"
	unmount_volume
	for part in ${want//,/ }; do
		[[ ,$shown, == *,"$part",* ]] || die "mounted with '$want', shown '$shown'"
	done
done
mount_volume discard,nodiscard
[[ $(options) != *discard* ]] || die "nodiscard does not undo discard"
unmount_volume

# ---- what is wrong is refused
mkdir -p "$MNT"
for wrong in nonsense nonsense=1 commit=0 commit=x commit=-1 commit errors errors=maybe discard=1 \
	norecovery; do
	refused "" mount -t aegisfs -o "$wrong" "$DEV" "$MNT"
done
mountpoint -q "$MNT" && die "something is mounted"
dd if=/dev/zero of=/tmp/zeros bs=1M count=64 status=none
modprobe loop 2> /dev/null || true
if loop=$(losetup -f --show /tmp/zeros 2> /dev/null); then
	refused "" mount -t aegisfs "$loop" "$MNT"
	losetup -d "$loop"
fi

# ---- remount
mount_volume
echo 1 > "$MNT/file"
mount -o remount,ro "$MNT"
[[ $(options) == ro,* ]] || die "not read-only"
refused "Read-only file system" touch "$MNT/x"
refused "Read-only file system" rm "$MNT/file"
mount -o remount,rw,commit=11 "$MNT"
[[ $(options) == rw,*commit=11* ]] || die "remount gave $(options)"
echo 2 > "$MNT/file"
exec 7> "$MNT/open"
refused "busy" mount -o remount,ro "$MNT"
exec 7>&-
refused "" mount -o remount,norecovery "$MNT"
refused "" mount -o remount,bogus "$MNT"
same "still writable" 0 "$(echo 3 > "$MNT/file"; echo $?)"

# ---- the same device twice is one filesystem; a busy one stays
mkdir -p /mnt/second
mount -t aegisfs "$DEV" /mnt/second
same "both see it" 3 "$(cat /mnt/second/file)"
umount /mnt/second
exec 7< "$MNT/file"
refused "busy" umount "$MNT"
refused "" rmmod aegisfs
exec 7<&-
unmount_volume

# ---- read-only leaves the device as it is
before=$(writes)
mount_volume ro
cat "$MNT/file" > /dev/null
ls -lR "$MNT" > /dev/null
unmount_volume
same "writes of a read-only mount" "$before" "$(writes)"

# ---- an fsync writes the data, and an entry of the journal that ends at a unit of the device
synced() { # DEVICE: sectors written for a block and fsync, the least of five
	local stat="/sys/class/block/${1##*/}/stat" least=9999 n before after
	for _ in 1 2 3 4 5; do
		read -r -a before < "$stat"
		xfs_io -f -c "pwrite -q 0 4k" -c fsync "$MNT/synced"
		read -r -a after < "$stat"
		n=$((after[6] - before[6]))
		((n >= least)) || least=$n
	done
	echo "$least"
}
unit=$(cat "/sys/class/block/${DEV##*/}/queue/physical_block_size")
mount_volume
same "sectors for an fsync, units of $unit" $((8 + unit / 512)) "$(synced "$DEV")"
unmount_volume
if loop=$(losetup -f --show --sector-size 4096 /tmp/zeros 2> /dev/null); then
	mkfs.aegisfs -q "$loop"
	mount -t aegisfs "$loop" "$MNT"
	same "sectors for an fsync, units of 4096" 16 "$(synced "$loop")"
	unmount_volume
	fsck.aegisfs -n -f "$loop"
	losetup -d "$loop"
else
	echo "no loop devices here: units of 4096 are not tried"
fi

# ---- identity
mount_volume
same "type" aegisfs "$(stat -f -c %T "$MNT" | sed 's/UNKNOWN.*/aegisfs/')"
same "block size" 4096 "$(stat -f -c %S "$MNT")"
[ "$(stat -f -c %i "$MNT")" != 0 ] || die "no filesystem id"
unmount_volume

# ---- the module comes and goes
for _ in 1 2 3; do
	rmmod aegisfs
	grep -q aegisfs /proc/filesystems && die "still known after rmmod"
	modprobe aegisfs
	mount_volume
	same "content" 3 "$(cat "$MNT/file")"
	unmount_volume
done
rmmod aegisfs
# The kernel loads it by the name of the filesystem.
mount_volume
unmount_volume
if command -v fsck.aegisfs > /dev/null; then
	fsck.aegisfs -n -f "$DEV"
fi
