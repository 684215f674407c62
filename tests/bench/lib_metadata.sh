# SPDX-License-Identifier: GPL-2.0-only
# WHERE DIRECTORIES: makes, looks at, renames and removes many empty files.
metadata() {
	local where=$1 files
	files=$(by_size 10000 100000)
	[ "${AGED:-}" != 1 ] || files=10000
	local of=("$WORK/many" "$files" "$2")
	fresh
	mkdir $WORK/many
	rate "create in $where" files/s "$files" synced aegis-bench create "${of[@]}"
	cold
	rate "readdir of $where" files/s "$files" aegis-bench list "${of[@]}"
	cold
	rate "stat in $where" files/s "$files" aegis-bench stat "${of[@]}"
	local before
	before=$(written)
	rate "rename in $where" files/s "$files" synced aegis-bench rename "${of[@]}"
	written_since "written for a rename in $where" "$files" "$before"
	rate "unlink in $where" files/s "$files" synced aegis-bench unlink "${of[@]}"
	finish
}
