#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
# Healing and the scrub job through FUSE, and on an image.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3
[[ $(id -u) == 0 ]] || skip "the ioctls need root"

mnt=$tmp/mnt
image=$tmp/image
damage() { python3 "$here/../guest/lib_damage.py" "$image" "$@"; }
# field NAME TARGET: a number or word of the scrub's status
field() {
	{ aegisfs scrub status --json "$2" || true; } |
		python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}
# status EXPECTED COMMAND...
status() {
	local expected=$1 got=0
	shift
	"$@" >"$tmp/output" 2>&1 || got=$?
	[[ $got == "$expected" ]] || fail "'$*' ended with $got, not $expected: $(cat "$tmp/output")"
}

head -c 4M /dev/urandom >"$tmp/data"
mkfs.aegisfs -q --data-replicas 2 "$image" 256M
mount_volume "$image" "$mnt"
cp "$tmp/data" "$mnt/data"
sync "$mnt/data"

# A read heals.
[[ $(damage "$tmp/data" 0) == 1024 ]] || fail "not all first copies were found"
echo 3 >/proc/sys/vm/drop_caches
cmp "$tmp/data" "$mnt/data" || fail "the other copy was not used"
shows ' 1024$' aegisfs device stats "$mnt"
shows '"healed": 1024' aegisfs device stats --json "$mnt"

# So does a scrub, and it says so.
[[ $(damage "$tmp/data" 1) == 1024 ]] || fail "not all second copies were found"
status 2 aegisfs scrub resume "$mnt"
status 0 aegisfs scrub start --wait "$mnt"
[[ $(field data_errors "$mnt") == 1024 && $(field healed "$mnt") == 1024 ]] || fail "$(cat "$tmp/output")"
status 0 aegisfs scrub start --wait "$mnt"
[[ $(field data_errors "$mnt") == 0 ]] || fail "a second scrub finds something: $(cat "$tmp/output")"

# A job waits for the next mount.
aegisfs scrub start --limit 1M "$mnt"
status 1 aegisfs scrub start "$mnt"
sleep 1
unmount_volume "$mnt"
shows 'running' aegisfs scrub status "$image"
shows 'job 3 running' aegisfs inspect trees --records 1 "$image"
check_volume "$image" "with a job under way"
mount_volume "$image" "$mnt"
[[ $(field state "$mnt") == running ]] || fail "it does not go on"
aegisfs scrub limit "$mnt" 0
status 0 aegisfs scrub wait "$mnt"
aegisfs scrub start --limit 1M "$mnt"
aegisfs scrub pause "$mnt"
aegisfs scrub cancel "$mnt"
status 2 aegisfs scrub cancel "$mnt"
unmount_volume "$mnt"

# What cannot be corrected is named.
[[ $(damage "$tmp/data" all 7 2) == 4 ]] || fail "blocks 7 and 8"
status 3 aegisfs scrub start "$image"
grep -qE '28672 +8192 +/data' "$tmp/output" || fail "the file is not named: $(cat "$tmp/output")"
mount_volume "$image" "$mnt"
status 3 aegisfs scrub status "$mnt"
cp "$tmp/data" "$mnt/data"
status 0 aegisfs scrub start --wait "$mnt"
unmount_volume "$mnt"
check_volume "$image" "at the end"
