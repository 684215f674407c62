#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""`lib_quota.py recount MOUNT`: usage, as the volume reports it, is what its files come to.
`lib_quota.py load MOUNT SEED`: random work for several owners in the directories a, b and c, until the volume
takes no more changes."""

import collections
import ctypes
import errno
import fcntl
import json
import mmap
import os
import random
import struct
import subprocess
import sys

FSGETXATTR, FSSETXATTR, GETFLAGS = 0x801c581f, 0x401c5820, 0x80086601
OWNERS, PROJECTS = [0, 1001, 1002, 1003], [0, 7, 8]


def project(path):
    """0 for what cannot be opened; `load` gives such files none."""
    if not (os.path.isfile(path) or os.path.isdir(path)) or os.path.islink(path):
        return 0
    fd = os.open(path, os.O_RDONLY)
    try:
        return struct.unpack("<5I8x", fcntl.ioctl(fd, FSGETXATTR, bytes(28)))[3]
    finally:
        os.close(fd)


def recount(mount):
    want = collections.defaultdict(lambda: [0, 0])
    seen = set()

    def add(path):
        s = os.lstat(path)
        if s.st_ino in seen:
            return
        seen.add(s.st_ino)
        for who in ("user", s.st_uid), ("group", s.st_gid), ("project", project(path)):
            want[who][0] += 512 * s.st_blocks
            want[who][1] += 1

    add(mount)
    for top, dirs, files in os.walk(mount):
        for name in dirs + files:
            add(os.path.join(top, name))
    report = json.loads(subprocess.check_output(["aegisfs", "quota", "report", "--json", mount]))
    have = {(q["type"], q["id"]): [q["space_used"], q["inodes_used"]] for q in report["quotas"]}
    have = {k: v for k, v in have.items() if v != [0, 0]}
    if have != dict(want):
        sys.exit(f"usage: noted {have}, found {dict(want)}")
    print(f"{len(seen)} inodes of {len(have)} owners")


class Load:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.open = []

    def name(self):
        return f"{self.rng.choice('abc')}/{self.rng.randrange(60)}"

    def file(self, flags=0):
        return os.open(self.name(), os.O_RDWR | flags, 0o666)

    def write(self):
        fd = self.file(os.O_CREAT)
        size = self.rng.choice([10, 3000, 5000, 70000, 400000])
        os.pwrite(fd, os.urandom(16) * (size // 16), self.rng.randrange(0, 1 << 20, 512))
        return fd

    def direct(self):
        fd = self.file(os.O_CREAT | os.O_DIRECT)
        with mmap.mmap(-1, 64 << 10) as block:
            os.pwrite(fd, block, self.rng.randrange(0, 1 << 20, 4096))
        return fd

    def mapped(self):
        fd = self.file()
        size = os.fstat(fd).st_size
        if size > 0:
            with mmap.mmap(fd, size) as m:
                m[self.rng.randrange(size)] = 1
        return fd

    def cut(self):
        fd = self.file()
        os.ftruncate(fd, self.rng.randrange(1 << 20))
        return fd

    def allocate(self):
        fd = self.file(os.O_CREAT)
        # Keeping the size or not; holes.
        mode = self.rng.choice([0, 1, 3])
        ctypes.CDLL(None).fallocate(fd, mode, ctypes.c_long(self.rng.randrange(1 << 20)), ctypes.c_long(100000))
        return fd

    def unnamed(self):
        fd = os.open("a", os.O_TMPFILE | os.O_RDWR)
        os.write(fd, b"x" * 30000)
        if self.rng.random() < 0.5:
            # With a directory, so that it follows the link: only then it is linkat.
            os.link(f"/proc/self/fd/{fd}", self.name(), src_dir_fd=fd)
        return fd

    def unlink(self):
        fd = self.file()
        os.unlink(self.name())
        return fd

    def rename(self):
        os.rename(self.name(), self.name())

    def chown(self):
        os.chown(self.name(), self.rng.choice(OWNERS), self.rng.choice(OWNERS))

    def move_to_project(self):
        fd = self.file()
        now = list(struct.unpack("<5I8x", fcntl.ioctl(fd, FSGETXATTR, bytes(28))))
        now[3] = self.rng.choice(PROJECTS)
        fcntl.ioctl(fd, FSSETXATTR, struct.pack("<5I8x", *now))
        return fd

    def others(self):
        name = f"{self.rng.choice('abc')}/o{self.rng.randrange(9)}"
        self.rng.choice([os.mkdir, os.mkfifo, os.rmdir, os.unlink, lambda n: os.symlink("target" * 50, n),
                         lambda n: os.link(self.name(), n)])(name)

    def sync(self):
        if self.rng.random() < 0.1:
            os.sync()
            return None
        fd = self.file()
        os.fsync(fd)
        return fd

    def run(self):
        works = [self.write] * 5 + [self.direct, self.mapped, self.cut, self.allocate, self.unnamed, self.unlink,
                                    self.unlink, self.rename, self.chown, self.chown, self.move_to_project,
                                    self.others, self.sync]
        while True:
            try:
                fd = self.rng.choice(works)()
                if fd is not None:
                    self.open.append(fd)
                if len(self.open) > 20:
                    os.close(self.open.pop(self.rng.randrange(len(self.open))))
            except OSError as e:
                # EOPNOTSUPP: FUSE knows less.
                if e.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY,
                                   errno.ENXIO, errno.EXDEV, errno.EDQUOT, errno.EINVAL, errno.EOPNOTSUPP,
                                   errno.ENOTTY, errno.ELOOP):
                    return


def load(mount, seed):
    os.chdir(mount)
    for n, owner in enumerate(OWNERS):
        if os.fork() == 0:
            # Root may set owners and projects; the others are bound by limits.
            if owner:
                os.setgroups([])
                os.setresgid(owner, owner, owner)
                os.setresuid(owner, owner, owner)
            try:
                Load(f"{seed}-{n}").run()
            finally:
                os._exit(0)
    for _ in OWNERS:
        os.wait()


if sys.argv[1] == "recount":
    recount(sys.argv[2])
else:
    load(sys.argv[2], sys.argv[3])
