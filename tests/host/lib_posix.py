# SPDX-License-Identifier: GPL-2.0-only
"""File operations on a mounted volume, checked against what POSIX and Linux promise.

Usage: lib_posix.py DIRECTORY [NAME...]: runs all checks, or those named, each in a directory of its own.
"""

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../guest"))
from lib_calls import (EXCHANGE, LIBC, NOREPLACE, WHITEOUT, as_user, fallocate, read, refused, renameat2,
                       same, write)

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16
ROOT = os.geteuid() == 0


# ---- names


def check_create_and_remove():
    write("f", b"hello")
    same(read("f"), b"hello")
    same(os.stat("f").st_nlink, 1)
    with refused(errno.EEXIST):
        os.open("f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with refused(errno.ENOENT):
        os.stat("absent")
    with refused(errno.ENOTDIR):
        os.stat("f/x")
    with refused(errno.EISDIR):
        os.unlink(".") if False else os.open(".", os.O_WRONLY)
    os.unlink("f")
    with refused(errno.ENOENT):
        os.stat("f")
    with refused(errno.ENOENT):
        os.unlink("f")


def check_directories():
    os.mkdir("d")
    same(os.stat("d").st_nlink, 2)
    os.mkdir("d/e")
    same(os.stat("d").st_nlink, 3)
    with refused(errno.EEXIST):
        os.mkdir("d")
    with refused(errno.ENOTEMPTY):
        os.rmdir("d")
    with refused(errno.EISDIR):
        os.unlink("d")
    write("f", b"")
    with refused(errno.ENOTDIR):
        os.rmdir("f")
    os.rmdir("d/e")
    same(os.stat("d").st_nlink, 2)
    fd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    same(os.fstat(fd).st_nlink, 0)
    with refused(errno.ENOENT):
        os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(fd)


def check_names():
    long = "n" * 255
    write(long, b"x")
    same(os.listdir("."), [long])
    with refused(errno.ENAMETOOLONG):
        write(long + "n", b"")
    os.unlink(long)
    odd = [b"\xff\xfe\x01", b" ", b"a\nb", "ümläut".encode(), b"-rf", b"*"]
    for name in odd:
        write(os.path.join(b".", name), name)
    same(sorted(os.listdir(b".")), sorted(odd))
    for name in odd:
        same(read(os.path.join(b".", name)), name)


def check_symlinks():
    write("target", b"content")
    os.symlink("target", "link")
    same(os.readlink("link"), "target")
    same(read("link"), b"content")
    same(os.lstat("link").st_size, len("target"))
    assert stat.S_ISLNK(os.lstat("link").st_mode)
    long = "x" * 4095
    os.symlink(long, "long")
    same(os.readlink("long"), long)
    os.symlink("loop", "loop")
    with refused(errno.ELOOP):
        os.stat("loop")
    os.symlink("absent", "dangling")
    with refused(errno.ENOENT):
        os.stat("dangling")
    with refused(errno.EINVAL):
        os.readlink("target")


def check_hard_links():
    write("a", b"1")
    os.link("a", "b")
    same(os.stat("a").st_ino, os.stat("b").st_ino)
    same(os.stat("a").st_nlink, 2)
    write("b", b"22")
    same(read("a"), b"22")
    os.unlink("a")
    same(os.stat("b").st_nlink, 1)
    same(read("b"), b"22")
    os.mkdir("d")
    with refused(errno.EPERM):
        os.link("d", "e")
    with refused(errno.EEXIST):
        os.link("b", "d")
    os.symlink("b", "s")
    os.link("s", "s2", follow_symlinks=False)
    same(os.lstat("s2").st_ino, os.lstat("s").st_ino)


def check_special_files():
    os.mkfifo("fifo")
    assert stat.S_ISFIFO(os.stat("fifo").st_mode)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    assert stat.S_ISSOCK(os.stat("socket").st_mode)
    if ROOT:
        for major, minor in [(1, 3), (8, 1), (259, 70000), (4095, 0xFFFFF)]:
            name = f"dev{major}"
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(major, minor))
            same(os.stat(name).st_rdev, os.makedev(major, minor))
        os.mknod("block", stat.S_IFBLK | 0o600, os.makedev(7, 0))
        assert stat.S_ISBLK(os.stat("block").st_mode)


