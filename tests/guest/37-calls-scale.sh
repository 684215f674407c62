#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Many: entries while others come and go, hard links, subdirectories, renames that race.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 900
. "$(dirname "$0")/lib.sh"
need python3

fresh
cd "$MNT"
mkdir stay links subs races
PYTHONPATH=$(dirname "$0") python3 - << 'PY'
import ctypes, errno, os, random, sys, time
from lib_churn import churn
libc = ctypes.CDLL(None, use_errno=True)
started = time.time()
def lap(what):
    print("%s: %.0f s" % (what, time.time() - started), flush=True)

# ---- what stays in a directory is listed once, whatever happens to the rest
os.chdir("stay")
N = 20000
for i in range(N):
    os.close(os.open("s%d" % i, os.O_CREAT | os.O_WRONLY))
lap("created")
pid = churn(50)
for _ in range(3):
    seen = {}
    with os.scandir(".") as it:
        for e in it:
            seen[e.name] = seen.get(e.name, 0) + 1
    stayed = [k for k in seen if k[0] == "s"]
    assert len(stayed) == N, len(stayed)
    assert all(seen[k] == 1 for k in stayed), "an entry twice"
os.kill(pid, 9)
os.wait()
lap("listed")
# seekdir: a position stays good when what stood there has gone.
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
d = ctypes.c_void_p(libc.opendir(b"."))
def nextname():
    e = libc.readdir(d)
    return ctypes.string_at(e + 19) if e else None
for _ in range(1000):
    nextname()
at = libc.telldir(d)
rest = []
while (n := nextname()) is not None:
    rest.append(n)
for n in rest[:3]:
    os.unlink(n)
libc.seekdir(d, ctypes.c_long(at))
again = []
while (n := nextname()) is not None:
    again.append(n)
assert again == rest[3:], (len(again), len(rest))
libc.rewinddir(d)
assert nextname() is not None
lap("positions")
os.chdir("..")

# ---- hard links: 65 000, then EMLINK; and one can be taken back
os.chdir("links")
open("f", "w").close()
for i in range(1, 65000):
    os.link("f", "l%d" % i)
assert os.stat("f").st_nlink == 65000
try:
    os.link("f", "more")
    sys.exit("65 001 links")
except OSError as e:
    assert e.errno == errno.EMLINK, e
os.unlink("l1")
os.link("f", "more")
lap("links")
os.chdir("../subs")
# ---- subdirectories: no limit
for i in range(66000):
    os.mkdir("d%d" % i)
assert os.stat(".").st_nlink == 66002, os.stat(".").st_nlink
os.rename("d1", "../moved")
os.rename("../moved", "d1")
lap("subdirectories")

# ---- renames of directories into each other, from several sides
os.chdir("../races")
for i in range(6):
    os.makedirs("r%d/x" % i)
pids = []
for seed in range(6):
    pid = os.fork()
    if pid == 0:
        r = random.Random(seed)
        done = 0
        end = time.time() + 15
        while time.time() < end:
            a, b = r.randrange(6), r.randrange(6)
            paths = ["r%d" % a, "r%d/r%d" % (b, a), "r%d/x" % a, "r%d/x/r%d" % (b, a)]
            flags = r.choice([0, 0, 1, 2])
            if libc.renameat2(-100, r.choice(paths).encode(), -100, r.choice(paths).encode(), flags) == 0:
                done += 1
            elif ctypes.get_errno() not in (errno.ENOENT, errno.EINVAL, errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                os._exit(ctypes.get_errno())
        os._exit(0 if done else 255)
    pids.append(pid)
for pid in pids:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 255), os.strerror(status)
# Wherever they are by now, each is linked from where it is, once.
seen = set()
for path, dirs, _ in os.walk("."):
    st = os.stat(path)
    assert st.st_ino not in seen, path
    seen.add(st.st_ino)
    assert st.st_nlink == 2 + len(dirs), (path, st.st_nlink, dirs)
    for name in dirs:
        assert os.stat(os.path.join(path, name, "..")).st_ino == st.st_ino, (path, name)
lap("races")
PY
before=$(find . | wc -l)
cd /
checked
mount_volume
same "names after a remount" "$before" "$(cd "$MNT"; find . | wc -l)"
unmount_volume
