#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Blocks of 4 KiB here and there in one large file, by one thread: one at a time, or 16.
# row: random read, buffered
# row: random read, mmap
# row: random read, direct
# row: random read, direct, 16 at once
# row: random write, buffered
# row: random write, direct
# row: random write, direct, 16 at once
# row: readers and writers, buffered
. "$(dirname "$0")/lib.sh"

size=$(by_size 256M 2G)
time=$(by_size 2 10)
# In more time a file of this size is in memory, and the row says how fast that is.
[ "${AGED:-}" != 1 ] || size=128M time=1
operations() {
	local name=$1 direction=$2
	shift 2
	result "$name" op/s "$(job "[.jobs[] | $direction] | add" --bs=4k --filename=file --size="$size" \
		--time_based --runtime="$time" "$@")"
}
queue=(--direct=1 --ioengine=io_uring --iodepth=16)

fresh
job . --rw=write --bs=1M --filename=file --size="$size" --end_fsync=1 >/dev/null
cold
operations "random read, buffered" .read.iops --rw=randread
cold
# User-mode Linux maps each page by itself, and the host lets a process have some 65 000 mappings.
mapped=()
[ "$size" != 2G ] || mapped=(--size=256M --runtime=2)
operations "random read, mmap" .read.iops --rw=randread --ioengine=mmap "${mapped[@]}"
cold
operations "random read, direct" .read.iops --rw=randread --direct=1
operations "random read, direct, 16 at once" .read.iops --rw=randread "${queue[@]}"
operations "random write, buffered" .write.iops --rw=randwrite --end_fsync=1
operations "random write, direct" .write.iops --rw=randwrite --direct=1
operations "random write, direct, 16 at once" .write.iops --rw=randwrite "${queue[@]}"
cold
operations "readers and writers, buffered" "(.read.iops + .write.iops)" --rw=randrw --numjobs=4
finish
