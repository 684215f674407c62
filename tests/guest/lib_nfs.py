#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What an NFS client does with an exported volume: `lib_nfs.py CLIENT SERVER VERSION` works in the mount
point CLIENT, and beside it in SERVER, the exported volume itself. It asks for commands on its standard output,
one a line (`cold`: nothing cached; `restart`: server stopped, volume mounted anew, server started), and waits for
a line in return."""

import ctypes
import errno
import fcntl
import os
import subprocess
import sys
import time

client, server, version = sys.argv[1:]
V4 = version.startswith("4")
os.chdir(client)
libc = ctypes.CDLL(None, use_errno=True)


def same(a, b, what=""):
    assert a == b, f"{what}: {a!r} is not {b!r}"


def ask(what):
    print(what, flush=True)
    assert sys.stdin.readline(), "nobody answers"


def write(path, data, mode="wb"):
    with open(path, mode) as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def at_server(path):
    return os.path.join(server, path)


def handles():
    """What is held open lives through cold caches, a remount of the volume and a restart of the server."""
    os.makedirs("a/b/c/d")
    write("a/b/c/file", b"content")
    fd = os.open("a/b/c/file", os.O_RDWR)
    deep = os.open("a/b/c/d", os.O_RDONLY)
    for how in ["cold", "restart"]:
        ask(how)
        same(os.pread(fd, 99, 0), b"content", how)
        # The server finds the directory by its handle alone, and its way up to the root.
        os.close(os.open("new-" + how, os.O_CREAT | os.O_WRONLY, dir_fd=deep))
        same(os.stat("..", dir_fd=deep).st_ino, os.stat("a/b/c").st_ino)
        # Moved by the server meanwhile.
        os.rename(at_server("a/b"), at_server("moved"))
        same(sorted(os.listdir(deep)), sorted(os.listdir(at_server("moved/c/d"))))
        os.rename(at_server("moved"), at_server("a/b"))
    os.pwrite(fd, b"CONTENT", 0)
    os.fsync(fd)
    same(read(at_server("a/b/c/file")), b"CONTENT")
    # The server deletes file and directory: stale, not somebody else's.
    subprocess.check_call(["rm", "-r", at_server("a/b/c/d")])
    for i in range(20):
        os.mkdir(at_server(f"other{i}"))
    try:
        os.stat("..", dir_fd=deep)
        os.listdir(deep)
        raise AssertionError("a directory that is gone")
    except OSError as e:
        assert e.errno in (errno.ESTALE, errno.ENOENT), e
    os.close(fd)
    os.close(deep)


def names():
    """Renames and deletions under the client's feet, and by it of what is open."""
    write("f", b"1")
    write("g", b"2")
    fd = os.open("g", os.O_RDONLY)
    os.rename("f", "g")
    same((read("g"), os.pread(fd, 9, 0)), (b"1", b"2"))
    os.unlink("g")
    os.close(fd)
    # Closing it deletes the name that it had for the client, which does that on its own time.
    for _ in range(100):
        if not [n for n in os.listdir(server) if n.startswith(".nfs")]:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a deletion of what is open leaves a name")
    write("g", b"3")
    fd = os.open("g", os.O_RDONLY)
    same(os.pread(fd, 9, 0), b"3")
    os.rename(at_server("g"), at_server("h"))
    same((os.pread(fd, 9, 0), read("h")), (b"3", b"3"))
    if V4:
        # The server has it open for the client: it lives on without a name.
        other = os.open("h", os.O_RDONLY)
        os.unlink(at_server("h"))
        ask("cold")
        same(os.pread(other, 9, 0), b"3", "open and deleted by the server")
        os.close(other)
    else:
        os.unlink("h")
    os.close(fd)
    os.symlink("target", "link")
    os.mkfifo("fifo")
    write("one", b"")
    os.link("one", "two")
    same((os.readlink(at_server("link")), os.stat(at_server("two")).st_nlink), ("target", 2))
    os.mkdir("d")
    for i in range(600):
        os.link("one", f"d/{i}")
    seen = []
    with os.scandir("d") as entries:
        for n, e in enumerate(entries):
            seen.append(e.name)
            if n % 10 == 0 and n < 500:
                os.link(at_server("one"), at_server(f"d/more{n}"))
                os.unlink(at_server(f"d/more{n}"))
    stay = [n for n in seen if n[0] != "m"]
    same((len(stay), len(set(stay))), (600, 600), "entries, each once")


