#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A device with sectors that can be neither read nor written: what has two copies is moved, what has one is
# named, and the blocks are listed and not used again.
# vm: --disk 300M --mem 1024 --cpus 2
# timeout: 600
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_scrub.sh"
need python3 dmsetup

modprobe aegisfs
python3 -c 'import random; open("/tmp/data", "wb").write(random.Random(1).randbytes(4 << 20))'
modprobe dm-mod 2> /dev/null || skip "this kernel has no device mapper"
DISK=$DEV
sectors=$((160 << 11))
dmsetup create aegis-bad --table "0 $sectors linear $DISK 0"
DEV=/dev/mapper/aegis-bad

# where FILE|nodes COPY [FIRST [BLOCKS]]: the numbers of these blocks on the device
where() { python3 "$(dirname "$0")/lib_damage.py" --where "$DEV" "$@"; }
# wear BLOCK...: from now on these blocks of the device are bad, each by one of its sectors
wear() {
	local at=0 block
	for block in $(printf '%s\n' "$@" | sort -nu); do
		echo "$at $((block * 8 + 3 - at)) linear $DISK $at"
		echo "$((block * 8 + 3)) 1 error"
		at=$((block * 8 + 4))
	done > /tmp/table
	echo "$at $((sectors - at)) linear $DISK $at" >> /tmp/table
	swap "$(cat /tmp/table)"
}
swap() {
	dmsetup suspend --nolockfs --noflush aegis-bad
	dmsetup load aegis-bad --table "$1"
	dmsetup resume aegis-bad
}
# listed: the blocks of the list, and whether they are in use
listed() {
	aegisfs device bad-blocks --json "$MNT" | python3 -c 'import json, sys
print(*("%d:%s" % (b["block"], b["in_use"]) for b in json.load(sys.stdin)["bad_blocks"]))'
}
# among THE-LIST BLOCK...: all of the list are among these
among() {
	local list=$1 entry
	shift
	for entry in $list; do
		[[ " $* " == *" ${entry%:*} "* ]] || die "block $entry is listed, but not bad: $*"
	done
}
# noticed BLOCK...: soon some of these are listed, and no others
noticed() {
	for _ in {1..60}; do
		[ -z "$(listed)" ] || break
		sleep 0.5
	done
	[ -n "$(listed)" ] || die "bad blocks are used and not found"
	among "$(listed)" "$@"
}
write_errors() { field devices.0.write_errors aegisfs device stats "$MNT"; }
# filled: uses all of the volume, which must not write to a bad block
filled() {
	local before
	before=$(write_errors)
	dd if=/dev/zero of="$MNT/fill" bs=1M 2> /dev/null || true
	sync
	[ "$(stat -c %s "$MNT/fill")" -gt $((30 << 20)) ] || die "only $(stat -c %s "$MNT/fill") bytes fit"
	for i in {1..200}; do echo "$i" > "$MNT/fill-$i" || break; done 2> /dev/null
	sync
	same "failed writes" "$before" "$(write_errors)"
	rm -f "$MNT"/fill*
}

