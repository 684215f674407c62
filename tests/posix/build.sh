#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Programs are built on the volume with make -j2, tested, and come out as they do elsewhere.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 2400
. "$(dirname "$0")/lib.sh"

fresh
lua() {
	cd "$1"
	tar -xf "$KIT"/src/lua*.tar.*
	cd lua*/
	make -j2 linux > make.log
	src/lua -e 'local t = {} for i = 1, 100000 do t[i] = i * i end assert(t[1000] == 1000000) print(_VERSION)'
}
bzip2() {
	cd "$1"
	tar -xf "$KIT"/src/bzip2*.tar.*
	cd bzip2*/
	make -j2 CFLAGS="-O2 -D_FILE_OFFSET_BITS=64" bzip2 bzip2recover > make.log
	make test | tee test.log
	./bzip2 -k -c manual.xml | ./bzip2 -dc | cmp - manual.xml
}
# Both sides hold the same files: those that were built, too.
compare() {
	(cd /tmp/outside && find . -type f ! -name '*.log' | sort | xargs sha256sum) > /tmp/sums
	remount_cold
	cd "$MNT"
	sha256sum --quiet -c /tmp/sums
	[ "$(find . -type f ! -name '*.log' | wc -l)" = "$(wc -l < /tmp/sums)" ]
}
programs="lua"
[ -n "${AEGIS_QUICK:-}" ] || programs="bzip2 lua"
mkdir /tmp/outside
for program in $programs; do
	check "$program" "$program" "$MNT"
	[ -n "${AEGIS_QUICK:-}" ] || check "$program, outside of the volume" "$program" /tmp/outside
done
[ -n "${AEGIS_QUICK:-}" ] || check "the same files on both sides" compare
rm -rf /tmp/outside
finish
