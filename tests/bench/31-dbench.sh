#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A file server with 8 clients.
# row: dbench, 8 clients
. "$(dirname "$0")/lib.sh"

fresh
throughput=$(dbench -t "$(by_size 4 20)" -D $WORK 8 | sed -n 's/^Throughput \([0-9.]*\) MB.*/\1/p' || true)
# On its aged volume btrfs finds no space for it now and then.
if [ -n "$throughput" ] || [ "$FS" != btrfs ]; then
	result "dbench, 8 clients" MB/s "$throughput"
fi
finish
