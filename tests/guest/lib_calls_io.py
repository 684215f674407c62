# SPDX-License-Identifier: GPL-2.0-only
"""Reading and writing in all ways; locks, leases, notifications."""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import struct
import threading
import time

import lib_calls as t
from lib_calls import as_user, call, fallocate, read, refused, same, write

HIPRI, DSYNC, SYNC, NOWAIT, APPEND, ATOMIC, DONTCACHE = 1, 2, 4, 8, 16, 0x40, 0x80


def buffer(size, fill=0):
    """Memory that direct I/O takes."""
    m = mmap.mmap(-1, size)
    m.write(bytes([fill]) * size)
    return m


def check_write_flags():
    write("f", b"0" * 8192)
    fd = os.open("f", os.O_RDWR)
    for flag in [DSYNC, SYNC, DSYNC | SYNC, HIPRI]:
        same(os.pwritev(fd, [b"abc"], 0, flag), 3)
        same(os.preadv(fd, [bytearray(3)], 0, flag), 3)
    same(os.pwritev(fd, [b"end"], 0, APPEND), 3)
    same(read("f")[:3] + read("f")[-3:], b"abcend")
    with refused(errno.EOPNOTSUPP):
        os.pwritev(fd, [b"x"], 0, ATOMIC)
    for unknown in [0x1000, 0x40000000]:
        with refused(errno.EOPNOTSUPP):
            os.pwritev(fd, [b"x"], 0, unknown)
    # Not waiting: done in part, or EAGAIN, but never wrong. A page that is there is read.
    same(len(read("f")), 8195)
    if not t.FUSE:
        out = bytearray(4096)
        same(os.preadv(fd, [out], 0, NOWAIT), 4096)
        same(out[:3], b"abc")
        # The page is dirty and has its space: it is written to at once.
        # (Unless it has just been written back.)
        for attempt in range(20):
            os.pwrite(fd, b"dirty", 0)
            try:
                same(os.pwritev(fd, [b"again"], 0, NOWAIT), 5)
                break
            except BlockingIOError:
                assert attempt < 19, "never"
        same(os.pread(fd, 5, 0), b"again")
        try:
            same(os.pwritev(fd, [b"later"], 1 << 20, NOWAIT), 5)
        except BlockingIOError:
            same(os.fstat(fd).st_size, 8195)
        same(os.pwritev(fd, [b"away"], 0, DONTCACHE), 4)
        same(os.preadv(fd, [bytearray(4)], 0, DONTCACHE), 4)
        same(os.pread(fd, 4, 0), b"away")
        os.fsync(fd)
        call(221, fd, 0, 0, 4)
        os.preadv(fd, [bytearray(8192)], 0, DONTCACHE)
        same(os.pread(fd, 4, 0), b"away")
    os.close(fd)


def check_direct_at_once():
    """Direct I/O that must not wait does what it can at once, and says EAGAIN otherwise."""
    if t.FUSE:
        return
    fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    m, back = buffer(1 << 16), buffer(4096)
    same(os.pwrite(fd, m, 0), 1 << 16)
    block, done, took = memoryview(m)[:4096], {"read": 0, "write": 0}, []
    for i in range(1, 200):
        where = i % 16 * 4096
        m[:4096] = bytes([i]) * 4096
        # The VFS lets none pass that has a new time to store: only one right after another write.
        for _ in range(3):
            try:
                same(os.pwritev(fd, [block], where, NOWAIT), 4096)
                done["write"] += 1
                break
            except BlockingIOError:
                before = time.monotonic()
                same(os.pwrite(fd, block, where), 4096)
                took.append(time.monotonic() - before)
        try:
            same(os.preadv(fd, [back], where, NOWAIT), 4096)
            done["read"] += 1
        except BlockingIOError:
            same(os.preadv(fd, [back], where), 4096)
        same(back[:], bytes([i]) * 4096)
    assert done["read"], done
    if not done["write"]:
        # A tick of the clock that times are taken from.
        assert min(took) > 0.002, (done, sorted(took))
        print("writes at once are skipped: this kernel needs %.1f ms for one, so each has a new time" % (min(took) * 1e3))
    with refused(errno.EAGAIN):
        os.pwritev(fd, [block], 1 << 20, NOWAIT)
    same(os.fstat(fd).st_size, 1 << 16)
    os.fsync(fd)
    # What is asked for ahead, in many small pieces, is what is read.
    call(221, fd, 0, 0, 4)
    cached = os.open("f", os.O_RDONLY)
    for where in range(0, 1 << 16, 4096):
        os.posix_fadvise(cached, where, 4096, os.POSIX_FADV_WILLNEED)
    for i in range(184, 200):
        same(os.pread(cached, 4096, i % 16 * 4096), bytes([i]) * 4096)
    os.close(cached)
    os.close(fd)