# What has two copies is moved.
fresh --data-replicas 2
cp /tmp/data "$MNT/data"
mkdir "$MNT/d"
for i in {1..500}; do echo "content $i" > "$MNT/d/file-$i"; done
want=$(cat "$MNT"/d/* "$MNT/data" | digest)
unmount_volume
data=$(where /tmp/data 0 0 3; where /tmp/data 1 500 3)
nodes=$(where nodes 1 | tr ' ' '\n' | tail -5)
mount_volume
wear $data $nodes
drop_caches
status 0 aegisfs scrub start --wait "$MNT"
same "bad copies" "6 0 0" \
	"$(scrub_field data_errors) $(scrub_field data_uncorrectable) $(scrub_field metadata_uncorrectable)"
[ "$(scrub_field healed)" -ge 6 ] || die "only $(scrub_field healed) copies were moved"
among "$(listed)" $data $nodes
for block in $data; do
	[[ " $(listed)" == *" $block:"* ]] || die "block $block is not in the list: $(listed)"
done
sync
clean_scrub
same "content" "$want" "$(cat "$MNT"/d/* "$MNT/data" | digest)"
list=$(listed)
remount_cold
among "$list" $data $nodes
wear $(tr ' ' '\n' <<< "$list" | sed 's/:.*//')
filled
same "content" "$want" "$(cat "$MNT"/d/* "$MNT/data" | digest)"
unmount_volume
fsck.aegisfs -n -f --data "$DEV" || die "fsck found something"

# What has one copy is named; its blocks are not used again when it is deleted.
swap "0 $sectors linear $DISK 0"
fresh
mkdir "$MNT/dir"
cp /tmp/data "$MNT/dir/data"
unmount_volume
data=$(where /tmp/data 0 100 3)
mount_volume
wear $data
python3 - "$MNT/dir/data" << 'PY'
# A large direct read: an error, and nothing wrong in the memory.
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
good = open("/tmp/data", "rb").read()
for first in 0, 256:
    memory = mmap.mmap(-1, 256 * 4096)
    memory.write(b"x" * len(memory))
    try:
        failed = os.preadv(fd, [memory], first * 4096) != 256 * 4096
    except OSError as e:
        assert e.errno == 5, e
        failed = True
    assert failed == (first == 0), (first, failed)
    for i in range(256):
        there, right = memory[i * 4096:(i + 1) * 4096], good[(first + i) * 4096:(first + i + 1) * 4096]
        empty = [bytes(4096), b"x" * 4096]
        bad = first + i in (100, 101, 102)
        assert there in (empty if bad else empty + [right] if failed else [right]), (first, i, there[:16])
PY
status 3 aegisfs scrub start --wait "$MNT"
same "the damaged file" "/dir/data 409600 12288 3" "$(scrub_field damaged.0.path) $(scrub_field damaged.0.offset) \
$(scrub_field damaged.0.length) $(scrub_field data_uncorrectable)"
same "the list" "$(printf '%s:True\n' $data | sort -n | tr '\n' ' ')" "$(listed) "
status 0 aegisfs device bad-blocks "$MNT"
[ "$(wc -l < /tmp/output)" = 4 ] || die "the table: $(cat /tmp/output)"
unmount_volume
fsck.aegisfs -n -f "$DEV" || die "fsck calls it damaged"
# Nothing but what is lost.
status 4 fsck.aegisfs -n -f --data --json "$DEV"
same "problems" "data-lost" "$(grep -o '"code": *"[^"]*"' /tmp/output | cut -d'"' -f4 | sort -u)"
mount_volume
rm "$MNT/dir/data"
sync
for _ in {1..60}; do
	[[ $(listed) == *True* ]] || break
	sleep 0.5
done
same "the list" "$(printf '%s:False\n' $data | sort -n | tr '\n' ' ')" "$(listed) "
filled
clean_scrub
checked

# Off the list, they are used again, and found again when data cannot be written.
mount_volume
status 0 aegisfs device bad-blocks --clear "$MNT"
same "the list" "" "$(listed)"
for i in {1..20}; do
	dd if=/dev/zero of="$MNT/fill-$i" bs=1M conv=fsync 2> /dev/null || true
	sleep 0.5
	[ -z "$(listed)" ] || break
done
[ -n "$(listed)" ] || die "bad blocks are used and not found"
among "$(listed)" $data
rm "$MNT"/fill*
checked

# The same of writes that somebody waits for: they go elsewhere, and nobody sees an error.
mount_volume
status 0 aegisfs device bad-blocks --clear "$MNT"
same "the list" "" "$(listed)"
before=$(write_errors)
for i in {1..80}; do
	dd if=/tmp/data of="$MNT/fill-$((i % 20))" bs=64k oflag=direct conv=notrunc status=none ||
		die "a direct write failed"
	[ "$(write_errors)" = "$before" ] || break
done
[ "$(write_errors)" != "$before" ] || die "bad blocks are not used again"
for i in {1..200}; do
	dd if=/tmp/data of="$MNT/small-$((i % 50))" bs=4k count=3 conv=fsync status=none || die "a write failed"
done
noticed $data
remount_cold
for file in "$MNT"/fill*; do cmp "$file" /tmp/data || die "$file"; done
for file in "$MNT"/small*; do cmp -n 12288 "$file" /tmp/data || die "$file"; done
rm "$MNT"/fill* "$MNT"/small*
checked

# What has two copies gets both, in whatever way it is written: the bad blocks are among the second ones.
swap "0 $sectors linear $DISK 0"
fresh --data-replicas 2
cp /tmp/data "$MNT/data"
unmount_volume
data=$(where /tmp/data 1 0 1024 | tr ' ' '\n' | awk 'NR % 16 == 0')
mount_volume
rm "$MNT/data"
sync
wear $data
before=$(write_errors)
for i in {1..12}; do
	cp /tmp/data "$MNT/cached-$i"
	dd if=/tmp/data of="$MNT/synced-$i" bs=64k count=16 conv=fsync status=none || die "a write failed"
	dd if=/tmp/data of="$MNT/direct-$i" bs=64k count=16 oflag=direct status=none || die "a direct write failed"
	[ $((i % 5)) != 0 ] || sync
done
sync
[ "$(write_errors)" -gt "$before" ] || die "no bad block was used"
clean_scrub
noticed $data
remount_cold
clean_scrub
for file in "$MNT"/cached*; do cmp "$file" /tmp/data || die "$file"; done
for file in "$MNT"/synced* "$MNT"/direct*; do cmp -n $((1 << 20)) "$file" /tmp/data || die "$file"; done
checked

# A device that is gone for a while has no bad blocks.
swap "0 $sectors linear $DISK 0"
fresh
cp /tmp/data "$MNT/data"
sync
echo 3 > /proc/sys/vm/drop_caches
swap "0 $sectors error"
refused "Input/output error" cmp "$MNT/data" /tmp/data
swap "0 $sectors linear $DISK 0"
remount_cold
same "the list" "" "$(listed)"
clean_scrub
cmp "$MNT/data" /tmp/data
same "the list" "" "$(listed)"
checked
dmsetup remove aegis-bad
