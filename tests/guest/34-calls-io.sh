#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Reads and writes in all ways, io_uring among them; locks, leases, notifications; swap files.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 400
. "$(dirname "$0")/lib.sh"
need python3

fresh
"$(dirname "$0")/lib_calls.py" "$MNT" io
cd "$MNT"

# ---- swap files would need blocks that stay where they are
fallocate -l 8M swap
chmod 600 swap
mkswap swap > /dev/null
refused "Invalid argument" swapon swap
rm swap
cd /
checked