def check_direct():
    size = 1 << 20
    fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    m = buffer(size, 7)
    same(os.pwrite(fd, m, 0), size)
    same(os.pwrite(fd, m, 4 * size), size)
    back = buffer(size)
    same(os.preadv(fd, [back], 0), size)
    same(back[:], bytes([7]) * size)
    same(os.preadv(fd, [back], 2 * size), size)
    same(back[:], bytes(size))
    same(os.preadv(fd, [back], 5 * size), 0)
    same(os.preadv(fd, [back], 5 * size - 4096), 4096)
    if not t.FUSE:
        for work in [lambda: os.preadv(fd, [memoryview(back)[:100]], 0), lambda: os.pwrite(fd, m, 3)]:
            with refused(errno.EINVAL):
                work()
        # Less than a block, but whole sectors of the device: through the page cache.
        same(os.pwrite(fd, memoryview(m)[:512], 512), 512)
    # What is in the cache and what is written directly are one.
    cached = os.open("f", os.O_RDWR)
    os.pwrite(cached, b"cached", 0)
    os.preadv(fd, [memoryview(back)[:4096]], 0)
    same(back[:6], b"cached")
    os.pwrite(fd, memoryview(m)[:4096], 0)
    same(os.pread(cached, 6, 0), bytes([7]) * 6)
    os.close(cached)
    os.close(fd)
    # Appending.
    fd = os.open("a", os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_APPEND)
    for i in range(1, 5):
        same(os.write(fd, memoryview(m)[:4096]), 4096)
        same(os.fstat(fd).st_size, 4096 * i)
    os.close(fd)
    write("a", b"tail", "ab")
    fd = os.open("a", os.O_RDWR | os.O_DIRECT | os.O_APPEND)
    if not t.FUSE:
        with refused(errno.EINVAL):
            os.write(fd, memoryview(m)[:4096])
    os.close(fd)


def check_direct_memory():
    """Direct reads into memory of every kind, also such that changes meanwhile."""
    size = 1 << 18
    content = b"".join(b"%08d" % i * 512 for i in range(size >> 12))
    write("f", content)
    fd = os.open("f", os.O_RDONLY | os.O_DIRECT)
    os.fsync(fd)
    room = buffer(size + 4096)
    memory = memoryview(room)
    for begin in [0, 512, 2048, 4096]:
        memory[:] = b"x" * len(memory)
        same(os.preadv(fd, [memory[begin:begin + size]], 0), size)
        same(bytes(memory[begin:begin + size]), content)
        same(bytes(memory[:begin]), b"x" * begin)
    # In parts that no block fits into, and in such that two do.
    for part in [512, 8192]:
        parts = [memory[at:at + part] for at in reversed(range(0, 1 << 17, part))]
        same(os.preadv(fd, parts, 4096), 1 << 17)
        same(b"".join(parts), content[4096:4096 + (1 << 17)])
    # Two blocks into the same memory: it is one of them.
    same(os.preadv(fd, [memory[:4096], memory[:4096]], 0), 8192)
    assert bytes(memory[:4096]) in (content[:4096], content[4096:8192]), bytes(memory[:16])
    # A thread that scribbles gets what it deserves, but no error; nobody else notices.
    stop = threading.Event()

    def scribble():
        while not stop.is_set():
            for at in range(0, size, 4096):
                room[at] = 255

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(100):
            same(os.preadv(fd, [memory[:size]], 0), size)
    finally:
        stop.set()
        thread.join()
    same(os.preadv(fd, [memory[:size]], 0), size)
    same(bytes(memory[:size]), content)
    os.close(fd)