def check_rename():
    write("a", b"a")
    os.rename("a", "b")
    same(os.listdir("."), ["b"])
    write("c", b"c")
    ino = os.stat("c").st_ino
    os.rename("c", "b")
    same((read("b"), os.stat("b").st_ino, os.listdir(".")), (b"c", ino, ["b"]))
    os.mkdir("d")
    with refused(errno.EISDIR):
        os.rename("b", "d")
    with refused(errno.ENOTDIR):
        os.rename("d", "b")
    os.mkdir("e")
    write("e/x", b"")
    with refused(errno.ENOTEMPTY):
        os.rename("d", "e")
    os.rename("e", "d")
    same(os.listdir("d"), ["x"])
    with refused(errno.EINVAL):
        os.rename("d", "d/inside")
    os.link("b", "b2")
    os.rename("b", "b2")  # two names of one file: nothing happens
    same(sorted(os.listdir(".")), ["b", "b2", "d"])


def check_rename_moves_directories():
    os.makedirs("a/sub/deep")
    os.mkdir("b")
    same((os.stat("a").st_nlink, os.stat("b").st_nlink), (3, 2))
    os.rename("a/sub", "b/sub")
    same((os.stat("a").st_nlink, os.stat("b").st_nlink), (2, 3))
    same(os.stat("b/sub/..").st_ino, os.stat("b").st_ino)
    with refused(errno.EINVAL):
        os.rename("b", "b/sub/deep/b")


def check_rename_flags():
    write("a", b"a")
    write("b", b"b")
    with refused(errno.EEXIST):
        renameat2("a", "b", NOREPLACE)
    renameat2("a", "c", NOREPLACE)
    renameat2("b", "c", EXCHANGE)
    same((read("b"), read("c")), (b"a", b"b"))
    os.mkdir("d")
    write("d/x", b"")
    renameat2("b", "d", EXCHANGE)
    same((os.listdir("b"), read("d")), (["x"], b"a"))
    with refused(errno.ENOENT):
        renameat2("d", "absent", EXCHANGE)
    if ROOT:
        renameat2("d", "e", WHITEOUT)
        same(read("e"), b"a")
        left = os.stat("d")
        assert stat.S_ISCHR(left.st_mode) and left.st_rdev == 0, "whiteout"


def check_unlinked_but_open():
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x" * 100000)
    os.unlink("f")
    same(os.fstat(fd).st_nlink, 0)
    os.write(fd, b"more")
    same(os.pread(fd, 4, 100000), b"more")
    write("f", b"another")
    same(os.fstat(fd).st_size, 100004)
    os.ftruncate(fd, 10)
    same(os.pread(fd, 100, 0), b"x" * 10)
    os.close(fd)
    same(read("f"), b"another")


def check_replaced_but_open():
    write("old", b"old" * 50000)
    write("new", b"new")
    fd = os.open("old", os.O_RDONLY)
    os.rename("new", "old")
    same(os.pread(fd, 3, 149997), b"old")
    same(read("old"), b"new")
    os.close(fd)


def check_unlinked_space_returns():
    before = os.statvfs(".").f_bfree
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    os.write(fd, os.urandom(4 << 20))
    os.unlink("f")
    assert os.statvfs(".").f_bfree < before
    os.close(fd)
    for _ in range(100):
        if os.statvfs(".").f_bfree >= before - 64:
            return
        time.sleep(0.05)
    raise AssertionError(f"space is not back: {before} blocks free before, now {os.statvfs('.').f_bfree}")


# ---- listing


def check_large_directory():
    names = {f"file-{i:05}-{'x' * (i % 97)}" for i in range(5000)}
    os.mkdir("d")
    for name in names:
        os.close(os.open(f"d/{name}", os.O_CREAT | os.O_WRONLY))
    same(set(os.listdir("d")), names)
    for entry in os.scandir("d"):
        same(entry.inode(), os.stat(f"d/{entry.name}").st_ino, entry.name)
    # Removing while listing: what stays is listed exactly once.
    gone = set()
    seen = []
    for i, entry in enumerate(os.scandir("d")):
        seen.append(entry.name)
        victim = f"file-{(i * 7) % 5000:05}-{'x' * ((i * 7) % 5000 % 97)}"
        if i % 3 == 0 and victim not in gone:
            os.unlink(f"d/{victim}")
            gone.add(victim)
    same(len(seen), len(set(seen)), "entries listed twice")
    same(names - gone - set(seen), set(), "entries that stay but were not listed")
    shutil.rmtree("d")


