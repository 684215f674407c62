#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# fio: random writes through every way into the kernel, read back and compared, now and after a
# remount.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 3600
. "$(dirname "$0")/lib.sh"

fresh
size=$(by_size 4m 48m)
run() {
	local name=$1
	shift
	local job=(--eta=never --name="$name" --directory="$MNT" --filename="$name" --size="$size"
		--verify=crc32c --verify_fatal=1 --random_generator=lfsr --rw=randwrite "$@")
	fio "${job[@]}" --do_verify=1
	remount_cold
	fio "${job[@]}" --verify_only
	rm "$MNT/$name"
}
engines="psync mmap libaio io_uring"
[ -z "${AEGIS_QUICK:-}" ] || engines="psync mmap io_uring"
for engine in $engines; do
	for direct in 0 1; do
		for bs in 3000 4k 64k 1m; do
			options=(--ioengine="$engine" --direct="$direct" --bs="$bs")
			case $engine in
			# A mapping is no direct I/O.
			mmap) [ "$direct" = 0 ] || continue ;;
			libaio | io_uring) options+=(--iodepth=8) ;;
			esac
			# Direct I/O is in blocks; a tail of the file that fits no write of 3000 is left alone.
			[ "$bs" != 3000 ] || [ "$direct" = 0 ] || continue
			if [ -n "${AEGIS_QUICK:-}" ] && [ "$bs" != 4k ] && [ "$engine$direct" != io_uring1 ]; then
				continue
			fi
			check "$engine, direct=$direct, bs=$bs" run "$engine-$direct-$bs" "${options[@]}"
		done
	done
done
many() {
	fio --eta=never --name=many --directory="$MNT" --nrfiles=64 --filesize=4k-512k --size="$size" --bsrange=4k-64k \
		--numjobs=3 --rw=randwrite --verify=crc32c --verify_fatal=1 --fsync=16 --fallocate=native \
		--group_reporting --create_on_open=1 --runtime="$(by_size 5 60)"
}
check "many files, fsync" many
rm -rf "$MNT"/many*
finish
