#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""File handles. `lib_handles.py make` makes files in the current directory and notes their handles,
some of files that it deletes; `warm` and `cold` open them, the latter when nothing is cached. Other scripts import
`handle` and `opened`."""

import ctypes, errno, os, pickle, struct, sys
KEPT = os.environ.get("AEGIS_TMP", "/tmp") + "/handles"
libc = ctypes.CDLL(None, use_errno=True)

def failed():
    e = ctypes.get_errno()
    raise OSError(e, os.strerror(e))

def handle(path, flags=0):
    buf = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    if libc.name_to_handle_at(-100, path.encode(), buf, ctypes.byref(ctypes.c_int()), flags):
        failed()
    return buf.raw

def opened(raw, flags=os.O_RDONLY):
    m = os.open(".", os.O_RDONLY)
    fd = libc.open_by_handle_at(m, ctypes.create_string_buffer(raw), flags)
    if fd < 0:
        failed()
    os.close(m)
    return fd

def main():
    if sys.argv[1] == "make":
        os.makedirs("a/b/c/d")
        open("a/b/c/file", "w").write("content")
        open("gone", "w").write("x")
        os.mkdir("gone-dir")
        os.symlink("x", "link")
        kept = {p: handle(p) for p in [".", "a", "a/b/c/d", "a/b/c/file", "gone", "gone-dir", "link"]}
        os.unlink("gone")
        os.rmdir("gone-dir")
        # The next inode of the number, should it be used again, is another one.
        for i in range(100):
            open("new%d" % i, "w").close()
        pickle.dump(kept, open(KEPT, "wb"))
    else:
        kept = pickle.load(open(KEPT, "rb"))
        # Directories out of nowhere: their parents are found, up to the root.
        fd = opened(kept["a/b/c/d"])
        if sys.argv[1] == "cold":
            assert os.readlink("/proc/self/fd/%d" % fd).endswith("/a/b/c/d"), os.readlink("/proc/self/fd/%d" % fd)
        assert os.path.samestat(os.stat("..", dir_fd=fd), os.stat("a/b/c"))
        fd = opened(kept["a/b/c/file"])
        assert os.read(fd, 99) == b"content"
        for p in [".", "a", "link"]:
            fd = opened(kept[p], os.O_PATH | os.O_NOFOLLOW)
            assert os.path.samestat(os.fstat(fd), os.lstat(p)), p
        for p in ["gone", "gone-dir"]:
            try:
                opened(kept[p])
                raise SystemExit(p + " was opened")
            except OSError as e:
                assert e.errno == errno.ESTALE, e
        # Handles from nowhere.
        good = bytearray(kept["a"])
        for at in range(8, 20):
            bad = bytearray(good)
            bad[at] ^= 0x55
            try:
                opened(bytes(bad))
                raise SystemExit("a made-up handle was opened")
            except OSError as e:
                assert e.errno in (errno.ESTALE, errno.EUCLEAN), e

if __name__ == "__main__":
    main()
