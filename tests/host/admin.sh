#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 120
# aegisfs: every command in text and JSON, on sound and on damaged volumes.

. "$(dirname "$0")/lib.sh"
need python3

image=$tmp/image
mkdir "$tmp/tree"
head -c 300000 /dev/urandom >"$tmp/tree/data"
echo small >"$tmp/tree/inline"
truncate -s 1M "$tmp/tree/hole"
for i in $(seq 500); do echo "$i" >"$tmp/tree/file $i"; done
mkfs.aegisfs -q -L first -r "$tmp/tree" "$image" 64M

check() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); assert d["output_version"] == 1, d; assert eval(sys.argv[2]), d' "$tmp/json" "$1" || fail "JSON: $1"; }

# ---- volume
shows '^Size: +[0-9.]+ MiB$' aegisfs volume info "$image"
shows '^Device size: +67108864$' aegisfs volume info --raw "$image"
aegisfs --json volume info "$image" >"$tmp/json"
check 'd["label"] == "first" and d["device_size"] == 64 << 20 and d["clean"] and d["inodes"] == 504'
check 'd["used"] > 300000 and d["available"] < d["size"] and d["created"].endswith("Z") and d["mount_points"] == []'
[[ $(aegisfs volume label "$image") == first ]] || fail "label"
aegisfs volume label "$image" "second label"
aegisfs volume label --json "$image" >"$tmp/json"
check 'd["label"] == "second label"'
aegisfs volume label "$image" ""
[[ -z $(aegisfs volume label "$image") ]] || fail "empty label"
refused "at most 63 bytes" aegisfs volume label "$image" "$(printf 'x%.0s' {1..64})"
refused "no AegisFS is mounted at" aegisfs volume info "$tmp"
refused "No such file" aegisfs volume info "$tmp/absent"
truncate -s 64M "$tmp/empty"
refused "not an AegisFS volume" aegisfs volume info "$tmp/empty"

# ---- inspect: on a device that is not changed by it
before=$(sha256sum <"$image")
shows "valid, newest" aegisfs inspect superblock "$image"
aegisfs inspect superblock --json "$image" >"$tmp/json"
check 'len(d["copies"]) == 4 and sum(c["newest"] for c in d["copies"]) == 2'
shows "metadata" aegisfs inspect chunks "$image"
aegisfs inspect chunks --json "$image" >"$tmp/json"
check 'd["damaged"] == 0 and d["chunks"][0]["offset"] > 1 << 20 and len({c["offset"] for c in d["chunks"]}) == len(d["chunks"])'
shows "^tree 256" aegisfs inspect trees "$image"
aegisfs inspect trees --json "$image" >"$tmp/json"
check '[t["id"] for t in d["trees"]] == [1, 256] and d["trees"][1]["records"]["inode"] == 504 and not any(t["damaged_nodes"] for t in d["trees"])'
shows '"file 77"' aegisfs inspect trees --records 256 "$image"
refused "there is no tree 999" aegisfs inspect trees --records 999 "$image"
shows "^journal:" aegisfs inspect journal "$image"
aegisfs inspect journal --steps --json "$image" >"$tmp/json"
check 'd["clean"] and d["blocks"] >= 512'
aegisfs inspect extents --sums "$image" data inline hole >"$tmp/text"
grep -q "^data: inode" "$tmp/text" || fail "inspect extents"
aegisfs inspect extents --sums --json "$image" /data /inline hole >"$tmp/json"
check 'd["files"][0]["size"] == 300000 and sum(len(e["crc32"]) for e in d["files"][0]["extents"]) == 74'
check '[e["kind"] for e in d["files"][1]["extents"]] == ["inline"] and [e["kind"] for e in d["files"][2]["extents"]] == ["hole"]'
# The checksums are those of the data, where the extents say that it is.
python3 - "$tmp/json" "$image" "$tmp/tree/data" <<'EOF' || fail "extents or checksums"
import json, sys, zlib
extents = json.load(open(sys.argv[1]))["files"][0]["extents"]
image, data = open(sys.argv[2], "rb"), open(sys.argv[3], "rb").read()
for e in extents:
    image.seek(e["physical_offset"])
    stored = image.read(e["length"])
    wanted = data[e["logical_offset"]:e["logical_offset"] + e["length"]]
    assert stored[:len(wanted)] == wanted and not any(stored[len(wanted):])
    for i, crc in enumerate(e["crc32"]):
        assert int(crc, 16) == zlib.crc32(stored[i * 4096:(i + 1) * 4096]), i
EOF
refused "cannot map absent.*no such object" aegisfs inspect extents "$image" absent
[[ $(sha256sum <"$image") == "$before" ]] || fail "inspecting has changed the volume"

# ---- damage is found: one node of each pair, then both
root=$(aegisfs inspect trees --json "$image" | python3 -c 'import json,sys; print(*json.load(sys.stdin)["trees"][1]["root"])')
chunk_table() { aegisfs inspect chunks --json "$image"; }
break_block() {
	chunk_table | python3 -c '
import json, sys
d, block = json.load(sys.stdin), int(sys.argv[1])
chunk = d["chunks"][block // d["chunk_blocks"]]
with open(sys.argv[2], "r+b") as f:
    f.seek(chunk["offset"] + block % d["chunk_blocks"] * 4096 + 2000)
    f.write(b"damage")' "$1" "$image"
}
read -r one two <<<"$root"
break_block "$one"
status=0
aegisfs inspect trees --json "$image" >"$tmp/json" || status=$?
[[ $status == 3 ]] || fail "exit status $status with a damaged replica, 3 expected"
check 'd["trees"][1]["bad_replicas"] == 1 and d["trees"][1]["damaged_nodes"] == []'
break_block "$two"
aegisfs inspect trees --json "$image" >"$tmp/json" && fail "a damaged node was not found"
check 'd["trees"][1]["damaged_nodes"][0]["reason"] == "checksum mismatch"'
# Superblocks: any one of the copies will do.
printf damage | dd of="$image" bs=1 seek=$((65536 + 200)) conv=notrunc status=none
printf damage | dd of="$image" bs=1 seek=$((131072 + 200)) conv=notrunc status=none
status=0
aegisfs inspect superblock "$image" >"$tmp/text" || status=$?
[[ $status == 3 ]] || fail "exit status $status with damaged superblocks, 3 expected"
[[ $(grep -c "damaged (checksum mismatch)" "$tmp/text") == 2 ]] || fail "damaged superblocks"
aegisfs volume label "$image" >/dev/null || fail "a volume whose head superblocks are damaged"

# ---- manners
for shell in bash zsh fish; do
	shows superblock aegisfs completions $shell
done
aegisfs completions bash | bash -n || fail "completions for bash"
{ aegisfs inspect chunks "$image" 2>"$tmp/errors" || true; } | head -1 >/dev/null
[[ ! -s $tmp/errors ]] || fail "a closed pipe: $(cat "$tmp/errors")"
shows '^aegisfs [0-9]' aegisfs -V
refused "Usage" aegisfs
refused "Usage" aegisfs frobnicate
