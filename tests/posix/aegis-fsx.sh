#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Random operations of every kind on two files at once: buffered, direct and mapped; holes, zeroed,
# removed and inserted ranges; clones, dedupes, copies; eviction, remounts. A failure prints the
# fewest operations that show it.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 3600
. "$(dirname "$0")/lib.sh"

fresh
# What the module must have. FUSE has no requests for the rest.
everywhere=read,read-direct,read-mapped,write,write-direct,write-mapped,write-from-map
everywhere+=,write-direct-from-map,append,truncate,punch,zero,zero-keep,copy,allocate
everywhere+=,allocate-keep,fsync,fdatasync,sync-range,msync,evict,drop-caches,reopen,remount
without=none
if is_fuse; then
	for kind in collapse insert clone dedupe unshare; do
		skipped "$kind" "the kernel's FUSE client refuses it"
		without+=,$kind
	done
	skipped pollute "the kernel's FUSE client leaves in the last page what a mapping wrote behind the end"
	skipped seek "the kernel's FUSE client asks for holes before it has written what a mapping changed"
	without+=,pollute,seek
fi
run() {
	aegis-fsx --require "$(is_fuse && echo $everywhere || echo all)" --without $without \
		--remount "$(remount_command)" "$@" "$MNT"
}
seed=$((RANDOM * 32768 + RANDOM))
seeds=$(by_size 3 40)
operations=$(by_size 1000 5000)
check "$seeds seeds from $seed, $operations operations" run --seed $seed --seeds "$seeds" --ops "$operations"
check "a few pages, from $seed" run --seed $seed --seeds "$seeds" --ops "$operations" --size 16384
check "large files, from $seed" run --seed $seed --seeds $((seeds / 3)) --ops "$operations" --size 3000000
finish
