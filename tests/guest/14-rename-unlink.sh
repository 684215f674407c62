#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Renames of all kinds, files that are deleted while open, unnamed files.
# vm: --disk 3G --mem 2048 --cpus 2
# smoke
# timeout: 300
. "$(dirname "$0")/lib.sh"
need python3

fresh
cd "$MNT"

python3 - << 'PY'
import ctypes, errno, os, stat
libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
def rename(a, b, flags=0):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags):
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e), a, None, b)
def fails(e, f, *args):
    try:
        f(*args)
    except OSError as x:
        assert x.errno == e, (x, errno.errorcode[e])
        return
    raise AssertionError("should fail: %r" % (args,))
def put(name, text):
    with open(name, "w") as f:
        f.write(text)
def get(name):
    with open(name) as f:
        return f.read()

# plain, over files, over directories, between directories
os.mkdir("a"); os.mkdir("b"); os.mkdir("b/sub")
put("a/x", "x"); put("b/y", "y")
os.rename("a/x", "b/x"); assert get("b/x") == "x" and not os.path.exists("a/x")
os.rename("b/x", "b/y"); assert get("b/y") == "x" and os.listdir("b") != []
fails(errno.ENOTEMPTY, os.rename, "a", "b")
fails(errno.EISDIR, os.rename, "b/y", "a")
fails(errno.ENOTDIR, os.rename, "a", "b/y")
fails(errno.EINVAL, os.rename, "b", "b/sub/b")
fails(errno.ENOENT, os.rename, "none", "some")
os.rename("b/sub", "a")      # over an empty directory
assert os.stat("a").st_nlink == 2 and os.stat("b").st_nlink == 2
os.mkdir("c"); os.rename("c", "b/c")
assert os.stat("b").st_nlink == 3 and os.stat(".").st_nlink == 4
assert os.path.samefile("b/c/..", "b")
os.link("b/y", "b/z"); os.rename("b/y", "b/z")      # two names of one inode: nothing happens
assert os.path.exists("b/y") and os.path.exists("b/z")
victim = os.open("b/z", os.O_RDONLY); os.unlink("b/y")
put("new", "new"); os.rename("new", "b/z")
assert os.fstat(victim).st_nlink == 0 and os.read(victim, 9) == b"x" and get("b/z") == "new"
os.close(victim)

# RENAME_NOREPLACE
put("n1", "1"); put("n2", "2")
fails(errno.EEXIST, rename, "n1", "n2", NOREPLACE)
rename("n1", "n3", NOREPLACE); assert get("n3") == "1"

# RENAME_EXCHANGE, also of a file and a directory in different directories
rename("n2", "n3", EXCHANGE); assert (get("n2"), get("n3")) == ("1", "2")
os.mkdir("dir"); put("dir/inside", "i")
links = os.stat(".").st_nlink, os.stat("b").st_nlink
rename("dir", "b/z", EXCHANGE)
assert get("dir") == "new" and get("b/z/inside") == "i"
assert (os.stat(".").st_nlink, os.stat("b").st_nlink) == (links[0] - 1, links[1] + 1)
assert os.path.samefile("b/z/..", "b")
fails(errno.ENOENT, rename, "dir", "missing", EXCHANGE)
fails(errno.EINVAL, rename, "b", "b/z/inside", EXCHANGE)

# RENAME_WHITEOUT
rename("n2", "b/w", WHITEOUT)
s = os.stat("n2")
assert stat.S_ISCHR(s.st_mode) and s.st_rdev == 0 and get("b/w") == "1"

# open and deleted: content stays until the last close
fds = []
for i in range(50):
    fd = os.open("u%d" % i, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"%d" % i * 5000)
    fds.append(fd)
os.sync()
for i in range(50):
    os.unlink("u%d" % i)
os.system("echo 3 > /proc/sys/vm/drop_caches")
for i, fd in enumerate(fds):
    assert os.fstat(fd).st_nlink == 0
    assert os.pread(fd, 1 << 20, 0) == b"%d" % i * 5000
    os.pwrite(fd, b"more", 1 << 20)
    os.fsync(fd)
    os.close(fd)
os.mkdir("gone")
d = os.open("gone", os.O_RDONLY)
os.rmdir("gone")
assert os.listdir(d) == []
os.close(d)

# unnamed files
fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
os.write(fd, b"unnamed" * 1000)
assert os.fstat(fd).st_nlink == 0
assert libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, b"named", 0x400) == 0
assert os.fstat(fd).st_nlink == 1 and get("named") == "unnamed" * 1000
os.close(fd)
fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
os.write(fd, b"lost" * 100000)
os.close(fd)
PY

# space of what was deleted comes back
sync
used=$(df --output=used -B1 . | tail -1)
[ "$used" -lt $((20 << 20)) ] || die "$used bytes are used"
before=$(find . -printf '%p %y %n %s %T@ %C@\n' | sort)
cd /
remount_cold
cd "$MNT"
same "after a remount" "$before" "$(find . -printf '%p %y %n %s %T@ %C@\n' | sort)"

# many names in one directory, some moving while it is read
mkdir big
for i in $(seq 1 3000); do echo > big/$i; done
python3 - << 'PY'
import os
seen = []
with os.scandir("big") as it:
    for n, e in enumerate(it):
        seen.append(e.name)
        if n % 3 == 0 and n < 1500:
            os.rename("big/" + e.name, "big/moved-" + e.name)
        if n % 7 == 0 and n > 1500:
            os.unlink("big/" + e.name)
names = set(seen)
assert len(seen) == len(names), "an entry was seen twice"
missing = {str(i) for i in range(1, 3001)} - {s.removeprefix("moved-") for s in names}
assert not missing, "entries were missed: %r" % sorted(missing)[:10]
PY
rm -rf big
cd /
checked
