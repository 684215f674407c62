# SPDX-License-Identifier: GPL-2.0-only
# For the scripts of `cargo xtask bench`. Each declares its rows at its top (`# row: NAME`), makes a filesystem of the
# kind $FS, works on it, and says what each row came to.
#
# A unit that ends in "/s" is a rate, more of which is better; of every other, less is.
# QUICK=1: less work in everything. AGED=1: on the old, nearly full volume of this kind.
set -euo pipefail

MNT=/mnt/bench
WORK=$MNT/work
HERE=$(dirname "${BASH_SOURCE[0]}")

# The quick size of something, or the full one.
by_size() {
	if [ "${QUICK:-}" = 1 ]; then echo "$1"; else echo "$2"; fi
}

make_volume() {
	blkdiscard "$1"
	case $FS in
	ext4) mkfs.ext4 -q -F "$1" ;;
	xfs | btrfs | aegisfs) "mkfs.$FS" -q -f "$1" ;;
	esac
}

# A mounted filesystem with an empty $WORK.
fresh() {
	mkdir -p $MNT
	umount $MNT 2>/dev/null || true
	if [ "${AGED:-}" = 1 ]; then
		disk=$(aged_disk)
		mount -t "$FS" "$disk" $MNT
		rm -rf $WORK
	else
		disk=$AEGIS_DISK1
		make_volume "$disk"
		mount -t "$FS" "$disk" $MNT
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
	umount $MNT
}

# Everything written, nothing running.
settle() {
	sync
}

# Nothing of the filesystem is in memory.
cold() {
	umount $MNT
	mount -t "$FS" "$disk" $MNT
	echo 3 >/proc/sys/vm/drop_caches
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

# Bytes that the disk was told to write.
written() {
	awk '{ printf "%d", $7 * 512 }' "/sys/block/${disk#/dev/}/stat"
}

# NAME OPERATIONS COMMAND...: KiB written to the disk for each operation are the result.
amplification() {
	local name=$1 operations=$2 before
	shift 2
	before=$(written)
	"$@"
	result "$name" KiB "$(calculate "($(written) - $before) / 1024 / $operations")"
}

# JQ FIO-OPTION...: what one fio job found out.
job() {
	local query=$1
	shift
	# Of other messages fio prints some before its JSON.
	fio --name=job --thread --directory=$WORK --output-format=json --fallocate=none --randrepeat=1 "$@" |
		sed -n '/^{/,$p' | jq -r "$query"
}
