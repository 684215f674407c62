#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Content in all the ways it can be reached: mappings, direct I/O, preallocation, holes, appending,
# sizes around the limits of inline content and of a block.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 600
. "$(dirname "$0")/lib.sh"
need xfs_io filefrag python3

io() {
	local file=$1 args=()
	shift
	while [[ ${1:-} == -? ]]; do
		args+=("$1")
		shift
	done
	for command; do args+=(-c "$command"); done
	xfs_io "${args[@]}" "$file" > /tmp/xfs_io.out 2>&1 || {
		cat /tmp/xfs_io.out
		die "xfs_io $file: $*"
	}
	! grep -qiE "error|failed|invalid|no space|not supported" /tmp/xfs_io.out || {
		cat /tmp/xfs_io.out
		die "xfs_io $file: $*"
	}
}

# runs FILE OFFSET LENGTH: the bytes there, e.g. "4096*61 100*00"
runs() {
	python3 - "$@" << 'PY'
import os, re, sys
name, offset, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(name, "rb") as f:
    f.seek(offset)
    data = f.read(length)
print(" ".join("%d*%02x" % (len(m[0]), m[0][0]) for m in re.finditer(rb"(.)\1*", data, re.S)))
PY
}

fresh
cd "$MNT"

# ---- sizes around the edges, written at once and byte by byte
for size in 0 1 2047 2048 2049 4095 4096 4097 8191 8192 65535 1048577; do
	head -c "$size" /dev/urandom > /tmp/model
	cp /tmp/model "size-$size"
	cp /tmp/model "append-$size"
	if [ "$size" -gt 0 ]; then
		head -c $((size - 1)) /tmp/model > "append-$size"
		sync "append-$size"
		tail -c 1 /tmp/model >> "append-$size"
	fi
	drop_caches
	cmp /tmp/model "size-$size" || die "size $size"
	cmp /tmp/model "append-$size" || die "append to $size"
done
# growing out of the inode and back into it
io grow -f "pwrite -S 0x61 0 100" fsync "pwrite -S 0x62 8192 100" fsync
same "grown by a write behind" "100*61 8092*00 100*62" "$(runs grow 0 9000)"
drop_caches
same "the same from the device" "100*61 8092*00 100*62" "$(runs grow 0 9000)"
truncate -s 50 grow
truncate -s 4000 grow
same "cut and extended" "50*61 3950*00" "$(runs grow 0 5000)"
drop_caches
same "the same from the device" "50*61 3950*00" "$(runs grow 0 5000)"
io shrink -f "pwrite -S 0x61 0 8192" fsync "truncate 0" "pwrite -S 0x62 0 10" fsync
drop_caches
same "rewritten small" "10*62" "$(runs shrink 0 100)"

# ---- partial overwrites of blocks that are not in memory
io partial -f "pwrite -S 0x61 0 1m" fsync
drop_caches
io partial "pwrite -S 0x62 5000 10" "pwrite -S 0x63 40960 4096" "pwrite -S 0x64 8190 4" fsync
drop_caches
same "read, modified, written" "5000*61 10*62 3180*61 4*64 32766*61 4096*63 11264*61" "$(runs partial 0 56320)"

# ---- mappings
io mapped -f "truncate 1m" "mmap 0 1m" "mwrite -S 0x71 100 5000" "mwrite -S 0x72 524288 4096" "msync -s"
drop_caches
same "written through a mapping" "100*00 5000*71 519188*00 4096*72" "$(runs mapped 0 528384)"
io mapped "mmap 0 1m" "pwrite -S 0x73 200 10" "mread 200 10"
io eof -f "pwrite -S 0x61 0 100" "mmap 0 4096" "mwrite -S 0x62 100 100" "truncate 300" "munmap" fsync
same "what a mapping wrote behind the end" "100*61 200*00" "$(runs eof 0 4096)"
drop_caches
same "the same from the device" "100*61 200*00" "$(runs eof 0 4096)"
io eof2 -f "pwrite -S 0x61 0 5000" "mmap 0 8192" "mwrite -S 0x62 5000 1000" "pwrite -S 0x63 7000 1" "munmap" fsync
same "the same for a write behind" "5000*61 2000*00 1*63" "$(runs eof2 0 9000)"

