#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Clones, deduplication, ranges taken out and put in: content, isolation, space, sharing as fiemap shows
# it, all of it once more after a remount, and against a model.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 900
. "$(dirname "$0")/lib.sh"
need xfs_io filefrag python3
here=$(cd "$(dirname "$0")" && pwd)

io() {
	local file=$1 args=()
	shift
	for command; do args+=(-c "$command"); done
	xfs_io -f "${args[@]}" "$file" > /tmp/xfs_io.out 2>&1 || {
		cat /tmp/xfs_io.out
		die "xfs_io $file: $*"
	}
	! grep -qiE "error|failed|invalid|no space|not supported" /tmp/xfs_io.out || {
		cat /tmp/xfs_io.out
		die "xfs_io $file: $*"
	}
}

# io_refused ERRNO-TEXT FILE COMMAND
io_refused() {
	local output
	output=$(xfs_io -c "$3" "$2" 2>&1) || true
	[[ $output == *"$1"* ]] || die "xfs_io $2: $3: said '$output', not '$1'"
}

# used: blocks of the volume that are in use, once everything has settled
used() {
	sync
	sync -f "$MNT"
	stat -f -c '%b %f' "$MNT" | { read -r all free; echo $((all - free)); }
}

shared() { filefrag -v "$1" | grep -c shared || true; }

fresh
cd "$MNT"

# ---- a clone is the same, takes no space, and leads its own life
head -c 64M /dev/urandom > /tmp/model
cp /tmp/model a
before=$(used)
cp --reflink=always a b
after=$(used)
[ $((after - before)) -lt 512 ] || die "the clone took $((after - before)) blocks"
cmp a b
[ "$(shared a)" -gt 0 ] || die "fiemap does not show that a is shared"
[ "$(shared b)" -gt 0 ] || die "fiemap does not show that b is shared"
same "blocks of the clone" "$(stat -c %b a)" "$(stat -c %b b)"
io b "pwrite -S 0x61 1000000 5000" "pwrite -S 0x62 -b 1m 33554432 1m"
cp /tmp/model /tmp/changed
io /tmp/changed "pwrite -S 0x61 1000000 5000" "pwrite -S 0x62 33554432 1m"
cmp a /tmp/model || die "a write to the clone shows in the source"
cmp b /tmp/changed || die "the clone"
drop_caches
cmp a /tmp/model || die "the source, from the device"
cmp b /tmp/changed || die "the clone, from the device"
# Dirty pages of the source are in the clone.
io a "pwrite -S 0x63 2000000 5000"
io /tmp/model "pwrite -S 0x63 2000000 5000"
cp --reflink=always a c
cmp c /tmp/model || die "dirty pages of the source"
# Dirty pages of the target are gone, and a mapping of it sees the clone.
io d "pwrite -S 0x64 0 1m" fsync "mmap -rw 0 1m" "mwrite -S 0x65 0 512k" "reflink a 0 0 1m" "mread -v 0 16"
cmp -n 1048576 d /tmp/model || die "the target's own pages"
remount_in() { cd /; remount_cold; cd "$MNT"; }
remount_in
cmp a /tmp/model || die "the source, after a remount"
cmp b /tmp/changed || die "the clone, after a remount"
cmp c /tmp/model || die "the second clone, after a remount"
# The data stays until the last one goes.
rm a c
cmp b /tmp/changed || die "the clone without its source"
rm b d
remount_in

# ---- small, empty, sparse, preallocated, in the inode
: > empty
cp --reflink=always empty empty2
echo small > small
cp --reflink=always small small2
same "content in the inode" small "$(cat small2)"
head -c 3000 /dev/urandom > tail
cp --reflink=always tail tail2
cmp tail tail2
io sparse "truncate 10m" "pwrite -S 0x61 1m 64k" "falloc 4m 1m" "pwrite -S 0x62 9m 100"
cp --reflink=always sparse sparse2
cmp sparse sparse2
io sparse2 "reflink sparse 1m 20m 64k" "reflink sparse 0 9m 64k"
same "size after a clone behind the end" $((20 * 1048576 + 65536)) "$(stat -c %s sparse2)"
cmp -n 65536 -i 1048576:20971520 sparse sparse2
# The end of the source in the middle of the target is refused, and so is what is not of whole blocks.
io big "pwrite -S 0x61 0 1m"
io_refused "Invalid argument" big "reflink tail 0 0 3000"
io_refused "Invalid argument" big "reflink sparse 100 0 4096"
io_refused "Invalid argument" big "reflink big 0 4096 8192"
io big "reflink big 0 512k 64k"

