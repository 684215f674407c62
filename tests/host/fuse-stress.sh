#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 600
# Many processes at once, with checksums: copies of real trees, changes in place, moves, removals;
# then everything is compared again after a remount.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3

mkfs.aegisfs -q "$tmp/image" 2G
mnt=$tmp/mnt
mount_volume "$tmp/image" "$mnt"

# A tree with files of all sizes, the same for every process.
python3 - "$tmp/source" <<'EOF'
import os, random, sys
rng = random.Random(7)
base = sys.argv[1]
for d in range(20):
    os.makedirs(f"{base}/{d}/sub")
    for f in range(60):
        size = int(rng.paretovariate(0.6) * 300)
        with open(f"{base}/{d}/{'sub/' if f % 3 == 0 else ''}{f}", "wb") as out:
            out.write(rng.randbytes(min(size, 3 << 20)))
    os.symlink(f"{d}/1", f"{base}/link{d}")
EOF

work() {
	local me=$mnt/worker$1 round
	mkdir "$me"
	for round in 1 2 3; do
		cp -a "$tmp/source" "$me/copy$round"
		diff -r "$tmp/source" "$me/copy$round" || return 1
		mv "$me/copy$round" "$me/moved$round"
		tar -C "$me/moved$round" -cf "$me/archive$round" . || return 1
		mkdir "$me/unpacked" && tar -C "$me/unpacked" -xf "$me/archive$round" || return 1
		diff -r "$tmp/source" "$me/unpacked" || return 1
		rm -r "$me/unpacked"
		find "$me/moved$round" -type f -name '*7' -exec truncate -s 100 {} +
		find "$me/moved$round" -type f -name '*8' -delete
		sync "$me/archive$round"
	done
	# Left over: what is compared after the remount.
	rm -r "$me/moved1" "$me/archive2"
}

workers=()
for i in 1 2 3 4 5 6; do
	work "$i" &
	workers+=($!)
done
for pid in "${workers[@]}"; do
	wait "$pid" || fail "a worker found a difference"
done
(cd "$mnt" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$tmp/before"
unmount_volume "$mnt"
mount_volume "$tmp/image" "$mnt"
(cd "$mnt" && sha256sum --quiet -c "$tmp/before") || fail "content has changed by a remount"
[[ $(find "$mnt" -type f | wc -l) == $(wc -l <"$tmp/before") ]] || fail "files have appeared or gone"
rm -r "$mnt"/worker*
unmount_volume "$mnt"
check_volume "$tmp/image" "after stress"