def check_positions():
    os.mkdir("d")
    for i in range(300):
        write(f"d/{i}", b"")
    LIBC.opendir.restype = LIBC.readdir.restype = ctypes.c_void_p
    LIBC.telldir.restype = ctypes.c_long
    directory = ctypes.c_void_p(LIBC.opendir(b"d"))

    def next_name():
        entry = LIBC.readdir(directory)
        # struct dirent: inode, position, length, type, name.
        return ctypes.string_at(entry + 19) if entry else None

    order, places = [], []
    while True:
        places.append(LIBC.telldir(directory))
        name = next_name()
        if name is None:
            break
        order.append(name)
    same(len(order), 302)
    same(set(order) >= {b".", b".."}, True)
    for i in random.sample(range(302), 50):
        LIBC.seekdir(directory, ctypes.c_long(places[i]))
        same(next_name(), order[i], f"position {i}")
    LIBC.closedir(directory)


# ---- content


def check_sizes():
    random.seed(1)
    for size in [0, 1, 100, 2047, 2048, 2049, 4095, 4096, 4097, 65536, 1 << 20, (1 << 20) + 1]:
        data = random.randbytes(size)
        write("f", data)
        same(read("f"), data, f"{size} bytes")
        same(os.stat("f").st_size, size)
    write("f", b"tail", "ab")
    same(read("f")[-4:], b"tail")


def check_random_writes():
    random.seed(2)
    model = bytearray()
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    for i in range(400):
        what = random.random()
        if what < 0.6:
            offset = random.randrange(0, 300000)
            data = random.randbytes(random.randrange(1, 20000))
            os.pwrite(fd, data, offset)
            if len(model) < offset + len(data):
                model.extend(bytes(offset + len(data) - len(model)))
            model[offset:offset + len(data)] = data
        elif what < 0.8:
            size = random.randrange(0, 320000)
            os.ftruncate(fd, size)
            model = model[:size] + bytes(max(0, size - len(model)))
        elif what < 0.9 and len(model) > 0:
            offset = random.randrange(0, len(model))
            length = random.randrange(1, 30000)
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            end = min(offset + length, len(model))
            model[offset:end] = bytes(end - offset)
        else:
            offset = random.randrange(0, 300000)
            length = random.randrange(1, 30000)
            fallocate(fd, ZERO_RANGE, offset, length)
            if len(model) < offset + length:
                model.extend(bytes(offset + length - len(model)))
            model[offset:offset + length] = bytes(length)
        same(os.fstat(fd).st_size, len(model), f"size after step {i}")
        if i % 20 == 0:
            same(os.pread(fd, 400000, 0), bytes(model), f"content after step {i}")
    os.close(fd)
    same(read("f"), bytes(model))


def check_truncate():
    write("f", b"a" * 10000)
    os.truncate("f", 5000)
    os.truncate("f", 10000)
    same(read("f"), b"a" * 5000 + bytes(5000))
    os.truncate("f", 0)
    same((read("f"), os.stat("f").st_blocks), (b"", 0))
    os.truncate("f", 1 << 40)
    same((os.stat("f").st_size, os.stat("f").st_blocks), (1 << 40, 0))
    with refused(errno.EFBIG, errno.EINVAL):
        os.truncate("f", (1 << 63) - 1)
    with open("f", "rb") as f:
        f.seek((1 << 40) - 10)
        same(f.read(), bytes(10))
    write("f", b"x" * 50)
    with open("f", "r+b") as f:
        f.truncate(10)
    same(read("f"), b"x" * 10)


