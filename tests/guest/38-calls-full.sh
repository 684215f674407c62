#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A full volume in every call: an error or success, never a hang, never a loss; deleting works.
# vm: --disk 1G --mem 2048 --cpus 2
# timeout: 600
. "$(dirname "$0")/lib.sh"
need python3

fresh
cd "$MNT"
mkdir d
python3 - << 'PY'
import errno, mmap, os
open("f", "wb").write(b"content" * 1000)
os.truncate("f", 1 << 20)
fd = os.open("sparse", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 64 << 20)
os.sync()

def fill(step):
    big = os.open("fill", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(big, b"x" * step)
    except OSError as e:
        assert e.errno == errno.ENOSPC, e
    os.close(big)

def small(n):
    try:
        for i in range(n):
            f = os.open("d/%d" % i, os.O_WRONLY | os.O_CREAT)
            os.write(f, b"y" * 3000)
            os.close(f)
    except OSError as e:
        assert e.errno == errno.ENOSPC, e
        return
    raise SystemExit("never full")

fill(1 << 20)
small(1000000)
fill(4096)

outcomes = {}
def attempt(what, work):
    try:
        work()
        outcomes[what] = "ok"
    except OSError as e:
        assert e.errno == errno.ENOSPC, (what, e)
        outcomes[what] = "full"

def many(what, work):
    for i in range(300):
        attempt(what, lambda: work(i))

many("create", lambda i: os.close(os.open("c%d" % i, os.O_CREAT | os.O_WRONLY)))
many("mkdir", lambda i: os.mkdir("m%d" % i))
many("symlink", lambda i: os.symlink("t" * 3000, "s%d" % i))
many("link", lambda i: os.link("f", "l%d" % i))
many("xattr", lambda i: os.setxattr("f", "user.%d" % i, b"v" * 6000))
many("rename", lambda i: os.rename("f", "g") or os.rename("g", "f"))
many("chmod", lambda i: os.chmod("f", 0o600 + i % 8))
many("utime", lambda i: os.utime("f", (i, i)))
many("O_TMPFILE", lambda i: os.close(os.open(".", os.O_TMPFILE | os.O_RDWR)))
many("overwrite", lambda i: os.pwrite(fd, b"z" * 4096, i << 16))
attempt("fallocate", lambda: os.posix_fallocate(fd, 0, 64 << 20))
attempt("fsync", lambda: os.fsync(fd))
print(outcomes)
assert outcomes["chmod"] == outcomes["utime"] == outcomes["fsync"] == "ok", outcomes

# Stores into a mapping: what finds no space is killed by SIGBUS, what does not is kept.
m = mmap.mmap(fd, 64 << 20)
pid = os.fork()
if pid == 0:
    for at in range(0, 64 << 20, 4096):
        m[at] = 77
        with open("/dev/shm/stored", "w") as note:
            note.write(str(at))
    os._exit(0)
status = os.waitpid(pid, 0)[1]
m.flush()
os.fsync(fd)
stored = int(open("/dev/shm/stored").read()) if os.path.exists("/dev/shm/stored") else -4096
print("killed by %d after %d bytes" % (os.WTERMSIG(status), stored))
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == 7, "64 MiB fitted"
m.close()
os.posix_fadvise(fd, 0, 0, 4)
for at in range(0, stored + 1, 4096):
    assert os.pread(fd, 1, at) == b"M", at
PY
sync
drop_caches
same "content" "$(printf 'content%.0s' $(seq 1000) | sha256sum | cut -d' ' -f1)" "$(head -c 7000 f | sha256sum | cut -d' ' -f1)"
# An unlinked file that is open, a crash, and space is back.
exec 7< fill
rm fill
rm -rf d ./?[0-9]* || die "a full volume cannot be emptied"
refused "busy" mount -o remount,ro .
xfs_io -x -c shutdown . > /dev/null
exec 7<&-
cd /
unmount_volume
mount_volume
cd "$MNT"
rm -rf ./fill ./d ./?[0-9]*
dd if=/dev/zero of=again bs=1M count=300 conv=fsync status=none || die "no space after deleting"
cd /
checked
