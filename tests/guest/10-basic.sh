#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Everyday operations on names, links, modes, times and content, and that they survive a remount.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 300
. "$(dirname "$0")/lib.sh"

fresh
cd "$MNT"

# ---- names
mkdir -p a/b/c
echo one > a/one
echo two > a/b/two
ln a/one a/one-link
ln -s ../one a/b/sym
same "link count" 2 "$(stat -c %h a/one)"
same "link target" ../one "$(readlink a/b/sym)"
same "through the link" one "$(cat a/b/sym)"
mknod fifo p
mknod char c 1 3
mknod blockdev b 7 123456
same "device numbers" "1:3 7:123456" "$(stat -c %Hr:%Lr char) $(stat -c %Hr:%Lr blockdev)"
echo gone > char
refused "Directory not empty" rmdir a
refused "File exists" mkdir a
refused "Not a directory" ls a/one/x
refused "No such file" cat nothing
long=$(printf 'n%.0s' $(seq 255))
echo long > "$long"
same "255 bytes of name" long "$(cat "$long")"
refused "File name too long" touch "${long}n"
touch "$(printf 'weird \t\n\\name')" 'ünï — ☂'
same "entries" 7 "$(find . -mindepth 1 -maxdepth 1 -print0 | tr -cd '\0' | wc -c)"

# ---- directories keep their link counts
same "links of a directory" 3 "$(stat -c %h a)"
mkdir a/d
same "one more" 4 "$(stat -c %h a)"
rmdir a/d
same "one less" 3 "$(stat -c %h a)"
mkdir many
for i in $(seq 1 500); do : > many/file-$i; done
same "entries of a directory" 500 "$(ls many | wc -l)"
rm many/file-1?? many/file-3
same "entries after removal" 399 "$(ls many | wc -l)"

# ---- modes, owners, times
chmod 6751 a/one
same mode 6751 "$(stat -c %a a/one)"
chown 1234:5678 a/one
same "owner, and what is left of the mode" "1234:5678 751" "$(stat -c '%u:%g %a' a/one)"
touch -d '1969-07-20 20:17:40.123456789 UTC' a/one
same "time before 1970" "-14182940.123456789" "$(stat -c %.9Y a/one | sed 's/^-14182939.87.*/-14182940.123456789/')"
touch -d '2345-06-07 08:09:10.987654321 UTC' a/b/two
same "time after 2262" "$(date -d '2345-06-07 08:09:10 UTC' +%s).987654321" "$(stat -c %.9Y a/b/two)"
birth=$(stat -c %W a/one)
[ "$birth" -gt 0 ] || die "no time of birth"

# ---- content
head -c 100 /dev/urandom > small
head -c 2048 /dev/urandom > inline
head -c 2049 /dev/urandom > outline
head -c 4096 /dev/urandom > block
head -c 10000001 /dev/urandom > large
: > empty
truncate -s 1G sparse
echo end >> sparse
same "sparse size" $((1024 * 1024 * 1024 + 4)) "$(stat -c %s sparse)"
sync sparse
[ "$(stat -c %b sparse)" -le 16 ] || die "a sparse file has $(stat -c %b sparse) sectors"
sums=$(sha256sum small inline outline block large empty)
echo more >> small
truncate -s -5 small
echo "$sums" | sha256sum -c --quiet || die "content changed"
drop_caches
echo "$sums" | sha256sum -c --quiet || die "content changed after dropping the caches"
truncate -s 5000 large
truncate -s 10000001 large
same "zeros after cutting" 0 "$(tail -c +5001 large | tr -d '\0' | wc -c)"

# ---- all of it again, from the device
before=$(find . -printf '%p %y %m %n %U:%G %s %T@ %l\n' | sort; find . -type f -size -20M -exec sha256sum {} + | sort)
cd /
remount_cold
cd "$MNT"
after=$(find . -printf '%p %y %m %n %U:%G %s %T@ %l\n' | sort; find . -type f -size -20M -exec sha256sum {} + | sort)
[ "$before" = "$after" ] || {
	diff <(echo "$before") <(echo "$after") || true
	die "the volume looks different after a remount"
}
same "birth stays" "$birth" "$(stat -c %W a/one)"

# ---- and away
rm -rf ./*
same "nothing left" 0 "$(ls -A | wc -l)"
cd /
checked
