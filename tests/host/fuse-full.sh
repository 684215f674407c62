#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
# A full volume: ENOSPC is a clean error, what was written before stays right, `df` tells the truth,
# removing always works and gives all space back, again and again.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3

mkfs.aegisfs -q "$tmp/image" 64M
mnt=$tmp/mnt
mount_volume "$tmp/image" "$mnt"

cat >"$tmp/fill.py" <<'EOF'
import errno, hashlib, os, sys

base, size = sys.argv[1], int(sys.argv[2])
os.mkdir(base)
seed = os.urandom(1 << 20)
written, total = [], 0
predicted = os.statvfs(base).f_bavail * 4096
try:
    for i in range(10**6):
        path = f"{base}/{i}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        data = (i.to_bytes(8, "little") + seed)[:size]
        done = 0
        try:
            while done < len(data):
                done += os.write(fd, data[done:])
        finally:
            os.close(fd)
            written.append((path, hashlib.sha256(data[:done]).digest()))
            total += done
except OSError as e:
    assert e.errno == errno.ENOSPC, e
else:
    raise AssertionError("the volume never became full")
for path, digest in written:
    with open(path, "rb") as f:
        assert hashlib.sha256(f.read()).digest() == digest, path
print(f"{len(written)} files of {size} bytes: {total >> 10} KiB of {predicted >> 10} KiB predicted")
if size >= 65536:
    assert total > predicted * 0.9, "df promised far more than could be written"
EOF

free() { stat -f -c %f "$mnt"; }
settle() {
	local i
	for i in $(seq 100); do
		[[ $(free) -ge $1 ]] && return
		sync "$mnt"
		sleep 0.1
	done
	fail "$2: $(free) blocks free, at least $1 expected"
}

start=$(free)
for size in 1000000 65536 5000 4096 1000 0; do
	[[ $size == 0 ]] && continue
	python3 "$tmp/fill.py" "$mnt/$size" "$size" || fail "filling with files of $size bytes"
	# Changes that need space fail cleanly or work; nothing hangs, nothing is read-only.
	mkdir "$mnt/new" 2>/dev/null && rmdir "$mnt/new"
	if mv "$mnt/$size" "$mnt/renamed" 2>/dev/null; then
		mv "$mnt/renamed" "$mnt/$size" || fail "renaming back on a full volume"
	fi
	# Space that is given back can be used at once.
	: >"$mnt/$size/0" || fail "truncate on a full volume"
	(cd "$mnt/$size" && seq 1 200 | xargs rm -f) || fail "unlink on a full volume"
	echo again >"$mnt/again" || fail "a small file after removals"
	rm "$mnt/again"
	rm -r "${mnt:?}/$size" || fail "rm -r on a full volume"
	settle $((start - 64)) "after removing everything"
done

# Free space in pieces: what is full of files of one block each, of which every other one goes, again
# and again. Removing always works, and so do new files and directories with half of the volume free.
cat >"$tmp/pieces.py" <<'EOF'
import errno, os, random, sys

base = sys.argv[1]
os.mkdir(base)
rng = random.Random(5)
data = os.urandom(4096)
for turn in range(6):
    made = 0
    while True:
        path = f"{base}/{rng.getrandbits(60):x}"
        try:
            with open(path, "wb") as f:
                f.write(data)
            made += 1
        except OSError as e:
            assert e.errno == errno.ENOSPC, e
            break
    names = os.listdir(base)
    assert made > (9000 if turn == 0 else 2500), f"turn {turn}: full after {made} files, {len(names)} in all"
    rng.shuffle(names)
    for name in names[::2]:
        os.unlink(f"{base}/{name}")
    os.sync()
    for i in range(50):
        os.makedirs(f"{base}-directories/{turn}/{i}")
    print(f"turn {turn}: {made} files made")
EOF
python3 "$tmp/pieces.py" "$mnt/pieces" || fail "free space in pieces"
rm -r "$mnt"/pieces* || fail "rm -r with free space in pieces"
settle $((start - 64)) "after free space in pieces"

# Remounting a full volume works, and so does removing then.
python3 "$tmp/fill.py" "$mnt/last" 65536
unmount_volume "$mnt"
mount_volume "$tmp/image" "$mnt"
rm -r "$mnt/last"
settle $((start - 64)) "after a remount"

# A full volume whose server is killed.
python3 "$tmp/fill.py" "$mnt/killed" 20000
kill -KILL "$(server_of "$mnt")"
umount --lazy "$mnt"
mount_volume "$tmp/image" "$mnt"
rm -r "$mnt/killed"
settle $((start - 64)) "after a crash"
unmount_volume "$mnt"
check_volume "$tmp/image" "after filling it up"
