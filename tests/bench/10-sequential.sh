#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Large files from the beginning to the end, in pieces of 1 MiB.
# row: sequential write, buffered
# row: sequential read, buffered
# row: overwrite of an old file
# row: sequential write, direct
# row: sequential read, direct
. "$(dirname "$0")/lib.sh"

size=$(by_size 256M 2G)
[ "${AGED:-}" != 1 ] || size=128M
throughput() {
	local name=$1 direction=$2
	shift 2
	result "$name" MB/s "$(job ".jobs[0].$direction.bw_bytes / 1000000" --bs=1M --size="$size" "$@")"
}

fresh
throughput "sequential write, buffered" write --rw=write --filename=buffered --end_fsync=1
cold
throughput "sequential read, buffered" read --rw=read --filename=buffered
throughput "overwrite of an old file" write --rw=write --filename=buffered --overwrite=1 --end_fsync=1
rm $WORK/buffered
settle
throughput "sequential write, direct" write --rw=write --filename=direct --direct=1 --end_fsync=1
cold
throughput "sequential read, direct" read --rw=read --filename=direct --direct=1
finish
