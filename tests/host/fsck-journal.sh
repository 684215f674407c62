#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 120
# A journal that is damaged before its end: -n reports it, -p leaves it, -y replays what stands before
# the damage and gives up the rest.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3

mkfs.aegisfs -q "$tmp/image" 64M
mnt=$tmp/mnt
mkdir "$mnt"
aegisfs-fuse -f "$tmp/image" "$mnt" &
server=$!
for _ in $(seq 100); do
	mountpoint -q "$mnt" && break
	sleep 0.1
done
# Each in a journal entry of its own; a checkpoint meanwhile is possible, but only one.
python3 - "$mnt" <<'EOF'
import os, sys
for i in range(12):
    fd = os.open(f"{sys.argv[1]}/{i}", os.O_CREAT | os.O_WRONLY)
    os.fsync(fd)
EOF
kill -9 "$server"
wait "$server" || true
umount --lazy "$mnt"

# The third last entry of the ring gets a wrong byte.
python3 - "$tmp/image" <<'EOF'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    data = f.read()
    entries = []
    for at in range(0, len(data), 4096):
        if data[at:at + 4] == b"AGjl":
            epoch, sequence = struct.unpack_from("<QQ", data, at + 24)
            entries.append((epoch, sequence, at))
    at = sorted(entries)[-3][2]
    f.seek(at + 100)
    f.write(bytes([data[at + 100] ^ 1]))
EOF

run() {
	status=0
	fsck.aegisfs "$@" "$tmp/image" >"$tmp/out" 2>&1 || status=$?
}
run -n
[[ $status == 4 ]] || fail "-n: status $status: $(cat "$tmp/out")"
grep -q "can only be given up" "$tmp/out" || fail "-n: $(cat "$tmp/out")"
run -p
[[ $status == 4 ]] || fail "-p gave something up: status $status: $(cat "$tmp/out")"
run -y
[[ $status == 1 ]] || fail "-y: status $status: $(cat "$tmp/out")"
run -n -f
[[ $status == 0 ]] || fail "after -y: status $status: $(cat "$tmp/out")"

mount.fuse.aegisfs "$tmp/image" "$mnt"
for i in 0 8; do
	[[ -e $mnt/$i ]] || fail "$i stands before the damage, and is lost"
done
[[ ! -e $mnt/11 ]] || fail "11 stands after the damage, and is there"
echo x >"$mnt/new"
umount "$mnt"