def check_holes():
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"d" * 8192, 1 << 20)
    os.pwrite(fd, b"e" * 4096, 4 << 20)
    os.ftruncate(fd, 8 << 20)
    same(os.lseek(fd, 0, os.SEEK_DATA), 1 << 20)
    same(os.lseek(fd, 0, os.SEEK_HOLE), 0)
    same(os.lseek(fd, (1 << 20) + 5, os.SEEK_DATA), (1 << 20) + 5)
    same(os.lseek(fd, 1 << 20, os.SEEK_HOLE), (1 << 20) + 8192)
    same(os.lseek(fd, 2 << 20, os.SEEK_DATA), 4 << 20)
    same(os.lseek(fd, 4 << 20, os.SEEK_HOLE), (4 << 20) + 4096)
    with refused(errno.ENXIO):
        os.lseek(fd, 5 << 20, os.SEEK_DATA)
    with refused(errno.ENXIO):
        os.lseek(fd, 8 << 20, os.SEEK_HOLE)
    same(os.fstat(fd).st_blocks, 3 * 8)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, (1 << 20) + 4096, 4096)
    same(os.fstat(fd).st_blocks, 2 * 8)
    same(os.pread(fd, 8192, 1 << 20), b"d" * 4096 + bytes(4096))
    os.close(fd)
    write("small", b"tiny")
    fd = os.open("small", os.O_RDONLY)
    same((os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE)), (0, 4))
    os.close(fd)


def check_fallocate():
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    fallocate(fd, 0, 0, 1 << 20)
    same((os.fstat(fd).st_size, os.fstat(fd).st_blocks), (1 << 20, 2048))
    same(os.pread(fd, 1 << 20, 0), bytes(1 << 20))
    fallocate(fd, KEEP_SIZE, 1 << 20, 1 << 20)
    same(os.fstat(fd).st_size, 1 << 20)
    assert os.fstat(fd).st_blocks >= 4096
    os.pwrite(fd, b"x" * 10000, 5000)
    same(os.pread(fd, 20000, 0), bytes(5000) + b"x" * 10000 + bytes(5000))
    fallocate(fd, ZERO_RANGE, 6000, 1000)
    same(os.pread(fd, 3000, 5000), b"x" * 1000 + bytes(1000) + b"x" * 1000)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 4 << 20)
    same((os.fstat(fd).st_size, os.fstat(fd).st_blocks), (1 << 20, 0))
    with refused(errno.EOPNOTSUPP):
        fallocate(fd, COLLAPSE_RANGE, 0, 4096)
    os.close(fd)


def check_append():
    names = [threading.Thread(target=append_lines, args=(i,)) for i in range(4)]
    for t in names:
        t.start()
    for t in names:
        t.join()
    lines = read("log").splitlines()
    same(len(lines), 4 * 200)
    same(sorted(lines), sorted(f"{i}:{n}:{'y' * (n % 50)}".encode() for i in range(4) for n in range(200)))


def append_lines(i):
    fd = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for n in range(200):
        os.write(fd, f"{i}:{n}:{'y' * (n % 50)}\n".encode())
    os.close(fd)


def check_mmap():
    size = 1 << 20
    write("f", bytes(size))
    with open("f", "r+b") as f, mmap.mmap(f.fileno(), size) as m:
        for at in range(0, size, 4096):
            m[at:at + 8] = struct.pack("<Q", at)
        m.flush()
    data = read("f")
    for at in range(0, size, 4096):
        same(struct.unpack_from("<Q", data, at)[0], at)
    with open("f", "r+b") as f:
        m = mmap.mmap(f.fileno(), size)
        f.seek(100)
        f.write(b"through the file")
        f.flush()
        same(bytes(m[100:116]), b"through the file")
        m[200:205] = b"mmap!"
        f.seek(200)
        m.flush()
        same(f.read(5), b"mmap!")
        m.close()


