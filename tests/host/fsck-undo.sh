#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 120
# A repair saves what it overwrites, and can be undone bit by bit; also one that was killed.

. "$(dirname "$0")/lib.sh"
need python3

image=$tmp/image
damage() {
	printf 'XXXX' | dd of="$image" bs=1 seek=65736 conv=notrunc status=none
	# One copy of every node in the first half of the volume.
	python3 - "$image" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as f:
    data = f.read()
    for at in range(0, len(data) // 2, 4096):
        if data[at:at + 4] == b"AGnd":
            f.seek(at + 300)
            f.write(bytes([data[at + 300] ^ 1]))
PYTHON
}
sum() { sha256sum <"$image"; }
status() {
	local want=$1 got=0
	shift
	"$@" >"$tmp/out" 2>&1 </dev/null || got=$?
	[[ $got == "$want" ]] || fail "exit status $got instead of $want: $*: $(cat "$tmp/out")"
}
undo_files() { find "$AEGISFS_UNDO_DIR" -name '*.undo' 2>/dev/null; }

mkdir -p "$tmp/tree/sub"
for i in {1..500}; do echo "$i" >"$tmp/tree/sub/$i"; done
mkfs.aegisfs -q -r "$tmp/tree" "$image" 64M
clean=$(sum)
status 0 fsck.aegisfs -y -f "$image"
[[ -z $(undo_files) ]] || fail "an undo file without a repair"

damage
before=$(sum)
[[ $before != "$clean" ]] || fail "no damage"
status 1 fsck.aegisfs -y -f "$image"
file=$(undo_files)
[[ -f $file && $(stat -c %a "$file") == 600 ]] || fail "undo file: '$file'"
grep -qF -- "--undo-apply $file $image" "$tmp/out" || fail "not told: $(cat "$tmp/out")"
[[ $(sum) != "$before" ]] || fail "nothing repaired"
cp "$image" "$tmp/repaired"
status 0 fsck.aegisfs --undo-apply "$file" "$image"
grep -q "blocks put back" "$tmp/out" || fail "$(cat "$tmp/out")"
[[ $(sum) == "$before" ]] || fail "not as before"

# ---- a place of one's own, and none
status 1 fsck.aegisfs -y -f --undo "$tmp/mine" --json "$image"
grep -q "\"undo_file\": \"$tmp/mine\"" "$tmp/out" || fail "$(cat "$tmp/out")"
status 0 fsck.aegisfs --undo-apply "$tmp/mine" "$image"
[[ $(sum) == "$before" ]] || fail "not as before, own place"
status 8 fsck.aegisfs -y -f --undo "$tmp/mine" "$image"
grep -q "nothing was changed" "$tmp/out" || fail "$(cat "$tmp/out")"
[[ $(sum) == "$before" ]] || fail "changed without an undo file"
AEGISFS_UNDO_DIR=/proc/none status 8 fsck.aegisfs -y -f "$image"
[[ $(sum) == "$before" ]] || fail "changed without an undo file"
AEGISFS_UNDO_DIR=/proc/none status 1 fsck.aegisfs -p -f "$image"
grep -q "going on without" "$tmp/out" || fail "$(cat "$tmp/out")"
status 8 fsck.aegisfs --undo-apply "$file" "$image"
grep -q "has been changed since" "$tmp/out" || fail "of another repair: $(cat "$tmp/out")"
n=$(undo_files | wc -l)
damage
status 1 fsck.aegisfs -y -f --no-undo "$image"
[[ $(undo_files | wc -l) == "$n" ]] || fail "an undo file with --no-undo"

# ---- killed in the middle of writing
cp "$tmp/repaired" "$image"
status 0 fsck.aegisfs --undo-apply "$file" "$image"
if command -v strace >/dev/null; then
	for syscall in pwritev pwrite64 fdatasync; do
		for n in 1 2 3 5 8 13; do
			undo=$tmp/killed-$syscall-$n
			got=0
			strace -f -o /dev/null -e "inject=$syscall:signal=KILL:when=$n" \
				fsck.aegisfs -y -f --undo "$undo" "$image" >"$tmp/out" 2>&1 </dev/null || got=$?
			[[ $got != 0 ]] || fail "not killed"
			[[ -e $undo ]] || continue
			[[ -s $undo ]] || continue
			# Undoing is killed, too.
			strace -f -o /dev/null -e "inject=pwrite64:signal=KILL:when=$n" \
				fsck.aegisfs --undo-apply "$undo" "$image" >"$tmp/out" 2>&1 || true
			status 0 fsck.aegisfs --undo-apply "$undo" "$image"
			[[ $(sum) == "$before" ]] || fail "killed at $syscall $n: not as before"
		done
	done
fi

# ---- not mounted since, and no undo file at all
need_fuse
status 1 fsck.aegisfs -y -f --undo "$tmp/last" "$image"
mount_volume "$image" "$tmp/mnt"
unmount_volume "$tmp/mnt"
now=$(sum)
status 8 fsck.aegisfs --undo-apply "$tmp/last" "$image"
grep -q "has been changed since" "$tmp/out" || fail "after a mount: $(cat "$tmp/out")"
status 8 fsck.aegisfs --undo-apply /etc/passwd "$image"
grep -q "no undo file" "$tmp/out" || fail "$(cat "$tmp/out")"
status 16 fsck.aegisfs --undo-apply "$tmp/last" -y "$image"
[[ $(sum) == "$now" ]] || fail "a refused undo wrote"
