# SPDX-License-Identifier: GPL-2.0-only
"""Names: unnamed files, renames of all kinds, hard links."""

import errno
import os
import stat

import lib_calls as t
from lib_calls import (AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, EXCHANGE, NOREPLACE, WHITEOUT, as_user,
                       call, mode, read, refused, renameat2, same, write)


def linkat(old_fd, old, new, flags):
    return call(265, old_fd, old, AT_FDCWD, new, flags)


def check_unnamed_files():
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"content" * 1000)
    s = os.fstat(fd)
    same((s.st_nlink, s.st_mode & 0o7777, s.st_size), (0, 0o640, 7000))
    same(os.listdir("."), [])
    linkat(AT_FDCWD, f"/proc/self/fd/{fd}", "by-proc", AT_SYMLINK_FOLLOW)
    same(os.fstat(fd).st_nlink, 1)
    same(read("by-proc"), b"content" * 1000)
    linkat(AT_FDCWD, f"/proc/self/fd/{fd}", "again", AT_SYMLINK_FOLLOW)
    os.unlink("again")
    os.unlink("by-proc")
    with refused(errno.ENOENT):
        linkat(AT_FDCWD, f"/proc/self/fd/{fd}", "gone", AT_SYMLINK_FOLLOW)
    os.close(fd)
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    linkat(fd, "", "by-fd", AT_EMPTY_PATH)
    os.close(fd)
    os.unlink("by-fd")
    fd = os.open(".", os.O_TMPFILE | os.O_EXCL | os.O_RDWR, 0o600)
    with refused(errno.ENOENT):
        linkat(AT_FDCWD, f"/proc/self/fd/{fd}", "exclusive", AT_SYMLINK_FOLLOW)
    os.close(fd)
    write("f", b"")
    with refused(errno.ENOTDIR):
        os.open("f", os.O_TMPFILE | os.O_RDWR)
    with refused(errno.EINVAL):
        os.open(".", os.O_TMPFILE | os.O_RDONLY)
    with refused(errno.ENOENT):
        os.open("absent", os.O_TMPFILE | os.O_RDWR)

    def other():
        fd = os.open("open", os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(fd, b"mine")
        linkat(AT_FDCWD, f"/proc/self/fd/{fd}", "open/named", AT_SYMLINK_FOLLOW)
        same(read("open/named"), b"mine")

    os.mkdir("open")
    os.chmod("open", 0o777)
    same(as_user(1000, other), None)
    same(as_user(1000, lambda: os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)), errno.EACCES)


def check_rename_errors():
    os.makedirs("d/sub")
    os.mkdir("e")
    os.mkdir("full")
    write("full/x", b"")
    write("f", b"f")
    write("g", b"g")
    for number, old, new, flags in [
            (errno.ENOENT, "absent", "x", 0), (errno.ENOENT, "f", "absent/x", 0),
            (errno.ENOTDIR, "f", "g/x", 0), (errno.ENOTDIR, "d", "f", 0), (errno.EISDIR, "f", "e", 0),
            (errno.ENOTEMPTY, "d", "full", 0), (errno.EINVAL, "d", "d/sub/d", 0),
            (errno.ENOTEMPTY, "d/sub", "d", 0), (errno.EBUSY, ".", "x", 0), (errno.EBUSY, "f", "..", 0),
            (errno.EEXIST, "f", "g", NOREPLACE), (errno.EEXIST, "f", "e", NOREPLACE),
            (errno.ENOENT, "f", "absent", EXCHANGE), (errno.ENOENT, "absent", "f", EXCHANGE),
            (errno.EINVAL, "d", "d/sub", EXCHANGE), (errno.EINVAL, "d/sub", "d", EXCHANGE),
            (errno.EINVAL, "f", "g", NOREPLACE | EXCHANGE), (errno.EINVAL, "f", "g", WHITEOUT | EXCHANGE),
            (errno.EINVAL, "f", "g", 8), (errno.EEXIST, "f", "g", WHITEOUT | NOREPLACE),
            (errno.ENAMETOOLONG, "f", "n" * 256, 0), (errno.ENAMETOOLONG, "n" * 256, "f", 0)]:
        try:
            with refused(number):
                renameat2(old, new, flags)
        except AssertionError as e:
            raise AssertionError(f"rename {old} {new} {flags}: {e}") from e
    same((read("f"), read("g")), (b"f", b"g"))