def check_direct_io():
    buffer = mmap.mmap(-1, 1 << 16)
    data = random.Random(3).randbytes(1 << 16)
    buffer.write(data)
    try:
        fd = os.open("f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    except OSError as e:
        same(e.errno, errno.EINVAL)
        return
    for i in range(16):
        same(os.pwritev(fd, [buffer], i << 16), 1 << 16)
    os.close(fd)
    same(read("f"), data * 16)
    fd = os.open("f", os.O_RDONLY | os.O_DIRECT)
    buffer.seek(0)
    buffer.write(bytes(1 << 16))
    same(os.preadv(fd, [buffer], 5 << 16), 1 << 16)
    same(bytes(buffer), data)
    os.close(fd)


def check_copy_file_range():
    data = os.urandom(3 << 20)
    write("a", data)
    source, target = os.open("a", os.O_RDONLY), os.open("b", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < len(data):
        n = os.copy_file_range(source, target, len(data) - done, done, done)
        assert n > 0
        done += n
    same(read("b"), data)
    same(os.copy_file_range(source, target, 100, len(data), 0), 0)
    os.close(source)
    os.close(target)


# ---- attributes


def check_times():
    write("f", b"")
    for pair in [(0, 0), (1_000_000_007, 999_999_999), (-1_500_000_000, -500_000_000), (-3, -1_000_000_001), (1 << 62, 5)]:
        os.utime("f", ns=pair)
        st = os.stat("f")
        same((st.st_atime_ns, st.st_mtime_ns), pair)
    before = time.time_ns() - 100_000_000
    os.utime("f")
    assert os.stat("f").st_mtime_ns >= before
    os.utime("f", ns=(5, 5))
    c = os.stat("f").st_ctime_ns
    assert c >= before
    time.sleep(0.02)
    write("f", b"x")
    st = os.stat("f")
    assert st.st_mtime_ns >= before and st.st_ctime_ns > c, "write sets mtime and ctime"
    os.mkdir("d")
    os.utime("d", ns=(5, 5))
    write("d/x", b"")
    assert os.stat("d").st_mtime_ns >= before, "a new entry sets the directory's mtime"
    for change in [lambda: os.chmod("f", 0o600), lambda: os.link("f", "g"), lambda: os.rename("g", "h"),
                   lambda: os.unlink("h"), lambda: os.setxattr("f", "user.x", b"1")]:
        c = os.stat("f").st_ctime_ns
        time.sleep(0.02)
        change()
        assert os.stat("f").st_ctime_ns > c, "ctime"


def check_extreme_times():
    """Any user can ask for these: the server must live, and give back what the kernel let through."""
    class Timespec(ctypes.Structure):
        _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]

    write("f", b"")
    for sec, nsec in [(-2**63, 0), (-2**63, 999_999_999), (-2**63 + 1, 5), (2**63 - 1, 999_999_999), (-1, 5)]:
        pair = (Timespec * 2)(Timespec(sec, nsec), Timespec(sec, nsec))
        same(LIBC.utimensat(-100, b"f", pair, 0), 0, f"utimensat({sec}, {nsec})")
        shown = subprocess.run(["stat", "-c", "%X %Y", "f"], capture_output=True, text=True, check=True)
        same(shown.stdout.split(), [str(sec)] * 2)


def check_creation_time():
    before = int(time.time()) - 1
    write("f", b"")
    os.utime("f", (5, 5))
    shown = subprocess.run(["stat", "-c", "%W", "f"], capture_output=True, text=True, check=True).stdout
    # 0: this FUSE, or this stat, has none.
    assert int(shown) == 0 or before <= int(shown) <= time.time(), shown


def check_unnamed_files():
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as e:
        same(e.errno, errno.EOPNOTSUPP)
        return
    os.write(fd, b"unnamed" * 1000)
    same((os.fstat(fd).st_nlink, os.listdir(".")), (0, []))
    # AT_FDCWD, AT_SYMLINK_FOLLOW: os.link does not follow the link in /proc.
    same(LIBC.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, b"named", 0x400), 0, "linkat")
    same((os.fstat(fd).st_nlink, read("named")), (1, b"unnamed" * 1000))
    os.close(fd)
    same((read("named"), os.stat("named").st_mode & 0o777), (b"unnamed" * 1000, 0o640))
    files = os.statvfs(".").f_files - os.statvfs(".").f_ffree
    for _ in range(20):
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
        os.write(fd, b"x" * 10000)
        os.close(fd)
    for _ in range(100):
        if os.statvfs(".").f_files - os.statvfs(".").f_ffree == files:
            return
        time.sleep(0.05)
    raise AssertionError("unnamed files stay")


