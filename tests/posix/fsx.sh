#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# fsx: random operations on one file, each read compared with memory.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 3600
. "$(dirname "$0")/lib.sh"

fresh
# configure FILE-SIZE ALIGNMENT MSYNC
configure() {
	# Aligned, it would ask for no bytes, which is an error by POSIX, and call that a failure.
	local fallocate=$(($2 == 1 ? 5 : 0))
	cat <<- END
		flen = $1
		nomsyncafterwrite = $3
		[opsize]
		max = 70000
		align = $2
		[weights]
		close_open = 1
		read = 10
		write = 10
		mapread = 10
		mapwrite = 10
		invalidate = 1
		truncate = 10
		fsync = 1
		fdatasync = 1
		posix_fallocate = $fallocate
		punch_hole = 5
		sendfile = 5
		posix_fadvise = 3
		copy_file_range = 5
	END
}
run() {
	configure "$2" "$3" "$4" > /tmp/fsx.toml
	fsx -f /tmp/fsx.toml -S "$1" -N "$operations" -P /tmp "$MNT/fsx"
	sync "$MNT/fsx"
}
operations=$(by_size 2000 100000)
seed=$((RANDOM * 32768 + RANDOM))
for shape in "400000 1 true" "400000 1 false" "4000000 1 true" "262144 4096 true" "6000 1 true"; do
	check "$operations operations, size $shape, seed $seed" run $seed $shape
	rm "$MNT/fsx"
	seed=$((seed + 1))
	[ -z "${AEGIS_QUICK:-}" ] || [ "$shape" != "400000 1 false" ] || break
done
finish
