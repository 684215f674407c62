# SPDX-License-Identifier: GPL-2.0-only
"""Access control lists, extended attributes, and rights that a change of a file takes away."""

import ctypes
import errno
import os
import struct

import lib_calls as t
from lib_calls import as_user, fallocate, mode, read, refused, same, write

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# VFS_CAP_REVISION_2, effective: cap_net_raw.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
NOBODY = 0xffffffff


def acl(owner, users, group, groups, mask, other):
    entries = [(1, owner, NOBODY)] + [(2, p, i) for i, p in users] + [(4, group, NOBODY)]
    entries += [(8, p, i) for i, p in groups]
    if mask is not None:
        entries.append((16, mask, NOBODY))
    entries.append((32, other, NOBODY))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def named(rights, mask=7):
    return acl(6, [(1000, rights)], 4, [], mask, 0)


def has(path, name):
    return name in os.listxattr(path, follow_symlinks=False)


def check_access_list():
    write("f", b"x")
    os.chmod("f", 0o600)
    same(as_user(1000, lambda: read("f")), errno.EACCES)
    before = os.stat("f").st_ctime_ns
    os.setxattr("f", ACCESS, named(4))
    same(mode("f"), 0o670, "the mask shows as the group's bits")
    assert os.stat("f").st_ctime_ns >= before
    same(as_user(1000, lambda: read("f")), None, "named user")
    same(as_user(1000, lambda: write("f", b"y")), errno.EACCES)
    same(as_user(1001, lambda: read("f")), errno.EACCES)
    os.chmod("f", 0o600)
    same(os.getxattr("f", ACCESS), named(4, 0), "chmod sets the mask")
    same(as_user(1000, lambda: read("f")), errno.EACCES, "the mask counts")
    os.chmod("f", 0o640)
    same(os.getxattr("f", ACCESS), named(4, 4))
    # A list that says what the mode says is not kept, but sets the mode.
    os.setxattr("f", ACCESS, acl(7, [], 5, [], None, 1))
    same((mode("f"), has("f", ACCESS)), (0o751, False))
    os.setxattr("f", ACCESS, named(6, 6))
    os.removexattr("f", ACCESS)
    same((mode("f"), has("f", ACCESS)), (0o660, False), "removal leaves the mode")
    with refused(errno.ENODATA):
        os.getxattr("f", ACCESS)
    for bad in [b"\x02", struct.pack("<I", 2) + b"\0" * 7, acl(6, [(7, 7)], 4, [], None, 0),
                acl(6, [(7, 9)], 4, [], 7, 0)]:
        with refused(errno.EINVAL):
            os.setxattr("f", ACCESS, bad)
    with refused(errno.EOPNOTSUPP, errno.EINVAL):
        os.setxattr("f", ACCESS, struct.pack("<I", 9))
    same(as_user(1000, lambda: os.setxattr("f", ACCESS, named(7))), errno.EPERM, "not the owner")
    with refused(errno.EACCES):
        os.setxattr("f", DEFAULT, named(7))
    os.symlink("f", "l")
    with refused(errno.EOPNOTSUPP):
        os.setxattr("l", ACCESS, named(7), follow_symlinks=False)


def check_inheritance():
    os.mkdir("d")
    os.setxattr("d", DEFAULT, acl(7, [(1000, 7)], 5, [(2000, 6)], 7, 0))
    same(mode("d"), 0o755, "the default list is no access list")
    os.umask(0o077)
    write("d/f", b"")
    same(mode("d/f"), 0o660, "the umask does not count")
    same(os.getxattr("d/f", ACCESS), acl(6, [(1000, 7)], 5, [(2000, 6)], 6, 0))
    assert not has("d/f", DEFAULT)
    os.mkdir("d/d")
    same(os.getxattr("d/d", DEFAULT), os.getxattr("d", DEFAULT))
    same(mode("d/d"), 0o770)
    os.mkfifo("d/p", 0o644)
    same(mode("d/p"), 0o640)
    os.symlink("x", "d/l")
    same(os.listxattr("d/l", follow_symlinks=False), [])
    fd = os.open("d", os.O_TMPFILE | os.O_RDWR, 0o666)
    same(os.fstat(fd).st_mode & 0o777, 0o660, "unnamed")
    os.close(fd)
    os.removexattr("d", DEFAULT)
    write("d/g", b"")
    same(mode("d/g"), 0o600, "without a default list the umask counts")
    os.setxattr("d", DEFAULT, struct.pack("<I", 2))
    assert not has("d", DEFAULT)


