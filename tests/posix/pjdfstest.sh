#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# pjdfstest: every system call that POSIX has for files, with results, errors and times.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 900
. "$(dirname "$0")/lib.sh"

fresh
id tests > /dev/null 2>&1 || useradd --no-create-home --user-group tests
mkdir -p /tmp/second
mount -t tmpfs none /tmp/second

# File flags and NFSv4 access lists are other systems'.
configure() {
	cat <<- END
		[features]
		posix_fallocate = {}
		rename_ctime = {}
		stat_st_birthtime = {}
		utime_now = {}
		utimensat = {}
		[settings]
		naptime = 0.02
		allow_remount = $1
		[dummy_auth]
		entries = [["nobody", "nogroup"], ["tests", "tests"]]
	END
}
run() {
	configure "$1" > /tmp/pjdfstest.toml
	shift
	pjdfstest -c /tmp/pjdfstest.toml -p "$MNT" -s /tmp/second "$@" 2> /dev/null | sed 's/\x1b\[[0-9;]*m//g'
}

# Some tests leave files open, and then the volume cannot be made read-only: those that want it so
# run in a process of their own.
set +o pipefail
{
	run false
	run true erofs
} > /tmp/pjdfstest.out
set -o pipefail
awk '
	/^[a-z_0-9:]+ +(ok|FAILED|skipped)$/ { name = $1; result[name] = $2; why[name] = ""; next }
	/^\t/ && name != "" && why[name] == "" { why[name] = substr($0, 2) }
	END {
		for (name in result)
			print result[name], name (result[name] == "ok" ? "" : ": " why[name])
	}' /tmp/pjdfstest.out | sort > /tmp/pjdfstest.results
cat /tmp/pjdfstest.results
check "all tests have run" [ "$(wc -l < /tmp/pjdfstest.results)" -ge 398 ]
umount /tmp/second
finish
