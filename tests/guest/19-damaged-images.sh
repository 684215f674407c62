#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Damaged images in the kernel: no oops, no hang, nothing wrong returned. The same images as
# host/damaged-images. AEGIS_IMAGES: how many. AEGIS_SEED: which.
# vm: --disk 48M --mem 1024 --cpus 2
# timeout: 900
. "$(dirname "$0")/lib.sh"
need python3 aegisfs_sim

images=${AEGIS_IMAGES:-$(sized images 60 24)}
seed=${AEGIS_SEED:-$RANDOM}
batch=12
echo "seed $seed"
modprobe aegisfs
mkdir -p /tmp/images "$MNT"

# Sets $found to what a walk of the image says, or to why there was none.
walk() {
	dd if="$1" of="$DEV" bs=1M conv=fsync status=none
	found=$(timeout 60 mount -t aegisfs "$DEV" "$MNT" 2>&1) || { found="mount: $found"; return 0; }
	found=$(timeout 60 "$(dirname "$0")/walk.py" "$MNT") || die "$1: walk: $found"
	# Changes may fail.
	(echo new > "$MNT/new-file" && mkdir "$MNT/new-dir" && sync -f "$MNT" && rm -r "$MNT/"n*) > /tmp/changes 2>&1 || true
	unmount_volume
}

declare -A original=()
mounted=0 same=0 n=0
for ((first = 0; first < images; first += batch)); do
	rm -f /tmp/images/*
	aegisfs_sim damage --seed "$seed" --first $first --images $batch --out /tmp/images > /dev/null
	for image in /tmp/images/*.original; do
		k=$(basename "$image" .original)
		walk "$image"
		[[ $found == *" 0" ]] || die "undamaged: $found"
		original[$k]=$found
	done
	for image in /tmp/images/*-*; do
		n=$((n + 1))
		name=$(basename "$image")
		k=${name#*-}
		whole=${original[${k%.*}]}
		walk "$image"
		[[ $found == "$whole" ]] && same=$((same + 1))
		[[ $found == mount:* ]] || mounted=$((mounted + 1))
		# Why only the even ones: see host/damaged-images.
		if [[ $name == *-[024].damaged && $found == *" 0" && $found != "$whole" ]]; then
			die "$name of seed $seed: read without an error, but not what was written: $found, not $whole"
		fi
	done
done
echo "$n images: $mounted mounted, $same read back whole"
rmmod aegisfs