def check_setgid_and_lists():
    """Who is not in the file's group loses set-group-ID by a chmod, and by a list."""
    write("f", b"")
    os.chown("f", 1000, 2000)
    os.chmod("f", 0o2770)
    same(as_user(1000, lambda: os.setxattr("f", ACCESS, named(6)), groups=[2000]), None)
    same(mode("f"), 0o2670)
    same(as_user(1000, lambda: os.setxattr("f", ACCESS, named(4)), groups=[]), None)
    same(mode("f"), 0o670, "not in the group")
    same(as_user(1000, lambda: os.chmod("f", 0o2770)), None)
    same(mode("f"), 0o770)


def check_xattr_namespaces():
    write("f", b"")
    os.mkdir("d")
    os.symlink("f", "l")
    os.mkfifo("p")
    os.chmod("f", 0o644)
    os.chmod("d", 0o1777)
    for name in ["user.a", "trusted.a", "security.a"]:
        os.setxattr("f", name, b"1")
        os.setxattr("d", name, b"1")
    for special in ["l", "p"]:
        with refused(errno.EPERM):
            os.setxattr(special, "user.a", b"1", follow_symlinks=False)
        os.setxattr(special, "trusted.a", b"1", follow_symlinks=False)
    for name in ["bogus.a", "a", "system.a"]:
        with refused(errno.EOPNOTSUPP):
            os.setxattr("f", name, b"1")
    with refused(errno.EINVAL, errno.EOPNOTSUPP):
        os.setxattr("f", "user.", b"1")

    def other():
        same(os.getxattr("f", "user.a"), b"1")
        with refused(errno.EACCES):
            os.setxattr("f", "user.a", b"2")
        with refused(errno.EPERM):
            # A sticky directory: only its owner.
            os.setxattr("d", "user.a", b"2")
        with refused(errno.ENODATA):
            os.getxattr("f", "trusted.a")
        with refused(errno.EPERM):
            os.setxattr("f", "trusted.a", b"2")
        with refused(errno.EPERM):
            os.setxattr("f", "security.a", b"2")
        assert "trusted.a" not in os.listxattr("f") and "user.a" in os.listxattr("f")

    same(as_user(1000, other), None)
    os.chmod("f", 0o200)
    same(as_user(1000, lambda: os.getxattr("f", "user.a")), errno.EACCES, "unreadable")


