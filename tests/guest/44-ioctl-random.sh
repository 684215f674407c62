#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# ioctls with random arguments on a volume that is in use, as root and as a user: each answers or refuses, the
# kernel has nothing to report, and the volume is sound. AEGIS_SECONDS: how long; AEGIS_SEED: repeats a run.
# vm: --disk 1G
# timeout: 900
. "$(dirname "$0")/lib.sh"
need python3 setpriv

seconds=${AEGIS_SECONDS:-6}
seed=${AEGIS_SEED:-$RANDOM}
echo "seed $seed"
fresh
mkdir -m 777 "$MNT/area"
for i in {1..20}; do
	head -c $((i * 3000)) /dev/urandom > "$MNT/area/file$i"
done
chmod -R a+rwX "$MNT/area"
digest=$(digest "$MNT/area/file20")
chmod 400 "$MNT/area/file20"
mkdir "$MNT/kept" && mv "$MNT/area/file20" "$MNT/kept/"

attack=/tmp/attack.py
cat > "$attack" <<'PYTHON'
import ctypes, errno, fcntl, os, random, struct, sys, time

directory, seconds, seed, label = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rng = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)

def number(direction, kind, nr, size):
    return direction << 30 | size << 16 | kind << 8 | nr

# Flags, attributes, projects, labels, FIEMAP, clones, dedupe, trim, fsverity, encryption, FIBMAP, own ones.
KNOWN = [0x80086601, 0x40086602, 0x801c581f, 0x401c5820, 0x81009431, 0x41009432, 0xc020660b, 0x40049409,
         0x4020940d, 0xc0189436, 0xc0185879, 0x40806685, 0xc0046686, 0x800c6613, 0x00000001, 0x00000002,
         0x80087601, 0x40087602, 0x80111500, 0x80811501, 0x5421, 0x5460, 0x541b]
# These stop the volume, or make all wait.
NEVER = [0x8004587d, 0xc0045877, 0xc0045878]
WORDS = [0, 1, 2, 3, 4095, 4096, 4097, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
         (1 << 63) - 1, 1 << 63, (1 << 64) - 1]

def request():
    roll = rng.random()
    if roll < 0.7:
        return rng.choice(KNOWN)
    kind = rng.choice([0x94, 0x58, 0x66, 0x15, 0x76, 0x12, ord("A"), rng.randrange(256)])
    if roll < 0.9:
        return number(rng.randrange(4), kind, rng.randrange(256), rng.choice([0, 4, 8, 24, 32, 64, 256, 4096]))
    return rng.getrandbits(32)

def argument():
    if rng.random() < 0.1:
        # Addresses of nothing, of the kernel, and plain numbers.
        return rng.choice([0, 1, 4096, 0x7fffffffffff, 0xffff888000000000, (1 << 64) - 1, rng.getrandbits(64)])
    words = [rng.choice(WORDS) if rng.random() < 0.6 else rng.choice([rng.choice(files), rng.getrandbits(64)])
             for _ in range(rng.choice([1, 2, 4, 8, 64]))]
    buf = ctypes.create_string_buffer(struct.pack(f"<{len(words)}Q", *words), 8192)
    kept.append(buf)
    return ctypes.addressof(buf)

names = [os.path.join(directory, n) for n in sorted(os.listdir(directory))]
files, kept = [], []
def reopen():
    for fd in files:
        os.close(fd)
    files.clear()
    for name in [directory] + names:
        for flags in (os.O_RDWR, os.O_RDONLY):
            try:
                files.append(os.open(name, flags | os.O_NONBLOCK))
            except OSError:
                pass
reopen()
calls, answers, errors = 0, 0, {}
end = time.monotonic() + seconds
while time.monotonic() < end:
    nr = request()
    if nr in NEVER or nr & 0xffff in (0x587d, 0x5877, 0x5878):
        continue
    kept.clear()
    result = libc.ioctl(rng.choice(files), ctypes.c_ulong(nr), ctypes.c_ulong(argument()))
    calls += 1
    if result < 0:
        e = ctypes.get_errno()
        errors[e] = errors.get(e, 0) + 1
    else:
        answers += 1
    if calls % 500 == 0:
        # Flags may have made files immutable; a write now and then.
        try:
            fd = os.open(os.path.join(directory, f"new{calls % 7}"), os.O_CREAT | os.O_WRONLY, 0o666)
            os.write(fd, b"x" * rng.randrange(9000))
            os.close(fd)
        except OSError:
            pass
        reopen()
names_of = {errno.errorcode.get(e, e): n for e, n in sorted(errors.items())}
print(f"{label}: {calls} calls, {answers} answered, errors {names_of}")
odd = [e for e in errors if e in (errno.EIO, errno.EUCLEAN, errno.ENOSYS)]
sys.exit(f"errors that must not be: {odd}" if odd or answers == 0 else 0)
PYTHON
chmod 755 "$attack"
python3 "$attack" "$MNT/area" "$seconds" "$seed" root || die "as root"
setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all \
	python3 "$attack" "$MNT/area" "$seconds" "$seed" user || die "as a user"

# What nobody had a descriptor of is as it was, also after the journal has been replayed.
sync
same "content" "$digest" "$(digest "$MNT/kept/file20")"
remount_cold
same "content later" "$digest" "$(digest "$MNT/kept/file20")"
checked