# ---- deduplication and copying
head -c 4M /dev/urandom > one
cp --reflink=never one two
before=$(used)
io two "dedupe one 0 0 4m"
sync
[ "$(shared two)" -gt 0 ] || die "nothing was deduplicated"
[ $((before - $(used))) -gt 900 ] || die "deduplication gave no space back"
cmp one two
io two "pwrite -S 0x61 5000 1"
# What differs stays.
xfs_io -c "dedupe one 0 0 64k" two > /tmp/out 2>&1 || true
grep -qi "did not match\|differ\|deduped 0" /tmp/out || die "deduplicated what differs: $(cat /tmp/out)"
cmp -s one two && die "deduplication changed content"
python3 - << 'PY'
import os
a = os.open("one", os.O_RDONLY)
b = os.open("copy", os.O_RDWR | os.O_CREAT)
# Of whole blocks, and not: the second has to be copied.
assert os.copy_file_range(a, b, 1 << 20, 0, 0) == 1 << 20
n, left = 0, 100_001
while left:
    n = os.copy_file_range(a, b, left, (1 << 20) + 3, (1 << 20) + 3)
    assert n > 0
    left = 0 if n == left else left - n
    break
want = open("one", "rb").read()
got = open("copy", "rb").read()
assert got[:1 << 20] == want[:1 << 20]
assert got[(1 << 20) + 3:] == want[(1 << 20) + 3:(1 << 20) + 3 + n]
PY
sync
[ "$(shared copy)" -gt 0 ] || die "copy_file_range copies what it could share"

# ---- the end of sharing
cp --reflink=always one three
before=$(used)
io three "funshare 0 4m" fsync
same "shared after unsharing" 0 "$(shared three)"
[ $(($(used) - before)) -gt 900 ] || die "unsharing took no space"
cmp one three

# ---- ranges taken out and put in
io_refused "Invalid argument" one "fcollapse 100 4096"
io_refused "Invalid argument" one "fcollapse 0 4m"
io_refused "Invalid argument" one "finsert 4m 4096"
io_refused "Invalid argument" one "finsert 0 100"
cp one /tmp/one
io one "pwrite -S 0x7a 300000 5000" "fcollapse 65536 131072"
io /tmp/one "pwrite -S 0x7a 300000 5000"
{ head -c 65536 /tmp/one; tail -c +$((65536 + 131072 + 1)) /tmp/one; } > /tmp/two
cmp one /tmp/two || die "a range taken out"
io one "finsert 40960 69632"
{ head -c 40960 /tmp/two; head -c 69632 /dev/zero; tail -c +40961 /tmp/two; } > /tmp/one
cmp one /tmp/one || die "a range put in"
drop_caches
cmp one /tmp/one || die "a range put in, from the device"
remount_in
cmp one /tmp/one || die "a range put in, after a remount"

# ---- many extents: moved in steps, cloned in steps
python3 - << 'PY'
import os
f = os.open("pieces", os.O_RDWR | os.O_CREAT)
for start in (0, 1):
    for i in range(start, 6000, 2):
        os.pwrite(f, bytes([i % 251 + 1]) * 4096, i * 4096)
    os.fsync(f)
PY
cp pieces /tmp/pieces
cp --reflink=always pieces pieces2
io pieces "fcollapse 4096 8192"
{ head -c 4096 /tmp/pieces; tail -c +12289 /tmp/pieces; } > /tmp/short
cmp pieces /tmp/short || die "many extents, a range taken out"
io pieces "finsert 4096 8192"
cmp pieces2 /tmp/pieces || die "the clone moved too"
io pieces "reflink pieces2 4096 4096 8192"
cmp pieces /tmp/pieces || die "many extents, put back"

# ---- what a clone writes does not follow the data
sectors_written() {
	awk '{ print $7 }' "/sys/class/block/${DEV##*/}/stat"
}
io large "pwrite -q -b 4m 0 512m" fsync
before=$(sectors_written)
cp --reflink=always large large2
sync large2
written=$((($(sectors_written) - before) / 2048))
echo "clone of 512 MiB: $written MiB written"
[ "$written" -lt 8 ] || die "a clone writes $written MiB"
rm large large2

# ---- the model
python3 "$here/reflink.py" "$MNT" 150
cd /
checked

# ---- a full volume
mkfs
mount_volume
cd "$MNT"
io a "pwrite -q -b 1m 0 32m" fsync
# No room for another copy, but for clones.
io filler "pwrite -q 0 1" 
dd if=/dev/zero of=filler bs=1M status=none 2> /tmp/out || true
grep -q "No space" /tmp/out || die "the volume is not full: $(cat /tmp/out)"
truncate -s -8M filler
sync
for i in $(seq 20); do
	cp --reflink=always a "clone$i" || die "no room for a clone"
done
# What is written to a clone needs space of its own; at the end of it, all content is whole.
dd if=/dev/urandom of=clone1 bs=1M count=32 conv=notrunc status=none 2> /tmp/out || true
sync
grep -q "No space" /tmp/out || die "overwriting a clone took no space: $(cat /tmp/out)"
cmp a clone2 || die "a clone on a full volume"
rm -f clone* filler
sync
cmp <(head -c 32M a) a
cd /
checked
