#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A full volume: the error comes from the write, what was accepted is there, deleting works, and the
# space comes back.
# vm: --disk 1G --mem 2048 --cpus 2
# timeout: 600
. "$(dirname "$0")/lib.sh"
need python3

fresh
cd "$MNT"
# A part that is taken all the time.
ballast=$(sized "MiB taken from the start" 0 750)
[ "$ballast" = 0 ] || fallocate -l "${ballast}m" ballast
free() {
	df --output=avail -B1 . | tail -1
}
empty=$(free)

for round in 1 2 3; do
	case $round in
	1) # one large file, through the cache
		dd if=/dev/zero of=fill bs=1M 2> /tmp/err && die "never full"
		grep -q "No space left" /tmp/err || die "$(cat /tmp/err)"
		;;
	2) # directly
		dd if=/dev/zero of=fill bs=1M oflag=direct 2> /tmp/err && die "never full"
		grep -q "No space left" /tmp/err || die "$(cat /tmp/err)"
		;;
	3) # small files
		mkdir small
		python3 - << 'PY'
import errno, os
n = 0
try:
    while True:
        fd = os.open("small/%d" % n, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"%d " % n * 20000)
        os.close(fd)
        n += 1
except OSError as e:
    assert e.errno == errno.ENOSPC, e
print(n)
PY
		;;
	esac
	sync || die "what was accepted could not be written"
	left=$(free)
	[ "$left" -lt $((empty / 50)) ] || die "round $round: full with $left of $empty bytes left"
	if [ -f fill ]; then
		size=$(stat -c %s fill)
		drop_caches
		same "round $round: content" "$size" "$(tr -d '\1-\377' < fill | wc -c)"
		# Overwriting needs new blocks for a moment, and there are none: an error, or not, but
		# never a hang or a loss.
		dd if=/dev/zero of=fill bs=1M count=4 conv=notrunc status=none 2> /dev/null || true
		# Bit by bit to the last block.
		for _ in $(seq 1 200); do
			printf x >> last || break
		done 2> /dev/null
	else
		drop_caches
		python3 - << 'PY'
import os
for name in os.listdir("small"):
    data = open("small/" + name, "rb").read()
    assert data == b"" or data == b"%d " % int(name) * 20000 or len(data) % 4096 == 0, name
PY
	fi
	mkdir dir 2> /dev/null || true
	# A full volume can be emptied.
	rm -rf fill small last dir || die "round $round: deleting"
	sync
	now=$(free)
	[ "$now" -ge $((empty / 100 * 98)) ] || die "round $round: $now of $empty bytes free after deleting"
done

# several writers at once
for i in 1 2 3 4; do dd if=/dev/zero of=p$i bs=256k status=none 2> /dev/null & done
wait
sync || die "what was accepted could not be written"
truncate -s 1000 p1
rm p1 p2 p3 p4
dd if=/dev/zero of=again bs=1M count=100 status=none || die "no space after deleting"
cd /
checked