def check_append_races():
    def work(c):
        fd = os.open("f", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for _ in range(200):
            os.write(fd, c * 77)
        os.close(fd)

    threads = [threading.Thread(target=work, args=(c,)) for c in (b"a", b"b", b"c")]
    [x.start() for x in threads]
    [x.join() for x in threads]
    data = read("f")
    same(len(data), 3 * 200 * 77)
    for i in range(0, len(data), 77):
        assert len(set(data[i:i + 77])) == 1, f"torn at {i}"


def check_moves_of_data():
    """sendfile, splice, vmsplice, tee, copy_file_range."""
    content = os.urandom(300000)
    write("f", content)
    a, b = os.open("f", os.O_RDONLY), os.open("g", os.O_RDWR | os.O_CREAT)
    done = 0
    while done < len(content):
        done += os.sendfile(b, a, done, len(content) - done)
    same(read("g"), content)
    r, w = os.pipe()
    os.ftruncate(b, 0)
    done = 0
    while done < len(content):
        n = os.splice(a, w, 50000, offset_src=done)
        left = n
        while left:
            left -= os.splice(r, b, left, offset_dst=done + n - left)
        done += n
    same(read("g"), content)
    # Pages of the caller's, given to a pipe and from there to the file.
    class Vec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]
    v = Vec(b"gift" * 1000, 4000)
    same(call(278, w, ctypes.byref(v), 1, 0), 4000)
    same(os.splice(r, b, 4000, offset_dst=0), 4000)
    same(read("g")[:4000], b"gift" * 1000)
    os.ftruncate(b, 0)
    done = 0
    while done < len(content):
        done += os.copy_file_range(a, b, len(content) - done, done, done)
    same(read("g"), content)
    with refused(errno.EBADF):
        os.copy_file_range(b, a, 10, 0, 0)
    for fd in (a, b, r, w):
        os.close(fd)


def check_advice():
    write("f", os.urandom(1 << 20))
    fd = os.open("f", os.O_RDWR)
    for advice in range(6):
        os.posix_fadvise(fd, 0, 0, advice)
    call(187, fd, 0, 1 << 20)
    for flags in [0, 1, 2, 4, 7]:
        call(277, fd, 0, 1 << 20, flags)
    with refused(errno.EINVAL):
        call(277, fd, 0, 10, 16)
    call(306, fd)
    m = mmap.mmap(fd, 1 << 20)
    for advice in [0, 1, 2, 3, 4, 21, 22]:
        m.madvise(advice)
    resident = ctypes.create_string_buffer(256)
    m[0] = m[0]
    address = ctypes.addressof(ctypes.c_char.from_buffer(m))
    call(27, address, 1 << 20, resident)
    same(resident.raw[0] & 1, 1, "mincore")
    call(26, address, 1 << 20, 4)
    with refused(errno.EINVAL, errno.EOPNOTSUPP):
        mmap.mmap(fd, 4096, flags=3 | 0x80000)
    os.close(fd)
    path = os.open("f", os.O_PATH)
    with refused(errno.EBADF):
        os.read(path, 1)
    with refused(errno.EBADF):
        os.fchmod(path, 0o600)
    same(os.fstat(path).st_size, 1 << 20)
    os.close(path)