# ---- direct
io direct -f -d "pwrite -S 0x61 -b 64k 0 1m" "pwrite -S 0x62 4096 4096"
same "direct writes, read through the cache" "4096*61 4096*62 1040384*61" "$(runs direct 0 1048576)"
io direct -d "pread 4096 8192"
echo cached > direct-small
io direct-small -d "pread 0 4096"
dd if=direct of=/tmp/out bs=64k iflag=direct status=none
cmp direct /tmp/out || die "direct read"
dd if=direct of=/tmp/out bs=512 count=20 iflag=direct status=none
cmp -n 10240 direct /tmp/out || die "direct read of 512 bytes at a time"
printf tail >> direct
dd if=direct of=/tmp/out bs=1M iflag=direct status=none
cmp direct /tmp/out || die "direct read of a file with an odd end"
refused "Invalid argument" dd if=/dev/zero of=direct bs=100 count=1 oflag=direct conv=notrunc
dd if=/dev/zero of=direct bs=512 seek=3 count=1 oflag=direct conv=notrunc status=none
same "direct write of 512 bytes" "1536*61 512*00 2048*61" "$(runs direct 0 4096)"
# mixed: cached pages must not hide what was written directly
io mixed -f "pwrite -S 0x61 0 128k" "pread 0 128k"
dd if=/dev/zero of=mixed bs=4096 seek=3 count=2 oflag=direct conv=notrunc status=none
same "direct write over cached pages" "12288*61 8192*00 110592*61" "$(runs mixed 0 131072)"
io hole -f "truncate 64k"
io hole -d "pread 0 64k" "pwrite -S 0x65 16k 4k"
same "direct write into a hole" "16384*00 4096*65 45056*00" "$(runs hole 0 65536)"
io extend -f -d "pwrite -S 0x66 1m 8k"
same "direct write behind the end" $((1024 * 1024 + 8192)) "$(stat -c %s extend)"
drop_caches
same "direct write behind the end" "4096*00 8192*66" "$(runs extend 1044480 20000)"

# ---- content in the inode: no block, but not a hole either, which tar -S would not read
echo tiny > tiny
[ "$(stat -c %b tiny)" -gt 0 ] || die "no sectors before writeback"
sync tiny
same "sectors of content in the inode" 1 "$(stat -c %b tiny)"
cd /
remount_cold
cd "$MNT"
same "after mounting again" 1 "$(stat -c %b tiny)"
same "content through tar -S" tiny "$(tar -cSf - tiny | tar -xOf -)"

# ---- preallocation and holes
io falloc -f "falloc 0 1m"
same "size after fallocate" 1048576 "$(stat -c %s falloc)"
same "blocks after fallocate" 2048 "$(stat -c %b falloc)"
same "reads as zeros" "1048576*00" "$(runs falloc 0 1048576)"
io falloc "pwrite -S 0x61 4096 8192" fsync
same "blocks stay" 2048 "$(stat -c %b falloc)"
drop_caches
same "written into it" "4096*00 8192*61 1036288*00" "$(runs falloc 0 1048576)"
io keep -f "falloc -k 0 1m"
same "size with KEEP_SIZE" 0 "$(stat -c %s keep)"
io punch -f "pwrite -S 0x61 0 1m" fsync "fpunch 4096 8192" "fpunch 20000 10000"
same "punched" "4096*61 8192*00 7712*61 10000*00 1018576*61" "$(runs punch 0 1048576)"
drop_caches
same "punched, from the device" "4096*61 8192*00 7712*61 10000*00 1018576*61" "$(runs punch 0 1048576)"
io dirty -f "pwrite -S 0x61 0 64k" "fpunch 1000 10000" "pread 0 64k" fsync
same "punched while dirty" "1000*61 10000*00 54536*61" "$(runs dirty 0 65536)"
io zero -f "pwrite -S 0x61 0 64k" "fzero 1000 10000" "fzero 65000 10000" fsync
same "zeroed" "1000*61 10000*00 54000*61 10000*00" "$(runs zero 0 80000)"
drop_caches
same "zeroed, from the device" "1000*61 10000*00 54000*61 10000*00" "$(runs zero 0 80000)"
# A hole over the end of what is not stored yet: the size is stored all the same.
for command in fpunch "fzero -k"; do
	io unstored -f -t "pwrite -S 0x61 0 60k" "$command 8192 65536"
	size=$(stat -c %s unstored)
	cd /
	remount_cold
	cd "$MNT"
	same "size after $command" 61440 "$size"
	same "size after $command, from the device" "$size" "$(stat -c %s unstored)"
	same "$command over the end" "8192*61 53248*00" "$(runs unstored 0 65536)"
