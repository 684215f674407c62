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
export AEGIS_TMP=$tmp
(cd "$tmp/mnt" && "$checks/lib_handles.py" make && "$checks/lib_handles.py" warm) || fail "file handles"
unmount_volume "$tmp/mnt"
mount_volume "$tmp/image" "$tmp/mnt"
(cd "$tmp/mnt" && "$checks/lib_handles.py" cold) || fail "file handles after a remount"

# The volume's own calls: label and trimming, as far as the image's filesystem can punch holes.
python3 - "$tmp/mnt" <<'PY' || fail "ioctls"
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x41009432, b"label".ljust(256, b"\0"))
assert fcntl.ioctl(fd, 0x81009431, bytes(256)).rstrip(b"\0") == b"label"
try:
    start, done, least = struct.unpack("QQQ", fcntl.ioctl(fd, 0xc0185879, struct.pack("QQQ", 0, 2**64 - 1, 0)))
    assert done > 1 << 30, done
except OSError as e:
    assert e.errno == 95, e
for number, command, argument in [(22, 0xc0185879, struct.pack("QQQ", 1 << 50, 4096, 0)), (25, 0x1234, 0)]:
    try:
        fcntl.ioctl(fd, command, argument)
        sys.exit("worked")
    except OSError as e:
        assert e.errno == number, e
PY
unmount_volume "$tmp/mnt"
check_volume "$tmp/image" "after the calls"