def check_ring():
    """io_uring: reads and writes, buffered and direct, through a ring of the kernel's."""
    params = ctypes.create_string_buffer(120)
    try:
        ring = call(425, 8, params)
    except OSError as e:
        if e.errno in (errno.EPERM, errno.ENOSYS):
            return
        raise
    sq = struct.unpack_from("10I", params, 40)
    cq = struct.unpack_from("10I", params, 80)
    entries, cq_entries = struct.unpack_from("II", params, 0)
    rings = mmap.mmap(ring, max(sq[6] + entries * 4, cq[5] + cq_entries * 16), offset=0)
    sqes = mmap.mmap(ring, entries * 64, offset=0x10000000)

    def submit(opcode, fd, m, length, offset, rw_flags=0):
        address = ctypes.addressof(ctypes.c_char.from_buffer(m)) if m else 0
        tail = struct.unpack_from("I", rings, sq[1])[0]
        index = tail & struct.unpack_from("I", rings, sq[2])[0]
        struct.pack_into("BBHiQQIIQ", sqes, index * 64, opcode, 0, 0, fd, offset, address, length,
                         rw_flags, 99)
        struct.pack_into("24x", sqes, index * 64 + 40)
        struct.pack_into("I", rings, sq[6] + index * 4, index)
        struct.pack_into("I", rings, sq[1], tail + 1)
        same(call(426, ring, 1, 1, 1, 0, 0), 1)
        head = struct.unpack_from("I", rings, cq[0])[0]
        at = cq[5] + (head & struct.unpack_from("I", rings, cq[2])[0]) * 16
        data, result, _ = struct.unpack_from("QiI", rings, at)
        struct.pack_into("I", rings, cq[0], head + 1)
        same(data, 99)
        return result

    READ, WRITE, FSYNC = 22, 23, 3
    for flags in [0, os.O_DIRECT, os.O_APPEND, os.O_DSYNC]:
        fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC | flags)
        for i in range(16):
            same(submit(WRITE, fd, buffer(65536, i), 65536, i * 65536), 65536, f"write with {flags:#x}")
        for i in range(16):
            same(submit(WRITE, fd, buffer(4096, 100 + i), 4096, 0 if flags & os.O_APPEND else i * 65536), 4096)
        same(submit(FSYNC, fd, None, 0, 0), 0)
        size = 16 * 65536 + (16 * 4096 if flags & os.O_APPEND else 0)
        same(os.fstat(fd).st_size, size)
        for cold in [False, True]:
            if cold:
                os.posix_fadvise(fd, 0, 0, 4)
            m = buffer(65536)
            for i in range(16):
                same(submit(READ, fd, m, 65536, i * 65536), 65536)
                head = i if flags & os.O_APPEND else 100 + i
                same((m[0], m[65535]), (head, i), f"read with {flags:#x}")
        same(submit(READ, fd, buffer(4096), 4096, size), 0, "at the end")
        os.close(fd)
    os.close(ring)


def check_limits():
    """The largest file; RLIMIT_FSIZE."""
    import resource
    most = 2 ** 63 - 4096
    fd = os.open("f", os.O_RDWR | os.O_CREAT)
    same(os.pwrite(fd, b"x", most - 1), 1)
    same(os.fstat(fd).st_size, most)
    same(os.pread(fd, 10, most - 1), b"x")
    with refused(errno.EFBIG):
        os.pwrite(fd, b"x", most)
    with refused(errno.EFBIG, errno.EINVAL):
        os.ftruncate(fd, most + 1)
    with refused(errno.EFBIG):
        fallocate(fd, 0, most - 4096, 8192)
    same(os.pwrite(fd, b"xyz", most - 2), 2, "as much as fits")
    os.fsync(fd)
    same(os.lseek(fd, 0, os.SEEK_DATA), most - 4096)
    os.ftruncate(fd, most - 5000)
    os.ftruncate(fd, 0)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        signal.signal(signal.SIGXFSZ, lambda *a: hits.append(a))
        hits = []
        f = os.open("g", os.O_RDWR | os.O_CREAT)
        same(os.pwrite(f, b"x" * 8192, 8000), 2000, "up to the limit")
        for work in [lambda: os.pwrite(f, b"x", 10000), lambda: os.ftruncate(f, 10001),
                     lambda: fallocate(f, 0, 0, 10001)]:
            with refused(errno.EFBIG):
                work()
        same(len(hits), 3, "signals")

    same(as_user(0, limited), None)
    os.close(fd)


