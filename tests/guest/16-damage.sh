#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Damage on the device: of data without a second copy, exactly the damaged block is an error; of
# data with one, and of metadata, nothing is noticed but in the log, and it is repaired.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 300
. "$(dirname "$0")/lib.sh"
need filefrag python3

# flip BYTE-OFFSET: one byte of the device becomes another
flip() {
	python3 - "$DEV" "$1" << 'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_SYNC)
at = int(sys.argv[2])
page = bytearray(os.pread(fd, 4096, at - at % 4096))
page[at % 4096] ^= 0x40
os.pwrite(fd, page, at - at % 4096)
os.close(fd)
PY
}

# place FILE BLOCK: where on the device it stands, in bytes
place() {
	filefrag -v -b4096 "$1" | awk -v b="$2" '$1 ~ /^[0-9]+:$/ {
		split($2, l, "[.]"); first = l[1] + 0; last = $3 + 0
		split($4, p, "[.]")
		if (b >= first && b <= last) { print (p[1] + b - first) * 4096; exit } }'
}

log_since() {
	dmesg | tail -n +$((mark + 1))
}
mark() {
	mark=$(dmesg | wc -l)
}

# ---- data, one copy
fresh
cd "$MNT"
python3 -c 'import os; open("data", "wb").write(b"".join(b"%08d" % i * 512 for i in range(256)))'
cp data /tmp/data
sync
at=$(place data 100)
[ -n "$at" ] || die "no place of block 100: $(filefrag -v -b4096 data)"
cd /
unmount_volume
flip $((at + 1234))
mount_volume
cd "$MNT"
mark
refused "Input/output error" cat data
same "blocks that cannot be read" 100 "$(python3 - << 'PY'
import os
fd = os.open("data", os.O_RDONLY)
good = open("/tmp/data", "rb").read()
for i in range(256):
    try:
        assert os.pread(fd, 4096, i * 4096) == good[i * 4096:(i + 1) * 4096], i
    except OSError as e:
        assert e.errno == 5
        print(i)
PY
)"
same "directly" 100 "$(python3 - << 'PY'
import os
fd = os.open("data", os.O_RDONLY | os.O_DIRECT)
out = os.open("/tmp/direct", os.O_WRONLY | os.O_CREAT)
for i in range(256):
    r = os.system("dd if=data of=/dev/null bs=4096 skip=%d count=1 iflag=direct status=none 2> /dev/null" % i) if i in (99, 100, 101) else 0
    if r:
        print(i)
PY
)"
python3 - << 'PY'
# Among others (also of other parts of a large read), into memory in which the damaged content must not stay.
import mmap, os
fd = os.open("data", os.O_RDONLY | os.O_DIRECT)
good = open("/tmp/data", "rb").read()
for first, count in (96, 16), (0, 256), (0, 101), (100, 156):
    memory = mmap.mmap(-1, count * 4096)
    memory.write(b"x" * len(memory))
    try:
        done = os.preadv(fd, [memory], first * 4096)
        assert done <= (100 - first) * 4096, done
    except OSError as e:
        assert e.errno == 5, e
    for i in range(count):
        there, right = memory[i * 4096:(i + 1) * 4096], good[(first + i) * 4096:(first + i + 1) * 4096]
        clean = [bytes(4096), b"x" * 4096]
        assert there in (clean if first + i == 100 else clean + [right]), (first, i, there[:16])
PY
grep -q "aegisfs.*inode.*byte $((100 * 4096))" <<< "$(log_since)" || die "not in the log: $(log_since)"
# A partial write cannot make it whole, a whole one can.
refused "Input/output error" dd if=/dev/zero of=data bs=100 count=1 seek=4096 conv=notrunc
dd if=/tmp/data of=data bs=4096 skip=100 seek=100 count=1 conv=notrunc status=none
cmp data /tmp/data || die "rewritten"
cd /
checked

# ---- data, two copies
if mkfs --data-replicas 2 2> /dev/null || mkfs --data mirror 2> /dev/null; then
	mount_volume
	cd "$MNT"
	cp /tmp/data data
	sync
	at=$(place data 7)
	cd /
	unmount_volume
	flip $((at + 99))
	mount_volume
	cd "$MNT"
	cmp data /tmp/data || die "the other copy was not used"
	cd /
	remount_cold
	cd "$MNT"
	mark
	cmp data /tmp/data || die "after healing"
	grep -q checksum <<< "$(log_since)" && die "it was not healed: $(log_since)"
	at="$(place data 9) $(place data 130) $(place data 255)"
	cd /
	unmount_volume
	for at in $at; do flip $((at + 99)); done
	mount_volume
	cd "$MNT"
	dd if=data iflag=direct bs=1M status=none | cmp - /tmp/data || die "directly, the other copy was not used"
	cd /
	checked
else
	echo "mkfs has no option for mirrored data yet"
fi

# ---- metadata: every block of the first copy of something
mkfs
mount_volume
cd "$MNT"
mkdir d
for i in $(seq 1 2000); do echo "content $i" > d/file-$i; done
before=$(ls d | sha256sum; cat d/* | sha256sum)
cd /
unmount_volume
# Nodes bear their own address; some of the file names stand in leaves: damage each block in which
# one is found, in the first half of the places only, so that one copy of each stays.
python3 - "$DEV" > /tmp/places << 'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.lseek(fd, 0, 2)
found = []
step = 1 << 20
for at in range(0, min(size, 512 << 20), step):
    piece = os.pread(fd, step, at)
    p = piece.find(b"file-77")
    while p >= 0:
        found.append(at + p)
        p = piece.find(b"file-77", p + 1)
print("\n".join(str(f) for f in found))
PY
[ -s /tmp/places ] || die "the names are nowhere on the device"
flip "$(head -1 /tmp/places)"
mount_volume
cd "$MNT"
mark
same "with a damaged copy" "$before" "$(ls d | sha256sum; cat d/* | sha256sum)"
cd /
checked