def check_xattr_sizes():
    write("f", b"")
    for n in [0, 1, 255, 4096, 8000, 16384, 65535, 65536]:
        os.setxattr("f", "user.v", b"v" * n)
        same(os.getxattr("f", "user.v"), b"v" * n, n)
        os.setxattr("f", f"user.{n}", bytes([n & 255]) * n)
    with refused(errno.E2BIG):
        os.setxattr("f", "user.v", b"v" * 65537)
    os.setxattr("f", "user." + "n" * 250, b"")
    with refused(errno.ERANGE):
        os.setxattr("f", "user." + "n" * 251, b"")
    buf = ctypes.create_string_buffer(10)
    with refused(errno.ERANGE):
        t.call(191, "f", "user.255", buf, 10)
    same(t.call(191, "f", "user.255", buf, 0), 255, "only the size")
    with refused(errno.ERANGE):
        t.call(194, "f", buf, 10)
    with refused(errno.EEXIST):
        os.setxattr("f", "user.v", b"", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr("f", "user.w", b"", os.XATTR_REPLACE)
    with refused(errno.EINVAL):
        os.setxattr("f", "user.v", b"", 8)
    with refused(errno.ENODATA):
        os.removexattr("f", "user.w")
    with refused(errno.ENODATA):
        os.getxattr("f", "user.w")


def check_many_xattrs():
    """More names than one call can list: the values are there all the same."""
    write("f", b"")
    for i in range(1000):
        os.setxattr("f", f"user.{i:03d}", b"%d" % i)
    same(len(os.listxattr("f")), 1000)
    names = [f"user.{i:03d}." + "n" * 200 for i in range(400)]
    for n in names:
        os.setxattr("f", n, n.encode())
    with refused(errno.E2BIG, errno.ERANGE):
        os.listxattr("f")
    for n in names:
        same(os.getxattr("f", n), n.encode())
        os.removexattr("f", n)
    for i in range(0, 1000, 2):
        os.removexattr("f", f"user.{i:03d}")
    same(len(os.listxattr("f")), 500)


def open_and(flags, work):
    def run():
        fd = os.open("f", flags)
        work(fd)
        os.close(fd)
    return run


def check_privileges_go():
    """Set-id bits and file capabilities end when somebody without rights changes the content, and
    when the owner changes."""
    changes = {
        "write": open_and(os.O_WRONLY, lambda fd: os.write(fd, b"new")),
        "pwrite at the end": open_and(os.O_WRONLY, lambda fd: os.pwrite(fd, b"new", 100000)),
        "truncate": lambda: os.truncate("f", 1),
        "longer": lambda: os.truncate("f", 50000),
        "O_TRUNC": lambda: write("f", b""),
        "fallocate": open_and(os.O_WRONLY, lambda fd: fallocate(fd, 0, 0, 10000)),
        "punch": open_and(os.O_WRONLY, lambda fd: fallocate(fd, 3, 0, 10000)),
    }
    for what, change in changes.items():
        write("f", b"x" * 20000)
        os.chmod("f", 0o777)
        os.chown("f", 1000, 1000)
        # FUSE's protocol leaves the bit where there is no group execute, which gives no rights.
        for bits, left in [(0o6777, 0o777), (0o6767, 0o2767 if t.FUSE else 0o767)]:
            os.chmod("f", bits)
            os.setxattr("f", "security.capability", CAPABILITY)
            same(as_user(1001, change), None, what)
            same(oct(mode("f")), oct(left), what)
            same(has_capability("f"), False, f"capability after {what}")
    # Root keeps set-id bits by writing, but not by a change of the owner.
    os.chmod("f", 0o6777)
    write("f", b"root", "r+b")
    same(oct(mode("f")), oct(0o6777), "written by root")
    os.setxattr("f", "security.capability", CAPABILITY)
    os.chown("f", 1002, 1002)
    same(oct(mode("f")), oct(0o777), "chown")
    same(has_capability("f"), False, "capability after chown")
    os.chmod("f", 0o2644)
    os.chown("f", 1003, -1)
    same(oct(mode("f")), oct(0o2644), "set-group-ID without group execute stays for root")
    os.mkdir("d", 0o755)
    os.chmod("d", 0o6755)
    os.chown("d", 1000, 1000)
    same(oct(mode("d")), oct(0o6755), "directories keep theirs")


def has_capability(path):
    try:
        os.getxattr(path, "security.capability")
        return True
    except OSError as e:
        if e.errno == errno.ENODATA:
            return False
        raise





def check_setgid_and_sticky_directories():
    os.mkdir("d")
    os.chown("d", 0, 2000)
    os.chmod("d", 0o2777)
    same(as_user(1000, lambda: (write("d/f", b""), os.mkdir("d/d"), os.symlink("x", "d/l"))), None)
    for name in ["f", "d", "l"]:
        same(os.lstat(f"d/{name}").st_gid, 2000, name)
    same(mode("d/d") & 0o2000, 0o2000, "passed on")

    # Whoever is not in the group gets no file that is set-group-ID to it.
    def executable():
        os.umask(0)
        os.close(os.open("d/x", os.O_CREAT | os.O_WRONLY, 0o2775))

    same(as_user(1000, executable), None)
    same(oct(mode("d/x")), oct(0o775))
    os.mkdir("s")
    os.chmod("s", 0o1777)
    same(as_user(1000, lambda: write("s/f", b"")), None)
    for work in [lambda: os.unlink("s/f"), lambda: os.rename("s/f", "s/g"),
                 lambda: (write("s/mine", b""), os.rename("s/mine", "s/f"))]:
        same(as_user(1001, work), errno.EPERM)
    same(as_user(1000, lambda: os.unlink("s/f")), None)


def check_owners():
    write("f", b"")
    os.chown("f", 1000, 1000)
    same(as_user(1000, lambda: os.chown("f", 1001, -1)), errno.EPERM)
    same(as_user(1000, lambda: os.chown("f", -1, 2000), groups=[2000]), None)
    same(as_user(1000, lambda: os.chown("f", -1, 3000), groups=[2000]), errno.EPERM)
    same(as_user(1001, lambda: os.chmod("f", 0o777)), errno.EPERM)
    same(as_user(1001, lambda: os.utime("f", (1, 1))), errno.EPERM)
    same(as_user(1001, lambda: os.utime("f")), errno.EACCES)
    os.chmod("f", 0o666)
    same(as_user(1001, lambda: os.utime("f")), None)
    os.chown("f", 4294967294, 4294967294)
    same((os.stat("f").st_uid, os.stat("f").st_gid), (4294967294, 4294967294))
