#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 120
# fsck.aegisfs: exit status, what it writes and what not, questions, progress, JSON.

. "$(dirname "$0")/lib.sh"
need python3 flock

image=$tmp/image
json() { python3 -c 'import json,sys; d=json.load(sys.stdin); print(eval(sys.argv[1], {"d": d}))' "$1"; }
status() {
	local want=$1 got=0
	shift
	"$@" >"$tmp/out" 2>&1 </dev/null || got=$?
	[[ $got == "$want" ]] || fail "exit status $got instead of $want: $*: $(cat "$tmp/out")"
}
damage() { printf 'XXXX' | dd of="$image" bs=1 seek="$1" conv=notrunc status=none; }
sum() { sha256sum "$image"; }

mkdir -p "$tmp/tree/sub"
echo hello >"$tmp/tree/sub/file"
head -c 300000 /dev/urandom >"$tmp/tree/data"
mkfs.aegisfs -q -r "$tmp/tree" "$image" 64M

# ---- a volume that is well
before=$(sum)
status 0 fsck.aegisfs "$image"
status 0 fsck.aegisfs -a "$image"
status 0 fsck.aegisfs -n -f --data "$image"
grep -q ": clean: 4 inodes (2 directories, 2 files)" "$tmp/out" || fail "summary: $(cat "$tmp/out")"
status 0 fsck.aegisfs -p -f "$image"
status 0 fsck.aegisfs -y -f "$image"
[[ $(sum) == "$before" ]] || fail "a volume without problems was changed"
[[ -z $(fsck.aegisfs -q -n -f "$image") ]] || fail "-q prints"
[[ $(fsck.aegisfs -n -f --json "$image" | json 'd["output_version"], d["clean"], d["full_check"], d["exit_status"], d["problems"], d["counters"]["inodes"]') == \
	"(1, True, True, 0, [], 4)" ]] || fail "JSON of a clean volume"
[[ $(fsck.aegisfs --json "$image" | json 'd["clean"], d["full_check"]') == "(True, False)" ]] || fail "JSON of a quick check"

# ---- progress
fsck.aegisfs -n -f -C 3 "$image" 3>"$tmp/progress" >/dev/null
grep -qE "^[1-4] [0-9]+ [0-9]+ $image$" "$tmp/progress" || fail "progress: $(cat "$tmp/progress")"

# ---- wrong use
status 16 fsck.aegisfs
status 16 fsck.aegisfs -n -y "$image"
status 8 fsck.aegisfs "$tmp/absent"
head -c 1M /dev/zero >"$tmp/zero"
status 8 fsck.aegisfs -n "$tmp/zero"
status 0 fsck.aegisfs -V
status 0 fsck.aegisfs --help
exec 9<"$image"
flock 9
status 8 fsck.aegisfs -n -f "$image"
grep -q "it is in use" "$tmp/out" || fail "in use: $(cat "$tmp/out")"
exec 9<&-

# ---- problems that redundancy mends
damage 65736 # superblock, slot 0, head
before=$(sum)
status 4 fsck.aegisfs -n -f "$image"
[[ $(sum) == "$before" ]] || fail "-n wrote"
grep -q "warning: superblock at byte 65536: .*\[superblock-copy-bad\]" "$tmp/out" || fail "$(cat "$tmp/out")"
# Nobody is there to be asked.
status 8 fsck.aegisfs -f "$image"
[[ $(sum) == "$before" ]] || fail "written without an answer"
[[ $(fsck.aegisfs -n -f --json "$image" | json '[(p["code"], p["severity"], p["fixed"]) for p in d["problems"]]') == \
	"[('superblock-copy-bad', 'warning', False)]" ]] || fail "JSON of a problem"
status 1 fsck.aegisfs -p -f "$image"
status 0 fsck.aegisfs -n -f "$image"
damage 65736
[[ $(fsck.aegisfs -y -f --json "$image" | json 'd["clean"], d["exit_status"], [p["fixed"] for p in d["problems"]]') == \
	"(True, 1, [True])" ]] || fail "JSON of a repair"
if command -v script >/dev/null; then
	damage 65736
	answer() { printf '%s\n' "$1" | script -qec "fsck.aegisfs -f '$image'" /dev/null >"$tmp/out" 2>&1; }
	got=0
	answer n || got=$?
	[[ $got == 4 ]] || fail "no: $got $(cat "$tmp/out")"
	got=0
	answer y || got=$?
	[[ $got == 1 ]] || fail "yes: $got $(cat "$tmp/out")"
fi

# ---- a file's data
offset=$(aegisfs inspect extents --json "$image" /data | json 'd["files"][0]["extents"][0]["physical_offset"]')
damage $((offset + 100))
status 0 fsck.aegisfs -n -f "$image"
status 4 fsck.aegisfs -y -f --data "$image"
grep -q "data-lost" "$tmp/out" || fail "$(cat "$tmp/out")"

# ---- no volume at all
for at in 65736 131272 $(((64 << 20) - 131072 + 200)) $(((64 << 20) - 65536 + 200)); do
	damage "$at"
done
status 4 fsck.aegisfs -y -f "$image"
grep -q "superblock-lost" "$tmp/out" || fail "$(cat "$tmp/out")"
