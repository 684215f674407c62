#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Four workers at the same time, each with files of its own: with --cpus 1, 2, 4 they show what more processors give.
# row: create, 4 at once
# row: small files written, 4 at once
# row: small files read, 4 at once
# row: large files written, 4 at once
# row: large files read, 4 at once
. "$(dirname "$0")/../lib.sh"

files=$(by_size 5000 50000)
size=$(by_size 64M 512M)
# COMMAND...: four times, each with its number at the end of the last word.
at_once() {
	local workers=() worker
	for worker in 1 2 3 4; do
		"${@:1:$#-1}" "${!#}$worker" &
		workers+=($!)
	done
	for worker in "${workers[@]}"; do wait "$worker"; done
}
empty() {
	aegis-bench create "$1" "$files" 10
}
small() {
	aegis-bench create "$1" $((files / 2)) 10 16384
}
read_all() {
	find "$1" -type f -exec cat {} + >/dev/null
}
large=(--filename_format='large-$jobnum' --numjobs=4 --bs=1M --size="$size")

fresh
rate "create, 4 at once" files/s $((files * 4)) synced at_once empty $WORK/empty-
rate "small files written, 4 at once" files/s $((files * 2)) synced at_once small $WORK/small-
cold
rate "small files read, 4 at once" files/s $((files * 2)) at_once read_all $WORK/small-
result "large files written, 4 at once" MB/s \
	"$(job "[.jobs[].write.bw_bytes] | add / 1000000" --rw=write --end_fsync=1 "${large[@]}")"
cold
result "large files read, 4 at once" MB/s "$(job "[.jobs[].read.bw_bytes] | add / 1000000" --rw=read "${large[@]}")"
finish
