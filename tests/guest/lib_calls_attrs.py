# SPDX-License-Identifier: GPL-2.0-only
"""statx, timestamps, chattr, projects."""

import errno
import fcntl
import mmap
import os
import struct
import time

import lib_calls as t
from lib_calls import (AT_FDCWD, AT_SYMLINK_NOFOLLOW, NOREPLACE, EXCHANGE, Statx, as_user, call, read, refused,
                       renameat2, same, write)

SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME, DIRSYNC, PROJINHERIT = (
    0x8, 0x10, 0x20, 0x40, 0x80, 0x10000, 0x20000000)
GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
FSGETXATTR, FSSETXATTR = 0x801c581f, 0x401c5820


def control(path, command, data):
    fd = path if isinstance(path, int) else os.open(path, os.O_RDONLY)
    try:
        return fcntl.ioctl(fd, command, data)
    finally:
        if not isinstance(path, int):
            os.close(fd)


def flags(path, value=None):
    if value is not None:
        control(path, SETFLAGS, struct.pack("<l", value))
    return struct.unpack("<l", control(path, GETFLAGS, struct.pack("<l", 0)))[0]


def fsx(path, xflags=None, project=None):
    """(xflags, project) of a file, after a change of them."""
    now = list(struct.unpack("<5I8x", control(path, FSGETXATTR, bytes(28))))
    if xflags is not None or project is not None:
        now[0] = now[0] if xflags is None else xflags
        now[3] = now[3] if project is None else project
        control(path, FSSETXATTR, struct.pack("<5I8x", *now))
        return fsx(path)
    return now[0], now[3]


def check_statx():
    before = time.time() - 1
    write("f", b"x" * 5000)
    s = Statx("f")
    same((s.mask & 0xfff, s.blksize, s.size, s.nlink), (0xfff, 4096, 5000, 1))
    assert before < s.btime[0] + s.btime[1] / 1e9 <= time.time(), s.btime
    os.utime("f", (5, 5))
    same(Statx("f").btime, s.btime, "birth stays")
    assert Statx("f").mnt_id, "no mount"
    if t.FUSE:
        return
    same((s.dio_offset, s.dio_read, s.mask & 0x22000), (4096, 4096, 0x22000))
    assert 0 < s.dio_mem <= 4096, s.dio_mem
    # What is said of alignment holds.
    fd = os.open("f", os.O_RDWR | os.O_DIRECT)
    buffer = memoryview(mmap.mmap(-1, 3 * 4096))
    at = s.dio_mem % 4096
    same(os.preadv(fd, [buffer[at:at + 4096]], 0), 4096)
    same(bytes(buffer[at:at + 4096]), b"x" * 4096)
    same(os.pwritev(fd, [buffer[at:at + 4096]], 4096), 4096)
    # No write larger than the hardware's is promised to be whole.
    same((s.atomic, s.attributes & 0x400000), ((0, 0, 0, 0), 0))
    with refused(errno.EOPNOTSUPP):
        os.pwritev(fd, [buffer[:4096]], 0, 0x40)  # RWF_ATOMIC
    os.close(fd)
    # All that is in the volume is in its one subvolume.
    same((s.mask & 0x8000, s.subvolume, Statx(".").subvolume), (0x8000, 256, 256))
    same(s.attributes_mask & 0x70, 0x70, "attributes that are known")
    for flag, attribute in [(IMMUTABLE, 0x10), (APPEND, 0x20), (NODUMP, 0x40)]:
        flags("f", flag)
        same(Statx("f").attributes & 0x70, attribute)
    flags("f", 0)
    same(Statx(".").attributes & 0x70, 0)


def check_times():
    """Nanoseconds, and years before and after those of other filesystems."""
    write("f", b"")
    os.symlink("f", "l")
    times = [0, 1, -1, -10 ** 9 * 3, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 34 - 1, 2 ** 34, 2 ** 36, -2 ** 33]
    for i, sec in enumerate(times):
        ns = sec * 10 ** 9 + 123456789 + i
        os.utime("f", ns=(ns, ns + 1))
        s = Statx("f")
        same((s.atime, s.mtime), ((sec, 123456789 + i), (sec, 123456790 + i)))
        os.utime("l", ns=(ns, ns), follow_symlinks=False)
        same(Statx("l").mtime, (sec, 123456789 + i))
        write(f"at{sec}", b"")
        os.utime(f"at{sec}", ns=(ns, ns))


