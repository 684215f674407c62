#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What the system calls of Linux promise, checked on a mounted volume.

Usage: lib_calls.py DIRECTORY GROUP...: runs the checks of `lib_calls_GROUP.py`, each in a
directory of its own. `only=NAME` runs one. Runs as root, on the module's mounts and on FUSE's;
`FUSE` tells which.
"""

import ctypes
import errno
import importlib
import os
import struct
import sys
import time
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW = -100, 0x1000, 0x400, 0x100
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
FUSE = False


def call(number, *args):
    """A system call by number; raises OSError."""
    kept = []
    for a in args:
        if isinstance(a, str):
            a = a.encode()
        if isinstance(a, (bytes, bytearray)):
            a = ctypes.c_char_p(bytes(a))
        elif isinstance(a, int):
            a = ctypes.c_long(a)
        kept.append(a)
    result = LIBC.syscall(ctypes.c_long(number), *kept)
    if result < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return result


def renameat2(old, new, flags=0):
    return call(316, AT_FDCWD, old, AT_FDCWD, new, flags)


def fallocate(fd, mode, offset, length):
    return call(285, fd, mode, offset, length)


class Statx:
    """The fields of `struct statx` that are tested."""

    MASK = 0x0003ffff

    def __init__(self, path, flags=AT_SYMLINK_NOFOLLOW, mask=MASK):
        buf = ctypes.create_string_buffer(256)
        dirfd = AT_FDCWD
        if isinstance(path, int):
            dirfd, path, flags = path, "", AT_EMPTY_PATH
        call(332, dirfd, path, flags, mask, buf)
        (self.mask, self.blksize, self.attributes, self.nlink, self.uid, self.gid, self.mode,
         self.ino, self.size, self.blocks, self.attributes_mask) = struct.unpack_from(
             "IIQIIIHxxQQQQ", buf, 0)
        times = [struct.unpack_from("qI", buf, at) for at in (64, 80, 96, 112)]
        self.atime, self.btime, self.ctime, self.mtime = times
        (self.rmajor, self.rminor, self.major, self.minor, self.mnt_id, self.dio_mem,
         self.dio_offset, self.subvolume) = struct.unpack_from("IIIIQIIQ", buf, 128)
        atomic_min, atomic_max, atomic_segments, self.dio_read, atomic_best = struct.unpack_from("5I", buf, 168)
        self.atomic = atomic_min, atomic_max, atomic_segments, atomic_best


def write(path, data, mode="wb"):
    with open(path, mode) as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def mode(path):
    return os.lstat(path).st_mode & 0o7777


def same(got, expected, what=""):
    if got != expected:
        shown = [repr(x)[:300] for x in (got, expected)]
        raise AssertionError(f"{what}: got {shown[0]}, expected {shown[1]}")


class refused:
    """The block must fail with one of these error numbers."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        names = [errno.errorcode[n] for n in self.numbers]
        if error is None:
            raise AssertionError(f"succeeded, expected {names}")
        if not isinstance(error, OSError):
            return False
        if error.errno not in self.numbers:
            raise AssertionError(f"{errno.errorcode.get(error.errno)}, expected {names}") from error
        return True


def as_user(uid, work, gid=None, groups=(), keep=False):
    """Runs `work` in a child as another user; gives None or the error number. `keep`: with the
    capabilities of root."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.setgroups(list(groups))
            if keep:
                LIBC.prctl(8, 1, 0, 0, 0)
            os.setresgid(*[uid if gid is None else gid] * 3)
            os.setresuid(uid, uid, uid)
            work()
        except OSError as e:
            code = e.errno
        except BaseException:
            traceback.print_exc()
            code = 255
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or None


def mount_type(path):
    """Filesystem type of the mount that a directory is in."""
    device = os.stat(path).st_dev
    want = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as f:
        for line in f:
            fields = line.split()
            if fields[2] == want:
                return fields[fields.index("-") + 1]
    raise AssertionError(f"{path} is not on a mount")


def main():
    global FUSE
    root, groups, only = os.path.abspath(sys.argv[1]), [], None
    for argument in sys.argv[2:]:
        if argument.startswith("only="):
            only = argument[5:]
        else:
            groups.append(argument)
    FUSE = mount_type(root).startswith("fuse")
    sys.modules["lib_calls"] = sys.modules["__main__"]
    ran = failed = 0
    for group in groups:
        checks = importlib.import_module(f"lib_calls_{group}")
        for name, check in list(vars(checks).items()):
            if not name.startswith("check_") or (only and name != "check_" + only):
                continue
            where = os.path.join(root, f"{group}-{name[6:]}")
            os.umask(0o022)
            os.mkdir(where)
            os.chdir(where)
            started = time.time()
            ran += 1
            try:
                check()
                print(f"ok {group}: {name[6:]} ({time.time() - started:.1f} s)", flush=True)
            except BaseException:
                failed += 1
                print(f"FAILED {group}: {name[6:]}:\n{traceback.format_exc()}", flush=True)
            os.chdir(root)
    print(f"{ran - failed} of {ran} checks passed")
    sys.exit(1 if failed or not ran else 0)


if __name__ == "__main__":
    main()
