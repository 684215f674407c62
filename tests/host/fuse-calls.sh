#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 600
# System calls through FUSE: the checks that the module has to pass too.

. "$(dirname "$0")/lib.sh"
need_fuse
need python3
[[ $(id -u) == 0 ]] || skip "needs root: the checks change users"

mkfs.aegisfs -q "$tmp/image" 2G
mount_volume "$tmp/image" "$tmp/mnt"
chmod 755 "$tmp"
checks=$here/../guest
python3 "$checks/lib_calls.py" "$tmp/mnt" ${AEGIS_CALLS:-acl names attrs io} || fail "calls"
unmount_volume "$tmp/mnt"
check_volume "$tmp/image" "after the calls"
