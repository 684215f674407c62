#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Size: many files in one directory, the largest file, mounting at ten files and at many, memory
# under a full read. AEGIS_FILES: how many files, 100 000 unless told.
# vm: --disk 3G --mem 768 --cpus 2
# timeout: 1500
. "$(dirname "$0")/lib.sh"
need python3

files=${AEGIS_FILES:-$(sized files 100000 10000)}

# Reads and sectors that mounting takes.
mount_cost() {
	unmount_volume
	drop_caches
	local before after
	read -r -a before < "/sys/class/block/${DEV##*/}/stat"
	mount_volume
	read -r -a after < "/sys/class/block/${DEV##*/}/stat"
	echo "$((after[0] - before[0])) $((after[2] - before[2]))"
}

available() {
	awk '/^MemAvailable/ { print $2 }' /proc/meminfo
}

# ---- mounting costs the same whatever the volume holds
fresh
for i in 0 1 2 3 4 5 6 7 8 9; do echo "$i" > "$MNT/$i"; done
sync
few=$(mount_cost)

python3 - "$MNT/many" "$files" << 'PY'
import os, sys
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
for i in range(int(sys.argv[2])):
    fd = os.open(f"file-{i:07}", os.O_CREAT | os.O_WRONLY | os.O_EXCL)
    if i % 10 == 0:
        os.write(fd, b"%d" % i)
    os.close(fd)
PY
sync
many=$(mount_cost)
echo "reads and sectors of a mount: $few with 10 files, $many with $files"
# A chunk table of a page more, a tree one level higher: not more.
[ "${many% *}" -le $((${few% *} + 8)) ] || die "mounting reads more with more files"
[ "${many#* }" -le $((${few#* } + 512)) ] || die "mounting reads more with more files"

# ---- one directory with all of them
same "names" "$files" "$(find "$MNT/many" -type f | wc -l)"
python3 - "$MNT/many" "$files" << 'PY'
import os, random, sys
os.chdir(sys.argv[1])
count = int(sys.argv[2])
random.seed(count)
for i in random.sample(range(count), 5000):
    want = b"%d" % i if i % 10 == 0 else b""
    assert open(f"file-{i:07}", "rb").read() == want, i
    assert not os.path.exists(f"file-{i:07}x")
PY

# ---- memory: what a full read takes is given back under pressure
drop_caches
before=$(available)
find "$MNT" -type f -exec cat {} + > /dev/null
drop_caches
left=$((before - $(available)))
echo "memory that stays after reading everything and dropping caches: $left KiB"
[ "$left" -lt 32768 ] || die "$left KiB are not given back"

rm -r "$MNT/many"
same "inodes after removing them" 11 "$(df --output=iused "$MNT" | tail -1 | tr -d ' ')"
checked

# ---- the largest sparse file that people make: 16 TiB
fresh
python3 - "$MNT/huge" << 'PY'
import errno, os, sys
TIB = 1 << 40
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 16 * TIB)
places = [0, 4 * TIB - 3, 8 * TIB, 12 * TIB + 4095, 16 * TIB - 7]
for at in places:
    assert os.pwrite(fd, b"here %d" % at, at) > 0
os.fsync(fd)
size = os.fstat(fd).st_size
assert size == 16 * TIB - 7 + len(b"here %d" % places[-1]), size
assert os.fstat(fd).st_blocks * 512 < 1 << 20
PY
remount_cold
python3 - "$MNT/huge" << 'PY'
import os, sys
TIB = 1 << 40
fd = os.open(sys.argv[1], os.O_RDWR)
for at in [0, 4 * TIB - 3, 8 * TIB, 12 * TIB + 4095, 16 * TIB - 7]:
    want = b"here %d" % at
    assert os.pread(fd, len(want), at) == want, at
    assert os.lseek(fd, max(0, at - (1 << 30)), os.SEEK_DATA) == at // 4096 * 4096, at
assert os.pread(fd, 100, 2 * TIB) == bytes(100)
os.ftruncate(fd, 8 * TIB)
assert os.lseek(fd, 4 * TIB + (1 << 20), os.SEEK_HOLE) == 4 * TIB + (1 << 20)
PY
rm "$MNT/huge"
checked
