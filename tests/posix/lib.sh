# SPDX-License-Identifier: GPL-2.0-only
# Helpers of the conformance suites: source it after the header comments.
#
# A suite prints one line for each case: `ok NAME`, `FAILED NAME: WHY` or `skipped NAME: WHY`;
# whatever else it prints is for its log. AEGIS_DRIVER says how volumes are mounted (module, fuse),
# AEGIS_QUICK asks for a small part of the work, and AEGIS_KIT is the device with the programs and
# sources that the distribution does not have.
# shellcheck source=../guest/lib.sh
. "$(dirname "$0")/../guest/lib.sh"

DRIVER=${AEGIS_DRIVER:-module}
KIT=/mnt/kit
LOG=/tmp/case.log

if [ -n "${AEGIS_KIT:-}" ] && ! mountpoint -q "$KIT"; then
	mkdir -p "$KIT"
	mount -o ro "$AEGIS_KIT" "$KIT"
fi
PATH=$KIT/bin:$PATH

# by_size QUICK FULL: how much work to do
by_size() {
	if [ -n "${AEGIS_QUICK:-}" ]; then echo "$1"; else echo "$2"; fi
}

is_fuse() {
	[ "$DRIVER" = fuse ]
}

mount_volume() {
	mkdir -p "$MNT"
	case $DRIVER in
	module) mount -t aegisfs ${1:+-o "$1"} "$DEV" "$MNT" ;;
	fuse) mount -t fuse.aegisfs ${1:+-o "$1"} "$DEV" "$MNT" ;;
	esac
}

unmount_volume() {
	umount "$MNT"
	# FUSE's unmount returns before the server has written its last checkpoint.
	flock --timeout 120 "$DEV" true || die "the device stays in use"
}

# fresh: a new volume, mounted
fresh() {
	modprobe aegisfs
	modprobe fuse
	mkfs "$@"
	mount_volume
}

# crash: the filesystem ends as in a power cut, and is mounted again
crash() {
	if is_fuse; then
		local server
		server=$(fuser "$DEV" 2> /dev/null | xargs)
		kill -KILL "$server"
		umount -l "$MNT"
	else
		xfs_io -x -c "shutdown" "$MNT" > /dev/null
		umount "$MNT"
	fi
	flock --timeout 120 "$DEV" true || die "the device stays in use"
	mount_volume
}

# the command that aegis-fsx remounts with
remount_command() {
	printf "umount %s && flock --timeout 120 %s true && mount -t %s %s %s" "$MNT" "$DEV" \
		"$(is_fuse && echo fuse.aegisfs || echo aegisfs)" "$DEV" "$MNT"
}

# check NAME COMMAND...: a case that passes if the command (a function, too) succeeds
check() {
	local name=$1 start=$SECONDS status=0
	shift
	# Not as a condition: the shell would ignore errors inside of it.
	set +e
	(
		set -e
		"$@"
	) > "$LOG" 2>&1 < /dev/null
	status=$?
	set -e
	if [ "$status" = 0 ]; then
		echo "ok $name"
	else
		echo "FAILED $name: status $status: $(grep -v '^ *$' "$LOG" | tail -n 1)"
		echo "---- end of its output"
		tail -n 60 "$LOG"
		echo "----"
	fi
	echo "($name: $((SECONDS - start)) s)"
}

# skipped NAME WHY
skipped() {
	echo "skipped $1: $2"
}

# finish: empties the volume, and has fsck find nothing
finish() {
	cd /
	check "fsck finds nothing" checked
}