def check_many_extents():
    fd = os.open("f", os.O_RDWR | os.O_CREAT)
    n = 20000
    for i in range(0, n, 2):
        os.pwrite(fd, b"%8d" % i, i * 4096)
    os.fsync(fd)
    same(os.fstat(fd).st_blocks, n // 2 * 8)
    os.posix_fadvise(fd, 0, 0, 4)
    for i in range(0, n, 1777):
        same(os.pread(fd, 8, i * 4096), bytes(8) if i % 2 else b"%8d" % i)
    at = holes = 0
    while holes < 50:
        at = os.lseek(fd, at, os.SEEK_HOLE)
        same(at, (holes * 2 + 1) * 4096)
        at = os.lseek(fd, at, os.SEEK_DATA)
        holes += 1
    for i in range(1, n, 2):
        if i % 3 == 0:
            os.pwrite(fd, b"%8d" % i, i * 4096)
    fallocate(fd, 3, 4096 * 100, 4096 * 10000)
    os.fsync(fd)
    same(os.pread(fd, 8, 4096 * 10100), b"%8d" % 10100)
    same(os.pread(fd, 8, 4096 * 10098), bytes(8))
    os.close(fd)
    os.unlink("f")


def check_locks():
    write("f", b"x" * 100)
    a, b = os.open("f", os.O_RDWR), os.open("f", os.O_RDWR)
    fcntl.flock(a, fcntl.LOCK_EX)
    with refused(errno.EAGAIN):
        fcntl.flock(b, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(a, fcntl.LOCK_UN)
    # Of a process.
    fcntl.lockf(a, fcntl.LOCK_EX, 10, 0)
    same(as_user(0, lambda: fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)),
         errno.EAGAIN)
    same(as_user(0, lambda: fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)), None)
    fcntl.lockf(a, fcntl.LOCK_UN)
    # Of an open file.
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0)
    fcntl.fcntl(a, 37, lock)
    with refused(errno.EAGAIN):
        fcntl.fcntl(b, 37, lock)
    fcntl.fcntl(b, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 10, 10, 0))
    os.close(a)
    fcntl.fcntl(b, 37, lock)
    os.close(b)


def check_leases():
    if t.FUSE:
        return
    write("f", b"")
    hits = []
    signal.signal(signal.SIGIO, lambda *a: hits.append(a))
    fd = os.open("f", os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    same(fcntl.fcntl(fd, fcntl.F_GETLEASE), fcntl.F_RDLCK)
    with refused(errno.EAGAIN):
        os.open("f", os.O_WRONLY | os.O_NONBLOCK)
    time.sleep(0.01)
    assert hits, "no signal"
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    os.close(os.open("f", os.O_WRONLY | os.O_NONBLOCK))
    os.close(fd)
    d = os.open(".", os.O_RDONLY)
    hits.clear()
    fcntl.fcntl(d, fcntl.F_NOTIFY, fcntl.DN_CREATE)
    write("new", b"")
    time.sleep(0.01)
    assert hits, "no notification of a directory"
    os.close(d)


def check_notifications():
    i = call(294, 0o4000)
    call(254, i, ".", 0xfff)
    write("f", b"x")
    os.chmod("f", 0o600)
    os.rename("f", "g")
    os.unlink("g")
    data, events = os.read(i, 65536), []
    while data:
        _, mask, _, n = struct.unpack_from("iIII", data)
        events.append(mask)
        data = data[16 + n:]
    same(events, [0x100, 0x20, 0x2, 0x8, 0x4, 0x40, 0x80, 0x200])
    os.close(i)
    if t.FUSE:
        return
    # fanotify with file handles: needs a filesystem id and handles.
    try:
        f = call(300, 0x200 | 2, 0)
    except OSError as e:
        same(e.errno, errno.ENOSYS)
        print("fanotify is skipped: this kernel is built without it")
        return
    call(301, f, 1 | 0x100, 0x100 | 0x200 | 0x8, -100, ".")
    write("f", b"x")
    os.unlink("f")
    assert select.select([f], [], [], 5)[0], "no event"
    data, masks = os.read(f, 65536), 0
    while data:
        n, _, _, _, mask, _, _ = struct.unpack_from("IBBHQii", data)
        masks |= mask
        data = data[n:]
    same(masks & 0x308, 0x308)
    os.close(f)


def check_mmap():
    write("f", b"x" * 10000)
    fd = os.open("f", os.O_RDWR)
    shared, private = mmap.mmap(fd, 10000), mmap.mmap(fd, 10000, flags=mmap.MAP_PRIVATE)
    shared[0:5] = b"hello"
    same(os.pread(fd, 5, 0), b"hello")
    os.pwrite(fd, b"world", 5000)
    same(shared[5000:5005], b"world")
    private[0:5] = b"mine!"
    same(os.pread(fd, 5, 0), b"hello")
    shared.flush()
    # Nothing behind the end is kept.
    os.ftruncate(fd, 100)
    os.ftruncate(fd, 10000)
    same(shared[100:10000], bytes(9900))
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        os.ftruncate(fd, 100)
        shared[5000] = 1
        os._exit(0)
    same(os.WTERMSIG(os.waitpid(pid, 0)[1]), signal.SIGBUS)
    os.close(fd)