def check_time_changes():
    """Which calls change which times."""
    def changed(path, work):
        before = Statx(path)
        time.sleep(0.02)
        work()
        after = Statx(path)
        assert after.ctime >= before.ctime, "ctime goes back"
        return "".join(n for n, a, b in [("m", before.mtime, after.mtime), ("c", before.ctime, after.ctime)]
                       if a != b)

    write("f", b"x" * 10)
    os.mkdir("d")
    for expected, path, work in [
            ("mc", "f", lambda: write("f", b"y" * 10, "r+b")), ("mc", "f", lambda: os.truncate("f", 3)),
            ("mc", "f", lambda: os.truncate("f", 300)), ("c", "f", lambda: os.chmod("f", 0o600)),
            ("c", "f", lambda: os.chown("f", 0, 0)), ("c", "f", lambda: os.link("f", "g")),
            ("c", "f", lambda: os.unlink("g")), ("c", "f", lambda: os.rename("f", "h")),
            ("c", "h", lambda: os.setxattr("h", "user.a", b"")), ("", "h", lambda: read("h")),
            ("c", "h", lambda: os.removexattr("h", "user.a")), ("mc", "d", lambda: write("d/f", b"")),
            ("", "d", lambda: write("d/f", b"x")), ("mc", "d", lambda: os.mkdir("d/d")),
            ("mc", "d", lambda: os.rename("d/f", "d/g")), ("mc", "d", lambda: os.unlink("d/g")),
            ("mc", "d", lambda: os.rmdir("d/d")), ("", "d", lambda: os.listdir("d"))]:
        if path == "f" and expected == "c" and not os.path.exists("f"):
            path = "h"
        try:
            if expected == "c" and path == "f" and os.path.exists("f"):
                fd = os.open("f", os.O_PATH)
                same(changed_fd(fd, work), expected)
                os.close(fd)
            else:
                same(changed(path, work), expected)
        except AssertionError as e:
            raise AssertionError(f"{expected} of {path}: {e}") from e


def changed_fd(fd, work):
    before = Statx(fd)
    time.sleep(0.02)
    work()
    after = Statx(fd)
    assert after.ctime >= before.ctime, "ctime goes back"
    return "".join(n for n, a, b in [("m", before.mtime, after.mtime), ("c", before.ctime, after.ctime)] if a != b)


def check_times_never_go_back():
    """Operations on names and writes of content take the time from one clock."""
    write("f", b"")
    last = os.stat("f").st_ctime_ns
    for i in range(300):
        if i % 3 == 0:
            write("f", b"%d" % i, "r+b")
        elif i % 3 == 1:
            os.rename("f", "g")
            os.rename("g", "f")
        else:
            os.setxattr("f", "user.a", b"%d" % i)
        now = os.stat("f").st_ctime_ns
        assert now >= last, f"step {i}: {last - now} ns back"
        last = now


def check_flags_of_files():
    write("f", b"content")
    os.mkdir("d")
    write("d/f", b"")
    same((flags("f"), flags("d")), (0, 0))
    for f in [SYNC, NODUMP, NOATIME, SYNC | NODUMP | NOATIME, 0]:
        same(flags("f", f), f)
    for f in [SYNC | DIRSYNC, PROJINHERIT, DIRSYNC | NODUMP, 0]:
        same(flags("d", f), f)
    # Compression, no copy-on-write, journal of data, no tail, secure deletion, undelete, top of a
    # tree, casefold, verity, encrypted: nothing that would only be remembered.
    for f in [0x4, 0x800000, 0x4000, 0x8000, 0x1, 0x2, 0x20000, 0x40000000, 0x100000, 0x800, 0x80000000]:
        with refused(errno.EOPNOTSUPP, errno.EINVAL):
            flags("f", f if f < 2 ** 31 else f - 2 ** 32)
    for f in [DIRSYNC, PROJINHERIT]:
        with refused(errno.EOPNOTSUPP):
            flags("f", f)
    same(as_user(1000, lambda: flags("f", NODUMP)), errno.EPERM if t.FUSE else errno.EPERM)
    os.chown("f", 1000, 1000)
    same(as_user(1000, lambda: flags("f", NODUMP)), None)
    same(as_user(1000, lambda: flags("f", IMMUTABLE)), errno.EPERM)

    flags("f", IMMUTABLE)
    for work in [lambda: write("f", b""), lambda: os.truncate("f", 0), lambda: os.unlink("f"),
                 lambda: os.rename("f", "g"), lambda: os.chmod("f", 0o600), lambda: os.link("f", "g"),
                 lambda: os.utime("f", (1, 1)), lambda: os.chown("f", 0, 0),
                 lambda: os.setxattr("f", "user.a", b"")]:
        with refused(errno.EPERM):
            work()
    same(read("f"), b"content")
    flags("f", APPEND)
    write("f", b"+", "ab")
    same(read("f"), b"content+")
    for work in [lambda: write("f", b"", "r+b"), lambda: os.truncate("f", 0), lambda: os.unlink("f"),
                 lambda: os.rename("f", "g")]:
        with refused(errno.EPERM):
            work()
    flags("f", 0)
    flags("d", APPEND)
    write("d/g", b"")
    with refused(errno.EPERM):
        os.unlink("d/g")
    with refused(errno.EPERM):
        os.rename("d/g", "d/h")
    flags("d", IMMUTABLE)
    for work in [lambda: write("d/h", b""), lambda: os.unlink("d/f"), lambda: os.mkdir("d/x"),
                 lambda: os.rename("f", "d/x"), lambda: os.rmdir("d")]:
        with refused(errno.EPERM):
            work()
    write("d/f", b"content may change")
    flags("d", 0)


