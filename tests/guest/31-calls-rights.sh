#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Access control lists, extended attributes, set-id bits and capabilities.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 300
. "$(dirname "$0")/lib.sh"
need python3

fresh
"$(dirname "$0")/lib_calls.py" "$MNT" acl
before=$(cd "$MNT"; getfattr -h -R -d -m - . | sort)
remount_cold
[ "$before" = "$(cd "$MNT"; getfattr -h -R -d -m - . | sort)" ] || die "attributes differ after a remount"
checked
