#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Edges of size: a file of very many extents and its deletion, and a directory of very many entries that others change
# while it is read. AEGIS_EXTENTS and AEGIS_ENTRIES: how many, 20 000 and 30 000 unless told.
# vm: --disk 3G --mem 1536 --cpus 2
# timeout: 900
. "$(dirname "$0")/lib.sh"
need python3 xfs_io fsfreeze

extents=${AEGIS_EXTENTS:-$(sized extents 20000 3000)}
entries=${AEGIS_ENTRIES:-$(sized entries 30000 6000)}
lap() {
	echo "$SECONDS s: $*"
}

# ---- a file whose every other block is a hole
holes() {
	python3 - "$1" "$extents" << 'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
block = bytearray(4096)
for i in range(int(sys.argv[2])):
    block[:8] = i.to_bytes(8, "little")
    os.pwrite(fd, block, i * 8192)
os.fsync(fd)
PY
}
fresh
holes "$MNT/holes"
lap "$extents extents written"
compare() {
	python3 - "$1" "$extents" "${2:-0}" << 'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
count, shift = int(sys.argv[2]), int(sys.argv[3])
at = 0
for i in range(shift, count):
    start = (i - shift) * 8192
    assert os.lseek(fd, at, os.SEEK_DATA) == start, i
    at = start + 4096
    assert i % 16 or os.lseek(fd, start, os.SEEK_HOLE) == at, i
    if i % 7 == 0:
        assert os.pread(fd, 8, at - 4096) == i.to_bytes(8, "little"), i
PY
}
remount_cold
compare "$MNT/holes"
same "extents that fiemap shows" "$extents" \
	"$(xfs_io -r -c "fiemap -v 0 100t" "$MNT/holes" | grep -c -E '^ *[0-9]+: .* [0-9]+ *0x')"
lap "compared after a remount"
cp --reflink=always "$MNT/holes" "$MNT/clone"
lap "cloned"
# In its front, so that all move.
fallocate --collapse-range -o 0 -l 8192 "$MNT/holes"
compare "$MNT/holes" 1
lap "collapsed at the front"
xfs_io -c "fpunch 0 50t" "$MNT/holes"
compare "$MNT/clone"
truncate -s 0 "$MNT/clone"
same "blocks that are left" 0 "$(($(stat -c %b "$MNT/clone") + $(stat -c %b "$MNT/holes")))"
lap "punched and cut"
checked
lap "fsck"

# ---- such a file is deleted in the background, and nobody sees it
fresh
free() {
	stat -f -c %f "$MNT"
}
all_free=$(free)
# Some blocks are the tree's, which has grown.
is_free() {
	local now
	now=$(free)
	[ $((now + extents / 20)) -ge "$all_free" ] || die "$1: $now blocks free of $all_free"
}
holes "$MNT/holes"
[ "$(free)" -lt $((all_free - extents + 100)) ] || die "the file takes no space"
(cd "$MNT" && PYTHONPATH=$(dirname "$0") python3 -) << 'PY'
import errno, os
from lib_handles import handle, opened
raw = handle("holes")
os.unlink("holes")
try:
    opened(raw)
    raise SystemExit("opened a file that is being deleted")
except OSError as e:
    assert e.errno == errno.ESTALE, e
PY
is_free "right after it was removed"
fsfreeze -f "$MNT"
is_free "frozen"
fsfreeze -u "$MNT"
holes "$MNT/holes"
rm "$MNT/holes"
unmount_volume
mount_volume
is_free "mounted again"
holes "$MNT/holes"
rm "$MNT/holes"
sync -f "$MNT"
xfs_io -x -c "shutdown -f" "$MNT" > /dev/null
unmount_volume
mount_volume
is_free "after a shutdown"
checked
lap "deleted"

# ---- a directory of many entries
fresh
PYTHONPATH=$(dirname "$0") python3 - "$MNT/many" "$entries" << 'PY'
import ctypes, os, sys, time
from lib_churn import churn
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
count = int(sys.argv[2])
started = time.time()
# Hard links: names without inodes of their own, 60 000 for each file.
for i in range(count):
    name = "s%d" % i
    if i % 60000 == 0:
        first = name
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    else:
        os.link(first, name)
print("made: %.0f s" % (time.time() - started), flush=True)
writer = churn(500)
try:
    # What stays is listed once, in two listings that go on while the other does.
    seen = bytearray(count)
    with os.scandir(".") as entries:
        for e in entries:
            if e.name[0] == "s":
                seen[int(e.name[1:])] += 1
    assert seen == bytes([1]) * count, "%d missing, %d twice" % (seen.count(0), count - seen.count(0) - seen.count(1))
    print("listed: %.0f s" % (time.time() - started), flush=True)
    # A position of telldir holds although names before and behind it come and go.
    libc = ctypes.CDLL(None)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    d = ctypes.c_void_p(libc.opendir(b"."))
    def stay():
        while e := libc.readdir(ctypes.c_void_p(d.value)):
            name = ctypes.string_at(e + 19)
            if name[:1] == b"s":
                return name
    for _ in range(count // 3):
        stay()
    at = libc.telldir(d)
    after = [stay() for _ in range(1000)]
    for _ in range(count // 3):
        stay()
    time.sleep(1)
    libc.seekdir(d, ctypes.c_long(at))
    assert [stay() for _ in range(1000)] == after
finally:
    os.kill(writer, 9)
    os.wait()
for i in range(0, count, max(1, count // 5000)):
    os.stat("s%d" % i)
print("positions: %.0f s" % (time.time() - started), flush=True)
PY
lap "changed meanwhile"
unmount_volume
lap "unmounted"
mount_volume
same "entries after a remount" "$entries" "$(ls -f "$MNT/many" | grep -c ^s)"
lap "listed after a remount"
rm -r "$MNT/many"
lap "removed"
checked
lap "fsck"