def check_exchange():
    os.makedirs("a/in")
    os.mkdir("b")
    write("b/f", b"f")
    links = os.stat("a").st_nlink, os.stat("b").st_nlink
    renameat2("a/in", "b/f", EXCHANGE)
    same((read("a/in"), os.path.isdir("b/f")), (b"f", True))
    same((os.stat("a").st_nlink, os.stat("b").st_nlink), (links[0] - 1, links[1] + 1))
    assert os.path.samefile("b/f/..", "b")
    renameat2("a/in", "a/in", EXCHANGE)
    os.symlink("x", "l")
    renameat2("l", "a/in", EXCHANGE)
    same((read("l"), os.readlink("a/in")), (b"f", "x"))


def check_whiteout():
    write("f", b"f")
    write("over", b"over")
    for flags, to in [(WHITEOUT, "over"), (WHITEOUT | NOREPLACE, "new")]:
        renameat2("f", to, flags)
        s = os.stat("f")
        same((stat.S_ISCHR(s.st_mode), s.st_rdev, s.st_uid), (True, 0, 0))
        same(read(to), b"f")
        os.rename(to, "f")
    os.mkdir("open")
    os.chmod("open", 0o2777)
    os.chown("open", 0, 2000)

    def other():
        write("open/f", b"")
        renameat2("open/f", "open/g", WHITEOUT)

    same(as_user(1000, other), None)
    s = os.stat("open/f")
    same((stat.S_ISCHR(s.st_mode), s.st_uid, s.st_gid), (True, 1000, 2000))


def check_link_errors():
    write("f", b"")
    os.mkdir("d")
    with refused(errno.EPERM):
        os.link("d", "e")
    with refused(errno.EEXIST):
        os.link("f", "f")
    with refused(errno.ENOENT):
        os.link("absent", "x")
    with refused(errno.ENOENT):
        os.link("f", "absent/x")
    os.symlink("f", "l")
    os.link("l", "m", follow_symlinks=False)
    same(os.readlink("m"), "f")
    with refused(errno.EXDEV):
        os.link("/proc/self/status", "x")
    same(mode("f"), 0o644)


def check_bytes_of_names():
    """Every byte but `/` and NUL; names of 255 bytes; targets of 4095."""
    names = [bytes([c]) for c in range(1, 256) if c not in b"./"]
    names += [bytes(range(1, 47)) + bytes(range(48, 256)), b"\xff" * 255, b"n" * 255, b"..."]
    for n in names:
        write(n, n)
    same(sorted(os.listdir(b".")), sorted(names))
    for n in names:
        same(read(n), n)
        os.unlink(n)
    with refused(errno.ENAMETOOLONG):
        os.mkdir(b"n" * 256)
    os.symlink(b"t" * 4095, b"l")
    same(len(os.readlink(b"l")), 4095)
    with refused(errno.ENAMETOOLONG):
        os.symlink(b"t" * 4096, b"m")
    with refused(errno.ENAMETOOLONG):
        os.stat("/".join(["." * 1] * 2048) + "/x")
    with refused(errno.ENOENT):
        os.symlink(b"", b"m")


def check_deep_directories():
    """A thousand levels, of which the path is longer than a call takes."""
    top = os.open(".", os.O_RDONLY)
    for i in range(1000):
        os.mkdir(f"level-{i}")
        os.chdir(f"level-{i}")
    write("f", b"deep")
    with refused(errno.ENAMETOOLONG):
        os.stat("/proc/self/cwd/" + "/".join(f"level-{i}" for i in range(1000)))
    for i in reversed(range(1000)):
        os.chdir("..")
        assert os.path.exists(f"level-{i}")
    os.fchdir(top)
    os.system("rm -rf level-0")
    same(os.listdir("."), [])
    os.close(top)


def check_removal_errors():
    os.makedirs("d/sub")
    write("f", b"")
    for number, what, path in [(errno.ENOTEMPTY, os.rmdir, "d"), (errno.ENOTDIR, os.rmdir, "f"),
                               (errno.EISDIR, os.unlink, "d"), (errno.ENOENT, os.unlink, "x"),
                               (errno.EINVAL, os.rmdir, "."), (errno.ENOTEMPTY, os.rmdir, "d/sub/.."),
                               (errno.EEXIST, os.mkdir, "d"), (errno.EEXIST, os.mkfifo, "f")]:
        with refused(number):
            what(path)
    fd = os.open("d/sub", os.O_RDONLY)
    os.rmdir("d/sub")
    for work in [lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd), lambda: os.mkdir("x", dir_fd=fd)]:
        with refused(errno.ENOENT):
            work()
    same(os.listdir(fd), [])
    os.close(fd)
    with refused(errno.ELOOP):
        os.symlink("loop", "loop")
        os.stat("loop")
    with refused(errno.ELOOP):
        os.open("loop", os.O_RDONLY | os.O_NOFOLLOW)