def changes():
    """What the server changes, the client's next open sees, though size and times say nothing of it."""
    write("changing", b"%06d" % 0)
    os.mkdir("dir")
    for i in range(1, 60):
        with open(at_server("changing"), "r+b") as f:
            f.write(b"%06d" % i)
        os.utime(at_server("changing"), (1, 1))
        same(read("changing"), b"%06d" % i)
        os.mkdir(at_server(f"dir/{i}"))
        os.utime(at_server("dir"), (1, 1))
        same(len(os.listdir("dir")), i)


def locks():
    """Who locks at the server and who does at the client see each other."""
    write("lock", b"x")
    mine = open("lock", "r+b")
    fcntl.lockf(mine, fcntl.LOCK_EX)
    theirs = open(at_server("lock"), "r+b")
    try:
        fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise AssertionError("the server takes a lock that the client has")
    except BlockingIOError:
        pass
    fcntl.lockf(mine, fcntl.LOCK_UN)
    fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise AssertionError("the client takes a lock that the server has")
    except BlockingIOError:
        pass


def content():
    data = os.urandom(3 << 20)
    write("data", data)
    same(read(at_server("data")), data)
    with open("data", "r+b") as f:
        f.truncate(1 << 20)
        os.posix_fallocate(f.fileno(), 0, 2 << 20) if V4 else f.truncate(2 << 20)
    same(read(at_server("data")), data[:1 << 20] + bytes(1 << 20))


def attributes():
    write("x", b"")
    os.setxattr("x", "user.name", b"v" * 5000)
    same(os.getxattr(at_server("x"), "user.name"), b"v" * 5000)
    os.setxattr(at_server("x"), "user.other", b"")
    same(sorted(n for n in os.listxattr("x") if n.startswith("user.")), ["user.name", "user.other"])
    os.removexattr("x", "user.name")
    same(os.listxattr(at_server("x")), ["user.other"])


def ranges():
    """SEEK, ALLOCATE, DEALLOCATE, CLONE and COPY of version 4.2."""
    data = os.urandom(1 << 20)
    write("ranges", data)
    fd = os.open("ranges", os.O_RDWR)
    # PUNCH_HOLE | KEEP_SIZE
    same(libc.fallocate(fd, 3, ctypes.c_long(256 << 10), ctypes.c_long(256 << 10)), 0, "hole")
    same(os.lseek(fd, 0, os.SEEK_HOLE), 256 << 10)
    same(os.lseek(fd, 256 << 10, os.SEEK_DATA), 512 << 10)
    data = data[:256 << 10] + bytes(256 << 10) + data[512 << 10:]
    same(os.pread(fd, 1 << 20, 0), data)
    clone = os.open("clone", os.O_CREAT | os.O_RDWR)
    before = os.statvfs(server).f_bfree
    fcntl.ioctl(clone, 0x40049409, fd)  # FICLONE
    assert before - os.statvfs(server).f_bfree < 64, "a clone takes space"
    copy = os.open("copy", os.O_CREAT | os.O_RDWR)
    done = 0
    while n := os.copy_file_range(fd, copy, (1 << 20) - done, done, done):
        done += n
    for f, name in [(clone, "clone"), (copy, "copy")]:
        os.fsync(f)
        assert read(at_server(name)) == data, name


parts = [handles, names, changes, content]
if "fuse" not in os.environ.get("DRIVER", ""):
    parts.append(locks)
    if version == "4.2":
        parts += [attributes, ranges]
for part in parts:
    print(f"# {version}: {part.__name__}", flush=True)
    part()
    os.chdir(client)
    subprocess.check_call("rm -rf ./*", shell=True)