def check_relatime():
    write("f", b"content")
    os.utime("f", ns=(10**9, 2 * 10**9))
    read("f")
    assert os.stat("f").st_atime > 10, "older than the change: set"
    os.utime("f", ns=(time.time_ns() - 3600 * 10**9, 10**9))
    # The change of attributes is later than this access time: set once more, then no more.
    read("f")
    a = os.stat("f").st_atime_ns
    time.sleep(0.05)
    read("f")
    same(os.stat("f").st_atime_ns, a)


def check_modes_and_owners():
    os.umask(0o027)
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir("d", 0o777)
    same([os.stat(x).st_mode & 0o7777 for x in "fd"], [0o640, 0o750])
    os.umask(0)
    for mode in [0, 0o777, 0o7777, 0o1755, 0o4711]:
        os.chmod("f", mode)
        same(os.stat("f").st_mode & 0o7777, mode)
    if not ROOT:
        return
    os.chown("f", 1234, 5678)
    same((os.stat("f").st_uid, os.stat("f").st_gid), (1234, 5678))
    os.chown("f", -1, 9)
    same((os.stat("f").st_uid, os.stat("f").st_gid), (1234, 9))
    os.symlink("f", "l")
    os.chown("l", 7, 7, follow_symlinks=False)
    same((os.lstat("l").st_uid, os.stat("f").st_uid), (7, 1234))


def check_setgid_directories():
    if not ROOT:
        return
    os.mkdir("d")
    os.chown("d", 0, 4321)
    os.chmod("d", 0o2775)
    os.mkdir("d/sub")
    write("d/f", b"")
    os.symlink("x", "d/l")
    same([os.lstat(f"d/{x}").st_gid for x in ["sub", "f", "l"]], [4321] * 3)
    same(os.stat("d/sub").st_mode & 0o2000, 0o2000)
    same(os.stat("d/f").st_mode & 0o2000, 0)


def check_set_id_bits_go():
    if not ROOT:
        return
    os.chmod(".", 0o777)

    def with_bits(change, mode=0o6777):
        write("f", b"x" * 10000)
        os.chown("f", 0, 0)
        os.chmod("f", mode)
        same(os.stat("f").st_mode & 0o7777, mode)
        change()
        return os.stat("f").st_mode & 0o7777

    def user(work):
        return lambda: same(as_user(1000, work), None)

    same(with_bits(user(lambda: write("f", b"y", "r+b"))), 0o777, "write by a user")
    same(with_bits(user(lambda: os.truncate("f", 5))), 0o777, "truncate by a user")
    same(with_bits(lambda: os.chown("f", 1000, 1000)), 0o777, "change of owner")
    same(with_bits(lambda: write("f", b"y", "r+b")), 0o6777, "write by root")
    same(with_bits(user(lambda: write("f", b"y", "r+b")), 0o2767), 0o2767, "without group execute")
    # The kernel knows at once, too: it must not honour a bit that has gone.
    write("f", b"x")
    os.chmod("f", 0o4777)
    fd = os.open("f", os.O_PATH)
    user(lambda: write("f", b"y", "r+b"))()
    same(os.fstat(fd).st_mode & 0o7777, 0o777)
    os.close(fd)


def check_permissions():
    if not ROOT:
        return
    os.mkdir("private", 0o700)
    write("private/f", b"")
    same(as_user(1000, lambda: os.stat("private/f")), errno.EACCES)
    write("f", b"secret")
    os.chmod("f", 0o600)
    same(as_user(1000, lambda: read("f")), errno.EACCES)
    same(as_user(1000, lambda: os.chmod("f", 0o777)), errno.EPERM)
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    write("sticky/f", b"")
    same(as_user(1000, lambda: os.unlink("sticky/f")), errno.EACCES if False else errno.EPERM)
    same(as_user(1000, lambda: write("sticky/own", b"")), None)
    same((os.stat("sticky/own").st_uid, os.stat("sticky/own").st_gid), (1000, 1000))


