#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
# The serving process is killed in the middle of work: what was synced is there after the next
# mount, the trees are sound, and nothing holds garbage.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3

mkfs.aegisfs -q "$tmp/image" 256M
mnt=$tmp/mnt

# Writes files, each synced before its name is noted; renames over them; goes on until it fails.
cat >"$tmp/writer.py" <<'EOF'
import hashlib, os, random, sys

base, log, seed = sys.argv[1], open(sys.argv[2], "w"), int(sys.argv[3])
rng = random.Random(seed)
try:
    os.makedirs(base, exist_ok=True)
    directory = os.open(base, os.O_RDONLY)
    for n in range(1000000):
        name = f"{base}/{n % 40}"
        data = rng.randbytes(rng.choice([5, 3000, 4096, 50000, 200000]))
        with open(name + ".new", "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.rename(name + ".new", name)
        if n % 3 == 0:
            os.fsync(directory)
            print(n, n % 40, hashlib.sha256(data).hexdigest(), file=log, flush=True)
        else:
            print(n, n % 40, hashlib.sha256(data).hexdigest(), "maybe", file=log, flush=True)
except OSError:
    pass
EOF

# Every name holds a whole version: the last one synced, or a later one.
cat >"$tmp/verify.py" <<'EOF'
import hashlib, os, sys

base, log = sys.argv[1:]
versions, synced = {}, -1
for line in open(log):
    n, name, digest, *maybe = line.split()
    versions.setdefault(name, []).append((int(n), digest))
    if not maybe:
        synced = int(n)
for name, all_versions in versions.items():
    must = max((n for n, _ in all_versions if n <= synced), default=None)
    allowed = {d for n, d in all_versions if must is None or n >= must}
    path = f"{base}/{name}"
    if not os.path.exists(path):
        assert must is None, f"{path} is missing, synced as version {must}"
        continue
    digest = hashlib.sha256(open(path, "rb").read()).hexdigest()
    # The version under way when the server died was not noted: its content cannot be known.
    if digest not in allowed:
        latest = max(n for v in versions.values() for n, _ in v)
        assert int(name) == (latest + 1) % 40, f"{path} holds none of its versions"
print(f"{sum(map(len, versions.values()))} versions written, synced up to {synced}")
EOF

ahead=0
for round in 1 2 3 4 5 6; do
	mount_volume "$tmp/image" "$mnt"
	server=$(server_of "$mnt")
	for writer in 1 2 3; do
		python3 "$tmp/writer.py" "$mnt/r$round-w$writer" "$tmp/log-$writer" "$round$writer" &
	done
	sleep "$((round % 3)).$((5 + RANDOM % 5))"
	kill -KILL "$server"
	wait
	umount --lazy "$mnt"
	ahead=$((ahead + $(aegisfs inspect journal "$tmp/image" | grep -c "ahead of its data" || true)))
	mount_volume "$tmp/image" "$mnt"
	for writer in 1 2 3; do
		python3 "$tmp/verify.py" "$mnt/r$round-w$writer" "$tmp/log-$writer" ||
			fail "round $round, writer $writer: see above"
	done
	rm -rf "$mnt/r$round-w1"
	unmount_volume "$mnt"
	check_volume "$tmp/image" "round $round"
done
[[ $ahead -gt 0 ]] || fail "no entry of the journals was written beside its data"
