# SPDX-License-Identifier: GPL-2.0-only
"""Damages copies on a device or image, past whoever has it mounted.

usage: lib_damage.py [--where] DEVICE nodes|FILE COPY [FIRST [BLOCKS]]

A bit is turned in copy COPY (0, 1, or all) of every node, or of every block of FILE (from block FIRST
on), whose blocks must differ from all others. Prints how many blocks were damaged; with --where, only the
numbers of these blocks on the device.
"""

import mmap
import os
import sys

BLOCK = 4096
PIECE = 1 << 20
NODE = b"AGnd"


class Device:
    def __init__(self, path):
        # Not through a cache that knows nothing of other writers.
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_SYNC)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        self.memory = mmap.mmap(-1, PIECE)

    def pieces(self):
        at = 0
        while at < self.size:
            n = os.preadv(self.fd, [self.memory], at)
            yield at, self.memory[:n]
            at += n

    def flip(self, at):
        block = memoryview(self.memory)[:BLOCK]
        os.preadv(self.fd, [block], at)
        block[1000] ^= 4
        os.pwritev(self.fd, [block], at)


def main():
    where = sys.argv[1] == "--where"
    if where:
        del sys.argv[1]
    device, what, copy = sys.argv[1:4]
    first = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    wanted = set()
    if what != "nodes":
        with open(what, "rb") as f:
            blocks = [b for b in iter(lambda: f.read(BLOCK), b"")]
        count = int(sys.argv[5]) if len(sys.argv) > 5 else len(blocks)
        wanted = {b.ljust(BLOCK, b"\0") for b in blocks[first : first + count]}
    dev = Device(device)
    seen = {}
    places = []
    for base, piece in dev.pieces():
        for at in range(0, len(piece), BLOCK):
            block = piece[at : at + BLOCK]
            if what == "nodes":
                # A node is known by its checksum and addresses; its copies bear the same.
                key = block[:48] if block[:4] == NODE else None
            else:
                key = block if block in wanted else None
            if key is None:
                continue
            number = seen.get(key, 0)
            seen[key] = number + 1
            if copy in ("all", str(number)):
                places.append(base + at)
    if where:
        print(*(place // BLOCK for place in places))
        return
    for place in places:
        dev.flip(place)
    print(len(places))


main()
