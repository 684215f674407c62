#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 120
# mkfs.aegisfs -r: the copy of a directory tree is the same in everything that can be seen of it.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3

tree=$tmp/tree
python3 - "$tree" <<'EOF'
import os, random, socket, stat, sys

tree = sys.argv[1]
rng = random.Random(1)
os.makedirs(f"{tree}/deep/er/est")
os.chdir(tree)
for name, size in [("empty", 0), ("one", 1), ("inline", 2000), ("block", 4096), ("odd", 70001), ("big", 5 << 20)]:
    with open(name, "wb") as f:
        f.write(rng.randbytes(size))
with open("sparse", "wb") as f:
    f.seek(3 << 20)
    f.write(b"middle")
    f.truncate(20 << 20)
with open("hole", "wb") as f:
    f.truncate(1 << 30)
os.link("odd", "deep/linked")
os.link("odd", "deep/er/linked too")
os.symlink("../odd", "deep/symlink")
os.symlink("x" * 3000, "long link")
os.link("deep/symlink", "deep/symlink2", follow_symlinks=False)
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
if os.geteuid() == 0:
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod("disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.chown("one", 1234, 5678)
    os.chown("deep/symlink", 7, 8, follow_symlinks=False)
for name, mode in [("one", 0o4751), ("empty", 0), ("deep/er", 0o2711), ("deep", 0o1777), (".", 0o750)]:
    os.chmod(name, mode)
try:
    os.setxattr("odd", "user.small", b"value")
    os.setxattr("odd", "user.empty", b"")
    os.setxattr("big", "user.large", rng.randbytes(3000))
    os.setxattr("deep", "user.dir", b"on a directory")
except OSError:
    print("the host has no extended attributes here", file=sys.stderr)
os.mkdir("many")
for i in range(1500):
    with open(f"many/{i:04}-{'n' * (i % 200)}", "w") as f:
        f.write(str(i))
open(b"bytes \xff\xfe\x01", "w").close()
for directory, names, files in os.walk(".", topdown=False):
    for name in files + ["."]:
        os.utime(os.path.join(directory, name), ns=(rng.randrange(10**18), rng.randrange(10**18)), follow_symlinks=False)
EOF

# Everything that stat, the content and the attributes show; inode numbers only as who shares them.
cat >"$tmp/manifest.py" <<'EOF'
import hashlib, os, stat, sys

root = os.fsencode(sys.argv[1])
first = {}
for directory, names, files in os.walk(root):
    names.sort()
    for name in sorted(names + files) + ([b"."] if directory == root else []):
        path = os.path.join(directory, name)
        s = os.lstat(path)
        shown = os.path.relpath(path, root)
        line = [shown, oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns]
        if not stat.S_ISDIR(s.st_mode):
            line += [s.st_nlink, s.st_size, first.setdefault((s.st_dev, s.st_ino), shown)]
        if stat.S_ISREG(s.st_mode):
            with open(path, "rb") as f:
                digest = hashlib.sha256()
                while block := f.read(1 << 20):
                    digest.update(block)
                line.append(digest.hexdigest())
            line.append("sparse" if s.st_blocks * 512 < s.st_size // 2 else "full")
        elif stat.S_ISLNK(s.st_mode):
            line.append(os.readlink(path))
        elif stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode):
            line.append(s.st_rdev)
        try:
            attributes = sorted(os.listxattr(path, follow_symlinks=False))
            line.append([(a, os.getxattr(path, a, follow_symlinks=False)) for a in attributes])
        except OSError:
            line.append([])
        print(*line)
EOF

python3 "$tmp/manifest.py" "$tree" >"$tmp/expected"
mkfs.aegisfs --json -r "$tree" "$tmp/image" 256M >"$tmp/json"
python3 - "$tmp/json" <<'EOF' || fail "JSON of a copy"
import json, sys
copied = json.load(open(sys.argv[1]))["copied"]
assert copied["directories"] == 4 and copied["hard_links"] == 3, copied
assert copied["files"] >= 1508 and copied["bytes"] < 30 << 20, copied
EOF
check_volume "$tmp/image" "a copied tree"
mount_volume "$tmp/image" "$tmp/mnt" ro
python3 "$tmp/manifest.py" "$tmp/mnt" >"$tmp/copied"
diff "$tmp/expected" "$tmp/copied" >"$tmp/diff" || { head -20 "$tmp/diff"; fail "the copy differs"; }
unmount_volume "$tmp/mnt"

# Access times too: before anything has been read.
a=$(stat -c %x "$tree/one")
mkfs.aegisfs -q -f -r "$tree" "$tmp/image"
mount_volume "$tmp/image" "$tmp/mnt" noatime
[[ $(stat -c %x "$tmp/mnt/one") == "$a" || $(stat -c %x "$tree/one") != "$a" ]] || fail "access time"
unmount_volume "$tmp/mnt"

# A tree that does not fit, or cannot be read, is an error that says so; nothing is overwritten before.
refused "cannot read .*absent" mkfs.aegisfs -f -r "$tmp/absent" "$tmp/image"
aegisfs inspect superblock "$tmp/image" >/dev/null || fail "a volume was overwritten for nothing"
head -c 60M /dev/urandom >"$tree/huge"
refused "huge: no space left.*" mkfs.aegisfs -r "$tree" "$tmp/small" 48M
