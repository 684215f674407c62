#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 60
# The man pages name the options that the programs have, no more and no fewer.

. "$(dirname "$0")/lib.sh"
man=$(readlink -f "$here/../../docs/man")
[[ -d $man ]] || skip "the man pages are not here"

# Options in a program's help: at the start of a line, short, long, or both.
of_help() {
	"$@" --help | sed -nE 's/^ +(-[A-Za-z]), (--[a-z-]+).*/\1\n\2/p; s/^ +(--[a-z-]+).*/\1/p; s/^ +(-[A-Za-z])( .*)?$/\1/p'
}

# Options in a man page: what stands in the line after .TP.
of_page() {
	sed -nE '/^\.TP/{n;p}' "$man/$1" | sed 's/\\-/-/g' | grep -oE -- '(^| |")--?[A-Za-z][a-z-]*' | tr -d ' "'
}

compare() {
	local page=$1
	of_page "$page" | sort -u >"$tmp/page"
	sort -u >"$tmp/help"
	diff "$tmp/help" "$tmp/page" || fail "$page: help (<) and man page (>) differ"
	[[ -s $tmp/page ]] || fail "$page: no options were found"
}

of_help mkfs.aegisfs | compare mkfs.aegisfs.8
of_help fsck.aegisfs | compare fsck.aegisfs.8
of_help aegisfs-fuse | compare aegisfs-fuse.8
{
	of_help aegisfs
	for command in "volume info" "volume label" "quota report" "quota get" "quota set" "quota grace" \
		"scrub start" "scrub status" "scrub pause" "scrub resume" "scrub cancel" "scrub wait" \
		"scrub limit" "device stats" "device bad-blocks" \
		"inspect superblock" "inspect chunks" "inspect trees" \
		"inspect journal" "inspect extents" completions; do
		grep -q "^.SS aegisfs $command" "$man/aegisfs.8" || fail "aegisfs.8 lacks $command"
		# shellcheck disable=SC2086
		of_help aegisfs $command
	done
} | compare aegisfs.8
# And no command that the page does not name.
commands=$(for noun in volume quota inspect; do
	aegisfs $noun --help | sed -nE '/^Commands:/,/^$/s/^  ([a-z]+) .*/\1/p' | grep -v '^help$' | sed "s/^/$noun /"
done)
while read -r command; do
	grep -q "^.SS aegisfs $command" "$man/aegisfs.8" || fail "aegisfs.8 lacks $command"
done <<<"$commands"

# Every option that aegisfs(5) names is taken.
mkdir "$tmp/mnt"
options=$(sed -n "/^\.SH MOUNT OPTIONS/,/^\.SH [^M]/p" "$man/aegisfs.5" | sed -nE "/^\.TP/{n;p}" | grep "^\.B" | sed -E 's/^\.B[IR]* //; s/\\f[A-Z]//g; s/" *, *"/,/g' |
	sed -E 's/commit= .*/commit=7/; s/errors= .*/errors=remount-ro/; s/cache= .*/cache=1M/; s/fsname= .*/fsname=x/' | tr ', ' '\n\n' | grep -E '^[a-z_]')
for option in $options; do
	prefix=
	[[ $option == norecovery || $option == noload ]] && prefix=ro,
	mount.fuse.aegisfs device "$tmp/mnt" -f -o "$prefix$option" || fail "aegisfs.5 names $option, which is refused"
done
[[ $(wc -w <<<"$options") -gt 20 ]] || fail "only these options were found in aegisfs.5: $options"

if command -v man >/dev/null && command -v groff >/dev/null; then
	for page in "$man"/*.[58]; do
		[[ $(head -c3 "$page") == .so ]] && continue
		warnings=$(man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null)
		[[ -z $warnings ]] || fail "$page: $warnings"
	done
fi