def check_flags_pass_on():
    os.mkdir("d")
    flags("d", SYNC | NODUMP | NOATIME | DIRSYNC)
    write("d/f", b"")
    os.mkdir("d/d")
    os.mkfifo("d/p")
    os.close(os.open("d", os.O_TMPFILE | os.O_RDWR))
    same(flags("d/f"), SYNC | NODUMP | NOATIME)
    same(flags("d/d"), SYNC | NODUMP | NOATIME | DIRSYNC)
    flags("d", APPEND)
    write("d/g", b"")
    same(flags("d/g"), 0)
    flags("d", 0)


def check_projects():
    os.mkdir("p")
    os.mkdir("q")
    write("f", b"")
    same(fsx("p"), (0, 0))
    same(fsx("p", 0x200, 42), (0x200, 42))
    same(flags("p"), PROJINHERIT)
    same(fsx("q", 0x200, 7), (0x200, 7))
    write("p/f", b"")
    os.mkdir("p/d")
    same(fsx("p/f"), (0, 42))
    same(fsx("p/d"), (0x200, 42))
    os.symlink("f", "p/l")
    for work in [lambda: os.link("f", "p/g"), lambda: os.rename("f", "p/g"), lambda: os.rename("p/f", "q/f"),
                 lambda: os.rename("p/d", "q/d"), lambda: renameat2("p/f", "f", EXCHANGE),
                 lambda: renameat2("f", "p/f", EXCHANGE)]:
        with refused(errno.EXDEV):
            work()
    os.link("p/f", "p/g")
    os.rename("p/f", "p/d/f")
    os.rename("p/g", "g")
    same(fsx("g"), (0, 42), "a move out keeps the project")
    os.rename("g", "p/g")
    same(fsx("f", project=42), (0, 42))
    os.rename("f", "p/f")
    fd = os.open("p", os.O_TMPFILE | os.O_RDWR)
    same(fsx(fd)[1], 42)
    os.close(fd)
    for bad in [(0x8000, None), (0x2000, None)]:
        with refused(errno.EOPNOTSUPP, errno.EINVAL):
            fsx("p/f", *bad)
    with refused(errno.EINVAL):
        fsx("p/f", project=2 ** 32 - 1)
    same(fsx("p/f", 0x40 | 0x80), (0x40 | 0x80, 42))
    same(flags("p/f"), NODUMP | NOATIME)
    flags("p/f", NODUMP)
    same(fsx("p/f"), (0x80, 42), "flags leave the project")
    os.chown("p/f", 1000, 1000)
    same(as_user(1000, lambda: fsx("p/f", project=9)), None, "the owner may")
    same(as_user(1001, lambda: fsx("p/f", project=9)), errno.EPERM)


def check_file_attr_calls():
    """file_getattr and file_setattr: also for what cannot be opened."""
    if t.FUSE:
        return
    def get(path):
        import ctypes
        buf = ctypes.create_string_buffer(24)
        call(468, AT_FDCWD, path, buf, 24, AT_SYMLINK_NOFOLLOW)
        return struct.unpack("<QIIII", buf.raw)

    def put(path, xflags, project):
        call(469, AT_FDCWD, path, struct.pack("<QIIII", xflags, 0, 0, project, 0), 24, AT_SYMLINK_NOFOLLOW)

    write("f", b"")
    os.symlink("f", "l")
    os.mkfifo("p")
    for path in ["f", "l", "p", "."]:
        put(path, 0x80, 5)
        same(get(path), (0x80, 0, 0, 5, 0), path)
        put(path, 0, 0)
