# SPDX-License-Identifier: GPL-2.0-only
# For the scripts of `cargo xtask bench`. Each declares its rows at its top (`# row: NAME`), makes a filesystem of the
# kind $FS, works on it, and says what each row came to.
#
# A unit that ends in "/s" is a rate, more of which is better; of every other, less is.
# QUICK=1: less work in everything. AGED=1: on the old, nearly full volume of this kind. HOST=1: not in a VM, the disk
# is a file, and $MNT and $SCRATCH say where there is room.
set -euo pipefail

: "${MNT:=/mnt/bench}" "${SCRATCH:=/run}"
WORK=$MNT/work
HERE=$(dirname "${BASH_SOURCE[0]}")

# The quick size of something, or the full one.
by_size() {
	if [ "${QUICK:-}" = 1 ]; then echo "$1"; else echo "$2"; fi
}

# Ext4 makes one inode for 16 KiB, more only with a number in $INODES.
make_volume() {
	case $FS in
	ext4 | fuse2fs) mkfs.ext4 -q -F ${INODES:+-N "$INODES"} "$1" ;;
	xfs | btrfs | aegisfs) "mkfs.$FS" -q -f "$1" ;;
	aegisfs-fuse | aegisfs-unsummed) mkfs.aegisfs -q -f "$1" ;;
	ntfs-3g) mkntfs --quiet --fast --force "$1" >/dev/null 2>&1 ;;
	# What it passes everything to: a directory beside the disk.
	bindfs) rm -rf "$1.bound" && mkdir "$1.bound" ;;
	tmpfs) ;;
	esac
}

attach() {
	case $FS in
	aegisfs-fuse)
		[ -c /dev/fuse ] || modprobe fuse
		aegisfs-fuse "$1" $MNT
		;;
	fuse2fs | ntfs-3g) "$FS" "$1" $MNT ;;
	bindfs) bindfs "$1.bound" $MNT ;;
	aegisfs | aegisfs-unsummed)
		load_module
		mount -t aegisfs "$1" $MNT
		;;
	*) mount -t "$FS" "$1" $MNT ;;
	esac
}

# One of the two that have one name. Later calls of a script run no program: the time of a mount may count.
load_module() {
	[ "${loaded:-}" != "$FS" ] || return 0
	loaded=$FS
	local one=/run/aegisfs-module
	# Also for what the other one depends on.
	modprobe aegisfs
	if [ "$(cat $one 2>/dev/null || echo aegisfs)" != "$FS" ]; then
		rmmod aegisfs
		case $FS in
		aegisfs) modprobe aegisfs ;;
		*) insmod /usr/lib/aegisfs/unsummed.ko ;;
		esac
	fi
	echo "$FS" >$one
}

# FUSE's unmount returns before the server has written what it has in memory.
detach() {
	umount $MNT
	case $FS in
	aegisfs-fuse | fuse2fs | ntfs-3g | bindfs) while pgrep -f " $MNT\$" >/dev/null; do sleep 0.01; done ;;
	esac
}

drop_caches() {
	[ "${HOST:-}" = 1 ] || echo 3 >/proc/sys/vm/drop_caches
}

# A mounted filesystem with an empty $WORK.
fresh() {
	mkdir -p $MNT
	! mountpoint -q $MNT || detach
	if [ "${AGED:-}" = 1 ]; then
		disk=$(aged_disk)
		attach "$disk"
		rm -rf $WORK
	else
		disk=$AEGIS_DISK1
		make_volume "$disk"
		attach "$disk"
	fi
	mkdir $WORK
	settle
}

aged_disk() {
	case $FS in
	aegisfs) echo "$AEGIS_DISK4" ;;
	ext4) echo "$AEGIS_DISK5" ;;
	xfs) echo "$AEGIS_DISK6" ;;
	btrfs) echo "$AEGIS_DISK7" ;;
	esac
}

finish() {
	[ "${AGED:-}" != 1 ] || rm -rf $WORK
	detach
}

# Everything written, nothing running.
settle() {
	if [ "${HOST:-}" = 1 ]; then sync -f $MNT; else sync; fi
}

# Nothing of the filesystem is in memory. (All of tmpfs stays there.)
cold() {
	[ "$FS" != tmpfs ] || return 0
	detach
	attach "$disk"
	drop_caches
}

result() {
	printf 'row\t%s\t%s\t%s\n' "$1" "$2" "$3"
}

calculate() {
	awk "BEGIN { printf \"%.6g\", $1 }"
}

# Runs a command and leaves its seconds in $elapsed.
clock() {
	local start=$EPOCHREALTIME
	"$@"
	elapsed=$(calculate "$EPOCHREALTIME - $start")
}

# NAME COMMAND...: its seconds are the result.
seconds() {
	local name=$1
	shift
	clock "$@"
	result "$name" s "$elapsed"
}

# NAME UNIT AMOUNT COMMAND...: so much of something per second is.
rate() {
	local name=$1 unit=$2 amount=$3
	shift 3
	clock "$@"
	result "$name" "$unit" "$(calculate "$amount / $elapsed")"
}

# A command and the writing of all that it left in memory.
synced() {
	"$@"
	sync -f $MNT
}

# Bytes that the disk was told to write; of a file nobody counts them.
written() {
	[ ! -b "$disk" ] || awk '{ printf "%d", $7 * 512 }' "/sys/block/${disk#/dev/}/stat"
}

# NAME OPERATIONS BEFORE: KiB written for each operation, since $(written) said BEFORE, are the result.
written_since() {
	[ -z "$3" ] || result "$1" KiB "$(calculate "($(written) - $3) / 1024 / $2")"
}

# NAME OPERATIONS COMMAND...: KiB written to the disk for each operation are the result.
amplification() {
	local name=$1 operations=$2 before
	shift 2
	before=$(written)
	"$@"
	written_since "$name" "$operations" "$before"
}

# JQ FIO-OPTION...: what one fio job found out.
job() {
	local query=$1
	shift
	# Of other messages fio prints some before its JSON.
	fio --name=job --thread --directory=$WORK --output-format=json --fallocate=none --randrepeat=1 "$@" |
		sed -n '/^{/,$p' | jq -r "$query"
}
