#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 120
# mkfs.aegisfs: options, refusals, JSON, the size of images.

. "$(dirname "$0")/lib.sh"
need wipefs python3

image=$tmp/image
json() { python3 -c 'import json,sys; d=json.load(sys.stdin); print(eval(sys.argv[1], {"d": d}))' "$1"; }

# ---- image files
refused "does not exist" mkfs.aegisfs "$image"
[[ ! -e $image ]] || fail "a refused image was made"
refused "too small.*at least 32 MiB" mkfs.aegisfs "$image" 31M
[[ ! -e $image ]] || fail "a refused image was made"
mkfs.aegisfs -q "$image" 64M
[[ $(stat -c %s "$image") == $((64 << 20)) ]] || fail "size of a new image"
[[ $(stat -c %b "$image") -lt 20000 ]] || fail "a new image is not sparse"
refused "already holds: aegisfs filesystem .UUID.*use -f|already holds: aegisfs" mkfs.aegisfs "$image"
refused "longer .64 MiB. than the size given" mkfs.aegisfs -f "$image" 32M
mkfs.aegisfs -q -f "$image" 100M
[[ $(stat -c %s "$image") == $((100 << 20)) ]] || fail "an image was not made longer"
refused "No such file" mkfs.aegisfs "$tmp/absent/image" 64M
refused "neither a block device nor a regular file" mkfs.aegisfs "$tmp"

# ---- options
uuid=12345678-9abc-4def-8123-456789abcdef
mkfs.aegisfs --json -f -L "a label, ü" -U $uuid -n 4K --metadata-replicas 1 --data-replicas 2 "$image" >"$tmp/json"
[[ $(json 'd["output_version"], d["uuid"], d["label"], d["node_size"], d["metadata_replicas"], d["data_replicas"], d["size"]' <"$tmp/json") == \
	"(1, '$uuid', 'a label, ü', 4096, 1, 2, $((100 << 20)))" ]] || fail "JSON: $(cat "$tmp/json")"
[[ $(aegisfs volume info --json "$image" | json 'd["uuid"], d["label"], d["node_size"]') == "('$uuid', 'a label, ü', 4096)" ]] ||
	fail "the options are not on the volume"
for size in 4096 8K 16KiB 32k 64K; do
	mkfs.aegisfs -q -f -n $size "$image"
	check_volume "$image" "node size $size"
done
[[ -z $(mkfs.aegisfs -q -f "$image") ]] || fail "-q prints"
shows '^mkfs.aegisfs [0-9]' mkfs.aegisfs -V
shows "overwriting: aegisfs" mkfs.aegisfs -v -f -K "$image"
for wrong in "-n 5K" "-n 128K" "-U nonsense" "--metadata-replicas 3" "--data-replicas 0" "-L $(printf 'x%.0s' {1..64})" "--frobnicate"; do
	# shellcheck disable=SC2086
	refused "error: " mkfs.aegisfs -f $wrong "$image"
done
a=$(mkfs.aegisfs --json -f "$image" | json 'd["uuid"]')
b=$(mkfs.aegisfs --json -f "$image" | json 'd["uuid"]')
[[ $a != "$b" ]] || fail "UUIDs repeat"

# ---- a closed pipe ends it quietly
{ mkfs.aegisfs -f "$image" 2>"$tmp/errors" || true; } | true
[[ ! -s $tmp/errors ]] || fail "a closed pipe: $(cat "$tmp/errors")"

# ---- what belongs to others
foreign() {
	local what=$1 pattern=$2 before
	before=$(sha256sum <"$image")
	refused "already holds: .*$pattern" mkfs.aegisfs "$image"
	[[ $(sha256sum <"$image") == "$before" ]] || fail "$what: refused, but changed"
	mkfs.aegisfs -q -f "$image"
	[[ -z $(wipefs --noheadings --types "no$what" "$image") ]] || fail "$what: left behind: $(wipefs "$image")"
	aegisfs inspect superblock "$image" >/dev/null || fail "$what: no volume"
}
rm "$image" && truncate -s 64M "$image"
if command -v mkfs.ext4 >/dev/null; then
	mkfs.ext4 -q -L data "$image"
	foreign ext4 'ext4 filesystem .label "data", UUID'
fi
rm "$image" && truncate -s 64M "$image"
if command -v mkswap >/dev/null; then
	mkswap "$image" >/dev/null 2>&1
	foreign swap 'swap'
fi
rm "$image" && truncate -s 64M "$image"
if command -v sfdisk >/dev/null; then
	echo 'label: gpt' | sfdisk -q "$image"
	foreign gpt 'gpt partition table'
	rm "$image" && truncate -s 64M "$image"
	printf 'label: dos\n,10M\n' | sfdisk -q "$image"
	foreign dos 'dos partition table'
fi
# With -K nothing is discarded: every signature has to be erased one by one.
rm "$image" && truncate -s 64M "$image"
if command -v mkfs.ext4 >/dev/null && command -v mkswap >/dev/null; then
	mkfs.ext4 -q "$image"
	mkfs.aegisfs -q -K -f "$image"
	[[ -z $(wipefs --noheadings --types ext4 "$image") ]] || fail "ext4 survives -K -f"
fi

# ---- blocks that are known to be bad
printf '%s\n' 0 2000 5000 2001 >"$tmp/list"
mkfs.aegisfs -q -f -l "$tmp/list" "$image" 64M
[[ $(aegisfs device bad-blocks "$image" | awk '/given/ { print $2 }' | tr '\n' ' ') == "2000 2001 5000 " ]] ||
	fail "$(aegisfs device bad-blocks "$image")"
grep -q bad-blocks <<<"$(aegisfs volume info "$image")" || fail "the feature is not shown"
fsck.aegisfs -n -f "$image" >/dev/null || fail "fsck finds something"
aegisfs device bad-blocks --clear --json "$image" >"$tmp/cleared"
grep -q '"block": 5000' "$tmp/cleared" || fail "cleared: $(cat "$tmp/cleared")"
[[ $(aegisfs device bad-blocks "$image" | wc -l) == 1 ]] || fail "the list is not empty"
fsck.aegisfs -n -f "$image" >/dev/null || fail "fsck finds something"
echo 260 >"$tmp/list"
refused "cannot make" mkfs.aegisfs -q -f -l "$tmp/list" "$image"
echo x >"$tmp/list"
refused "'x' is no block" mkfs.aegisfs -q -f -l "$tmp/list" "$image"

# ---- in use
exec 7<>"$image"
flock --exclusive 7
refused "in use" mkfs.aegisfs -f "$image"
flock --unlock 7
exec 7>&-
if [[ $(id -u) == 0 ]] && device=$(losetup --find --show "$image" 2>/dev/null); then
	refused "in use" mkfs.aegisfs -f "$image"
	mkfs.aegisfs -q -f -L loop "$device"
	[[ $(aegisfs volume label "$device") == loop ]] || fail "a volume on a block device"
	refused "its size is given" mkfs.aegisfs -f "$device" 64M
	if aegisfs-fuse "$device" "$(mkdir -p "$tmp/mnt" && echo "$tmp/mnt")" 2>/dev/null; then
		echo data >"$tmp/mnt/file"
		refused "in use" mkfs.aegisfs -f "$device"
		unmount_volume "$tmp/mnt"
	fi
	losetup --detach "$device"
fi
exit 0
