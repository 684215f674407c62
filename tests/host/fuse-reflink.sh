#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
# Copies through FUSE share whole blocks: content, space, what inspect shows, and a crash-free end.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3

mnt=$tmp/mnt
mkfs.aegisfs -q "$tmp/image" 256M
mount_volume "$tmp/image" "$mnt"
cd "$mnt" || exit
head -c 32M /dev/urandom >a
echo "a little" >inline
sync
free() { stat -f -c %f "$mnt"; }
before=$(free)
python3 - <<'PY' || fail "copy_file_range"
import os

def copy(source, target, length, at=0, to=0):
    a, b = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
    done = 0
    while done < length:
        n = os.copy_file_range(a, b, length - done, at + done, to + done)
        assert n > 0, (source, target, done)
        done += n

copy("a", "whole", 32 << 20)
copy("a", "part", 1 << 20, 4096, 8192)
copy("a", "odd", 100_001, 5000, 3)
copy("inline", "inline2", os.path.getsize("inline"))
a = open("a", "rb").read()
assert open("whole", "rb").read() == a
assert open("part", "rb").read() == bytes(8192) + a[4096:4096 + (1 << 20)]
assert open("odd", "rb").read() == bytes(3) + a[5000:105_001]
assert open("inline2", "rb").read() == b"a little\n"
PY
sync
took=$((before - $(free)))
((took < 400)) || fail "the copies took $took blocks"
# What is written to one is not seen in the other.
cp a "$tmp/model"
dd if=/dev/zero of=whole bs=5000 seek=3 count=2 conv=notrunc status=none
cmp -s a "$tmp/model" || fail "a write to the copy shows in the source"
cp whole "$tmp/changed"
cd / || exit
unmount_volume "$mnt"
check_volume "$tmp/image"
aegisfs inspect extents "$tmp/image" whole >"$tmp/extents" || fail "inspect extents"
grep -q "data shared" "$tmp/extents" || fail "inspect shows nothing shared: $(head -5 "$tmp/extents")"
aegisfs inspect trees --records 1 "$tmp/image" >"$tmp/records" || fail "inspect trees"
grep -q "[23] references" "$tmp/records" || fail "inspect shows no counts: $(head -5 "$tmp/records")"
mount_volume "$tmp/image" "$mnt"
rm "$mnt/a"
cmp -s "$mnt/whole" "$tmp/changed" || fail "the copy without its source"
rm "$mnt"/*
unmount_volume "$mnt"
check_volume "$tmp/image"
