# SPDX-License-Identifier: GPL-2.0-only
"""Random clones, moves, writes, holes on a few files, against a model in memory.

Arguments: directory, number of operations, seed. Prints the seed.
"""

import os
import random
import subprocess
import sys

BLOCK = 4096

where, steps = sys.argv[1], int(sys.argv[2])
seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
print(f"reflink.py {where} {steps} {seed}")
rng = random.Random(seed)
names = [os.path.join(where, f"model{i}") for i in range(4)]
models = [bytearray() for _ in names]
for name in names:
    open(name, "wb").close()


def xfs_io(name, command):
    done = subprocess.run(["xfs_io", "-c", command, name], capture_output=True, text=True)
    text = done.stdout + done.stderr
    return done.returncode == 0 and not any(
        word in text.lower() for word in ("invalid", "error", "failed", "no space"))


def put(model, at, data):
    if len(model) < at + len(data):
        model.extend(bytes(at + len(data) - len(model)))
    model[at:at + len(data)] = data


def step(n):
    i, j = rng.randrange(4), rng.randrange(4)
    name, model = names[i], models[i]
    size = len(model)
    blocks = size // BLOCK
    what = rng.randrange(12)
    if what <= 3:
        at, data = rng.randrange(min(size, 400_000) + 9000), rng.randbytes(rng.randrange(1, 60_000))
        with open(name, "r+b") as f:
            f.seek(at)
            f.write(data)
        put(model, at, data)
    elif what == 4:
        to = rng.randrange(size + 20_000)
        os.truncate(name, to)
        del model[to:]
        model.extend(bytes(to - len(model)))
    elif what == 5 and size:
        at, len_ = rng.randrange(size), rng.randrange(1, 50_000)
        assert xfs_io(name, f"fpunch {at} {len_}"), "fpunch"
        end = min(at + len_, size)
        model[at:end] = bytes(end - at)
    elif what <= 8:
        source = rng.randrange(blocks + 1) * BLOCK
        target = rng.randrange(len(models[j]) // BLOCK + 4) * BLOCK
        len_ = size - source
        if rng.randrange(2):
            len_ = len_ // BLOCK * BLOCK
            len_ = rng.randrange(len_ // BLOCK + 1) * BLOCK
        if len_ == 0:
            return
        fine = not (len_ % BLOCK and target + len_ < len(models[j]))
        fine &= not (i == j and abs(source - target) < -(-len_ // BLOCK) * BLOCK)
        done = xfs_io(names[j], f"reflink {name} {source} {target} {len_}")
        assert done == fine, f"reflink {source} {target} {len_}: {done}"
        if fine:
            put(models[j], target, bytes(model[source:source + len_]))
    elif what == 9 and blocks > 1:
        at = rng.randrange(blocks)
        len_ = rng.randrange(1, blocks - at + 1)
        fine = (at + len_) * BLOCK < size
        done = xfs_io(name, f"fcollapse {at * BLOCK} {len_ * BLOCK}")
        assert done == fine, f"fcollapse {at} {len_}: {done}"
        if fine:
            del model[at * BLOCK:(at + len_) * BLOCK]
    elif what == 10 and 0 < size < 2 << 20:
        at, len_ = rng.randrange(size) // BLOCK * BLOCK, rng.randrange(1, 20) * BLOCK
        assert xfs_io(name, f"finsert {at} {len_}"), "finsert"
        model[at:at] = bytes(len_)
    elif what == 11 and size:
        assert xfs_io(name, f"funshare 0 {size}"), "funshare"
    if rng.randrange(10) == 0:
        os.sync()
    if rng.randrange(15) == 0:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")
    for k in {i, j}:
        with open(names[k], "rb") as f:
            got = f.read()
        if got != models[k]:
            first = next((p for p, (a, b) in enumerate(zip(got, models[k])) if a != b), None)
            sys.exit(f"step {n} ({what}): file {k} differs at {first}, "
                     f"{len(got)} bytes instead of {len(models[k])}")


for n in range(steps):
    step(n)