done
# truncate(2) asks for no change of the times, but a change of the size is one.
before=$(stat -c %Z.%Y unstored)
sleep 1.1
io unstored "truncate 100"
[ "$before" != "$(stat -c %Z.%Y unstored)" ] || die "ftruncate changes no time"
before=$(stat -c %Z.%Y unstored)
sleep 1.1
python3 -c 'import os; os.truncate("unstored", 200)'
[ "$before" != "$(stat -c %Z.%Y unstored)" ] || die "truncate changes no time"
refused "Invalid argument" fallocate -c -o 1 -l 4096 zero
refused "Invalid argument" fallocate -i -o 0 -l 100 zero

# ---- where data is
where() {
	xfs_io -c "seek -a -r 0" "$1" | awk 'NR > 1 { printf "%s%s:%s", sep, $1, $2; sep = " " }'
}
io seek -f "truncate 1m" "pwrite -S 0x61 64k 64k" "pwrite -S 0x61 512k 4k"
same "dirty data and holes" "HOLE:0 DATA:65536 HOLE:131072 DATA:524288 HOLE:528384" "$(where seek)"
sync seek
same "stored data and holes" "HOLE:0 DATA:65536 HOLE:131072 DATA:524288 HOLE:528384" "$(where seek)"
cp --sparse=always seek seek2
cmp seek seek2
filefrag -v seek > /tmp/frag
grep -q "16.. *31" /tmp/frag || die "filefrag: $(cat /tmp/frag)"
filefrag -v falloc | grep -q unwritten || die "no unwritten extent in $(filefrag -v falloc)"
echo inline > seek3
sync seek3
filefrag -v seek3 | grep -q inline || die "no inline extent in $(filefrag -v seek3)"

# ---- appending from several processes, and O_SYNC
for i in 1 2 3 4; do
	(for j in $(seq 1 100); do printf '%s-%03d\n' $i $j; done >> appended) &
done
wait
same "lines appended" 400 "$(sort appended | uniq | wc -l)"
io osync -f -s "pwrite -S 0x61 0 100000"
io odsync -f "pwrite -D -S 0x61 0 100000"

# ---- splice and copy_file_range
cp --reflink=never direct copy
cmp direct copy
python3 - << 'PY'
import os
a = os.open("direct", os.O_RDONLY)
b = os.open("copied", os.O_WRONLY | os.O_CREAT)
n = 0
while True:
    k = os.copy_file_range(a, b, 1 << 20)
    if k == 0: break
    n += k
r, w = os.pipe()
c = os.open("spliced", os.O_WRONLY | os.O_CREAT)
os.lseek(a, 0, 0)
while True:
    k = os.splice(a, w, 65536)
    if k == 0: break
    while k: k -= os.splice(r, c, k)
PY
cmp direct copied
cmp direct spliced

# Blocks that wait for writeback count as used, wherever they are: written here and there, taken back by holes and
# truncation, and written back now and then.
seed=${AEGIS_SEED:-$RANDOM}
python3 - "$seed" << 'PY' || die "sectors of a sparse file, AEGIS_SEED=$seed"
import os, random, subprocess, sys
rng = random.Random(int(sys.argv[1]))
BLOCK, BLOCKS = 4096, 1 << 17
fd = os.open("sparse", os.O_RDWR | os.O_CREAT)
os.truncate(fd, BLOCKS * BLOCK)
there = set()
for step in range(3000):
    near = max(there, default=0) if rng.random() < 0.3 else rng.randrange(BLOCKS)
    start = min(near, BLOCKS - 64)
    run = set(range(start, start + rng.choice([1, 1, 2, 33, 64])))
    what = rng.random()
    if what < 0.6:
        # One that is written over has two places for a while.
        if run & there:
            continue
        os.pwrite(fd, bytes([step % 255 + 1]) * (len(run) * BLOCK), start * BLOCK)
        there |= run
    elif what < 0.93:
        hole = ["fallocate", "-p", "-o", str(start * BLOCK), "-l", str(len(run) * BLOCK), "sparse"]
        subprocess.run(hole, check=True)
        there -= run
    elif what < 0.98:
        os.fsync(fd)
    else:
        os.truncate(fd, start * BLOCK)
        os.truncate(fd, BLOCKS * BLOCK)
        there = {b for b in there if b < start}
    sectors = os.fstat(fd).st_blocks
    assert sectors == 8 * len(there), (step, what, sectors, 8 * len(there))
PY
rm sparse

digests=$(find . -type f | sort | xargs sha256sum)
cd /
remount_cold
cd "$MNT"
echo "$digests" | sha256sum -c --quiet || die "content differs after a remount"
cd /
checked