def check_xattrs():
    write("f", b"")
    with refused(errno.ENODATA):
        os.getxattr("f", "user.a")
    os.setxattr("f", "user.a", b"1")
    os.setxattr("f", "user.empty", b"")
    os.setxattr("f", "user.big", b"z" * 60000)
    same(os.getxattr("f", "user.a"), b"1")
    same(os.getxattr("f", "user.empty"), b"")
    same(os.getxattr("f", "user.big"), b"z" * 60000)
    same(sorted(os.listxattr("f")), ["user.a", "user.big", "user.empty"])
    with refused(errno.EEXIST):
        os.setxattr("f", "user.a", b"2", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr("f", "user.b", b"2", os.XATTR_REPLACE)
    os.setxattr("f", "user.a", b"longer value", os.XATTR_REPLACE)
    same(os.getxattr("f", "user.a"), b"longer value")
    os.removexattr("f", "user.a")
    with refused(errno.ENODATA):
        os.removexattr("f", "user.a")
    same(sorted(os.listxattr("f")), ["user.big", "user.empty"])
    with refused(errno.ENAMETOOLONG, errno.ERANGE):
        os.setxattr("f", "user." + "n" * 255, b"")
    with refused(errno.EOPNOTSUPP):
        os.setxattr("f", "nonsense.x", b"")
    os.setxattr("f", "user." + "n" * 250, b"long name")
    for i in range(200):
        os.setxattr("f", f"user.many{i}", str(i).encode())
    same(len(os.listxattr("f")), 203)
    os.mkdir("d")
    os.setxattr("d", "user.d", b"dir")
    same(os.listxattr("d"), ["user.d"])
    if ROOT:
        os.setxattr("f", "trusted.t", b"t")
        os.setxattr("f", "security.s", b"s")
        assert "trusted.t" in os.listxattr("f")
        os.chmod(".", 0o755)
        os.chmod("f", 0o644)
        same(as_user(1000, lambda: check_hidden("f")), None)


def check_hidden(path):
    if "trusted.t" in os.listxattr(path):
        raise OSError(errno.EBADMSG, "trusted attributes are for root alone")


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


NOBODY = 0xFFFFFFFF


def check_access_lists():
    if not ROOT:
        return
    access, default = "system.posix_acl_access", "system.posix_acl_default"
    os.umask(0o022)
    os.chmod(".", 0o755)
    write("f", b"for one user")
    os.chmod("f", 0o600)
    same(as_user(1000, lambda: read("f")), errno.EACCES)
    os.setxattr("f", access, acl((1, 6, NOBODY), (2, 4, 1000), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)))
    same(os.stat("f").st_mode & 0o777, 0o640, "the group bits show the mask")
    same(as_user(1000, lambda: read("f")), None)
    same(as_user(1001, lambda: read("f")), errno.EACCES)
    os.chmod("f", 0o600)  # takes the mask away
    same(as_user(1000, lambda: read("f")), errno.EACCES)
    same(os.getxattr("f", access)[4:],
         acl((1, 6, NOBODY), (2, 4, 1000), (4, 0, NOBODY), (16, 0, NOBODY), (32, 0, NOBODY))[4:])
    os.removexattr("f", access)
    # What says no more than the mode is not kept.
    os.setxattr("f", access, acl((1, 6, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY)))
    same((os.stat("f").st_mode & 0o777, os.listxattr("f")), (0o644, []))
    with refused(errno.EINVAL):
        os.setxattr("f", access, acl((1, 6, NOBODY)))
    os.mkdir("d")
    os.setxattr("d", default, acl((1, 7, NOBODY), (2, 7, 1000), (4, 5, NOBODY), (16, 7, NOBODY), (32, 5, NOBODY)))
    os.close(os.open("d/f", os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir("d/sub", 0o777)
    # With a default list, the umask does not count.
    same((os.stat("d/f").st_mode & 0o777, os.stat("d/sub").st_mode & 0o777), (0o664, 0o775))
    same(os.getxattr("d/sub", default), os.getxattr("d", default))
    same(as_user(1000, lambda: write("d/f", b"allowed")), None)
    same(as_user(1001, lambda: write("d/f", b"no")), errno.EACCES)


def check_flags():
    if not ROOT:
        return
    GET, SET, IMMUTABLE, APPEND, NODUMP = 0x80086601, 0x40086602, 0x10, 0x20, 0x40
    write("f", b"x")

    def flags(value=None, path="f"):
        fd = os.open(path, os.O_RDONLY)
        try:
            if value is not None:
                fcntl.ioctl(fd, SET, struct.pack("<l", value))
            return struct.unpack("<l", fcntl.ioctl(fd, GET, struct.pack("<l", 0)))[0]
        finally:
            os.close(fd)

    same(flags(), 0)
    same(flags(NODUMP), NODUMP)
    same(flags(IMMUTABLE), IMMUTABLE)
    for attempt in [lambda: write("f", b"y"), lambda: os.unlink("f"), lambda: os.rename("f", "g"),
                    lambda: os.chmod("f", 0o600), lambda: os.link("f", "g"), lambda: os.truncate("f", 0)]:
        with refused(errno.EPERM):
            attempt()
    flags(APPEND)
    with refused(errno.EPERM):
        write("f", b"y")
    write("f", b"y", "ab")
    same(read("f"), b"xy")
    with refused(errno.EPERM):
        os.unlink("f")
    flags(0)
    os.mkdir("d")
    write("d/f", b"")
    flags(IMMUTABLE, "d")
    with refused(errno.EPERM):
        write("d/g", b"")
    with refused(errno.EPERM):
        os.unlink("d/f")
    flags(0, "d")
    os.unlink("d/f")
    os.unlink("f")


def check_locks():
    write("f", b"")
    a, b = os.open("f", os.O_RDWR), os.open("f", os.O_RDWR)
    fcntl.flock(a, fcntl.LOCK_EX)
    with refused(errno.EAGAIN):
        fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(a)
    fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(b)


def check_statfs():
    s = os.statvfs(".")
    same((s.f_bsize, s.f_namemax), (4096, 255))
    assert s.f_blocks >= s.f_bfree >= s.f_bavail > 0
    files = s.f_files - s.f_ffree
    write("f", os.urandom(1 << 20))
    os.sync()
    after = os.statvfs(".")
    assert after.f_bfree <= s.f_bfree - 256
    same(after.f_files - after.f_ffree, files + 1, "inodes in use")


# ---- many at once


def check_parallel():
    """Threads that change and verify files of their own and move them about in shared directories."""
    for shared in "abcd":
        os.mkdir(shared)
    errors = []

    def work(seed):
        rng = random.Random(seed)
        files = {}
        try:
            for i in range(150):
                kind = rng.random()
                if kind < 0.4 or not files:
                    name = f"{rng.choice('abcd')}/t{seed}-{i}"
                    data = rng.randbytes(rng.choice([10, 3000, 5000, 70000]))
                    write(name, data)
                    files[name] = hashlib.sha256(data).digest()
                elif kind < 0.6:
                    old = rng.choice(sorted(files))
                    new = f"{rng.choice('abcd')}/t{seed}-{i}r"
                    os.rename(old, new)
                    files[new] = files.pop(old)
                elif kind < 0.75:
                    name = rng.choice(sorted(files))
                    os.unlink(name)
                    del files[name]
                elif kind < 0.9:
                    name = rng.choice(sorted(files))
                    same(hashlib.sha256(read(name)).digest(), files[name], name)
                else:
                    name = rng.choice(sorted(files))
                    fd = os.open(name, os.O_RDWR)
                    os.fsync(fd)
                    os.close(fd)
            for name, digest in files.items():
                same(hashlib.sha256(read(name)).digest(), digest, name)
            return files
        except BaseException:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise AssertionError(errors[0])


def main():
    root = os.path.abspath(sys.argv[1])
    checks = {n[6:]: f for n, f in sorted(globals().items())
              if n.startswith("check_") and f.__code__.co_argcount == 0}
    chosen = sys.argv[2:] or list(checks)
    failed = 0
    for name in chosen:
        os.chdir(root)
        os.mkdir(name)
        os.chdir(name)
        os.umask(0o022)
        started = time.time()
        try:
            checks[name]()
            print(f"ok {name} ({time.time() - started:.2f} s)", flush=True)
        except BaseException:
            failed += 1
            print(f"FAILED {name}:\n{traceback.format_exc()}", flush=True)
    os.chdir(root)
    print(f"{len(chosen) - failed} of {len(chosen)} checks passed")
    sys.exit(1 if failed else 0)


main()
