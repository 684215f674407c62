#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# dbench: a file server's clients, with and without synchronous operations.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 900
. "$(dirname "$0")/lib.sh"

fresh
run() {
	dbench -t "$(by_size 4 60)" -D "$MNT" "$@"
}
check "4 clients" run 4
check "2 clients, synchronous" run -s -S 2
finish
