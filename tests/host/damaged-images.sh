#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
# Damaged images through FUSE and fsck: nothing crashes, hangs or takes memory without bound; what
# is wrong is reported; and unless checksums were made right again, nothing wrong is ever returned.
# AEGIS_IMAGES: how many. AEGIS_SEED: which.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3

images=${AEGIS_IMAGES:-360}
seed=${AEGIS_SEED:-$RANDOM}
batch=60
mnt=$tmp/mnt
mkdir "$mnt" "$tmp/images"
echo "seed $seed"
# The volumes have 48 MiB; twenty times that must do.
ulimit -v 4000000

# Sets $found to what a walk of the image says, or to why there was none.
walk() {
	local status=0
	found=$(timeout 60 aegisfs-fuse "$1" "$mnt" 2>&1) || status=$?
	[[ $status == 0 || $status == 32 ]] || fail "$1: mount: exit status $status: $found"
	[[ $status == 0 ]] || return 0
	found=$(timeout 60 "$here/../guest/walk.py" "$mnt") || fail "$1: walk: $found"
	# Changes may fail, but then with a reason that is one.
	(echo new >"$mnt/new-file" && mkdir "$mnt/new-dir" && sync -f "$mnt") 2>"$tmp/changes" || true
	grep -qE "not connected|Connection aborted" "$tmp/changes" && fail "$1: $(cat "$tmp/changes")"
	unmount_volume "$mnt"
}

# A volume whose journal deletes the root directory has none: the mount says so.
image=$tmp/images/rootless
mkfs.aegisfs -q "$image" 64M
mount_volume "$image" "$mnt"
echo something >"$mnt/file"
sync "$mnt/file"
kill -KILL "$(server_of "$mnt")"
umount "$mnt"
python3 - "$image" <<'EOF'
import struct, sys, zlib

with open(sys.argv[1], "r+b") as image:
    disk = image.read()
    entries = [at for at in range(0, len(disk), 4096) if disk[at:at + 4] == b"AGjl"]
    at = max(entries, key=lambda at: struct.unpack_from("<Q", disk, at + 32))
    step = struct.pack("<BBHIQQ", 2, 1, 0, 256, 1, 0)
    entry = bytearray(disk[at:at + 64] + struct.pack("<I", len(step)) + step)
    struct.pack_into("<II", entry, 48, 1, len(entry))
    struct.pack_into("<I", entry, 4, zlib.crc32(entry[8:]))
    image.seek(at)
    image.write(entry)
EOF
walk "$image"
[[ $found == *"root directory"* ]] || fail "no root directory: $found"

declare -A original=()
reported=0 same=0 mounted=0 n=0
for ((first = 0; first < images; first += batch)); do
	rm -f "$tmp"/images/*
	"$AEGIS_BIN/aegisfs_sim" damage --seed "$seed" --first $first --images $batch --out "$tmp/images" >/dev/null
	for image in "$tmp"/images/*.original; do
		k=$(basename "$image" .original)
		# Anew for each batch: times of creation differ.
		walk "$image"
		[[ $found == *" 0" ]] || fail "undamaged: $found"
		original[$k]=$found
	done
	for image in "$tmp"/images/*-*; do
		n=$((n + 1))
		name=$(basename "$image")
		k=${name#*-}
		whole=${original[${k%.*}]}
		status=0
		timeout 60 fsck.aegisfs -n -f --data "$image" >"$tmp/fsck" 2>&1 || status=$?
		# 4: problems left; 8: not even a superblock to start from.
		[[ $status == 0 || $status == 4 || $status == 8 ]] || fail "$name: fsck: exit status $status: $(cat "$tmp/fsck")"
		walk "$image"
		[[ $found == "$whole" ]] && same=$((same + 1))
		[[ $found =~ ^[0-9a-f]{64} ]] && mounted=$((mounted + 1))
		[[ $status == 0 ]] || reported=$((reported + 1))
		# The odd originals were not unmounted: damage to the newest journal entry cannot be told
		# from one that power failed in, and what came before it is a state to come back to.
		if [[ $name == *-[024].damaged && $found != "$whole" ]]; then
			[[ $status != 0 ]] || fail "$name of seed $seed: fsck finds nothing, but a walk gives $found, not $whole"
			[[ $found != *" 0" ]] || fail "$name of seed $seed: read without an error, but not what was written: $found, not $whole"
		fi
	done
done
echo "$n images: $reported reported by fsck, $mounted mounted, $same read back whole"
