#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# What memory files take that were looked at once, and data that was read once.
# row: memory per cached inode
# row: slab per cached inode
# row: memory per cached GiB
. "$(dirname "$0")/../lib.sh"

files=$(by_size 20000 100000)
megabytes=512
# KiB.
field() {
	awk "/^$1:/ { print \$2 }" /proc/meminfo
}

fresh
aegis-bench create $WORK/many "$files" $((files / 100))
dd if=/dev/zero of=$WORK/large bs=1M count="$megabytes" status=none
cold
free=$(field MemFree) slab=$(field Slab)
aegis-bench stat $WORK/many "$files" $((files / 100))
free=$((free - $(field MemFree))) slab=$(($(field Slab) - slab))
result "memory per cached inode" B "$(calculate "$free * 1024 / $files")"
result "slab per cached inode" B "$(calculate "$slab * 1024 / $files")"
cold
free=$(field MemFree)
cat $WORK/large >/dev/null
free=$((free - $(field MemFree)))
result "memory per cached GiB" MiB "$(calculate "$free / 1024 * 1024 / $megabytes")"
finish
