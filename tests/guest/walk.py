#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Reads everything below a directory: names, attributes, xattrs, content.

Prints a digest of what was read, and how many calls failed. Exit status 1 if a call fails in a way
that damage on the disk does not explain.
"""

import errno
import hashlib
import os
import stat
import sys

EXPLAINED = {errno.EIO, errno.EUCLEAN, errno.ENOENT, errno.ESTALE, errno.ENODATA, errno.ELOOP,
             # The owner's number is one that nobody has: even root may not look (inode-owner).
             errno.EACCES}
# Damaged directories may be their own ancestors.
DEEPEST = 60
LARGEST = 64 << 20

digest = hashlib.sha256()
errors = 0


def attempt(call, *args):
    """The call's result, or None if it fails."""
    global errors
    try:
        return call(*args)
    except OSError as e:
        if e.errno not in EXPLAINED:
            sys.exit(f"{args}: {e}")
        errors += 1
        return None


def xattr(path, name):
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as e:
        # The volumes have names that are listed, but nothing that the system would give.
        if e.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EINVAL):
            return e.errno
        raise


def content(path):
    with open(path, "rb") as f:
        return f.read(LARGEST)


def walk(path, depth):
    s = attempt(os.lstat, path)
    if s is None:
        return
    digest.update(repr((path, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns,
                        s.st_rdev)).encode())
    for name in sorted(attempt(lambda: os.listxattr(path, follow_symlinks=False)) or []):
        digest.update(repr((name, attempt(xattr, path, name))).encode())
    if stat.S_ISLNK(s.st_mode):
        digest.update(repr(attempt(os.readlink, path)).encode())
    elif stat.S_ISREG(s.st_mode):
        digest.update(attempt(content, path) or b"")
    elif stat.S_ISDIR(s.st_mode) and depth < DEEPEST:
        for name in sorted(attempt(os.listdir, path) or []):
            walk(path + "/" + name, depth + 1)


os.chdir(os.fsencode(sys.argv[1]))
walk(".", 0)
print(digest.hexdigest(), errors)
