#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Whole files at once: to clone, to remove. Not every filesystem can clone.
# row: clone of a large file
# row: clone of a file of many extents
# row: removal of a file of many extents
# row: removal of a large file
. "$(dirname "$0")/lib.sh"

megabytes=$(by_size 512 2048)
extents=$(by_size 10000 100000)
[ "${AGED:-}" != 1 ] || megabytes=128 extents=5000
clone() {
	cp --reflink=always "$1" "$1.clone"
}

fresh
dd if=/dev/zero of=$WORK/large bs=1M count="$megabytes" status=none
aegis-bench extents $WORK/pieces "$extents"
cold
if clone $WORK/large 2>/dev/null; then
	rm $WORK/large.clone
	settle
	seconds "clone of a large file" synced clone $WORK/large
	seconds "clone of a file of many extents" synced clone $WORK/pieces
	rm $WORK/*.clone
	settle
fi
cold
seconds "removal of a file of many extents" synced rm $WORK/pieces
cold
seconds "removal of a large file" synced rm $WORK/large
finish
