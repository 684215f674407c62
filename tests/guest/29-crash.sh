#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# What a crash leaves, through the module and through FUSE: usage that is counted exactly, nothing of what had
# no name, lists of rights that agree with the mode. AEGIS_ROUNDS: crashes under load for each, 2 unless told;
# AEGIS_SEED: of the load.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 1200
. "$(dirname "$0")/lib.sh"
need python3 xfs_io setquota setfacl

seed=${AEGIS_SEED:-$RANDOM}
rounds=${AEGIS_ROUNDS:-$(sized "rounds under load" 2 1)}
tests=$(dirname "$(realpath "$0")")
echo "seed $seed"
OPTIONS=usrquota,grpquota,prjquota

up() {
	case $DRIVER in
	module) mount_volume $OPTIONS ;;
	fuse) mount -t fuse.aegisfs -o $OPTIONS "$DEV" "$MNT" ;;
	esac
}

# Nothing is written any more, what is in memory is lost.
crash() {
	case $DRIVER in
	module) xfs_io -x -c shutdown "$MNT" > /dev/null ;;
	fuse) kill -9 "$(fuser "$DEV" 2> /dev/null)" ;;
	esac
}

down() {
	cd /
	# The children of what was killed may need a moment.
	local try
	for try in $(seq 50); do
		umount "$MNT" 2> /dev/null && break
		[ "$try" -lt 50 ] || die "the volume stays busy"
		sleep 0.2
	done
	flock --timeout 120 "$DEV" true || die "the server does not let go of the device"
}

# After a crash, when who had files open is gone: the driver recovers, then the module shows what is there.
recovered() {
	down
	fsck.aegisfs -n -f "$DEV" || die "fsck found something after a crash"
	up
	down
	mount_volume $OPTIONS
	"$tests/lib_quota.py" recount "$MNT"
}

used() {
	aegisfs quota get --json --user 1001 "$MNT" | python3 -c '
import json, sys
q = json.load(sys.stdin)
print(q["space_used"], q["inodes_used"])'
}

exec_as_user() {
	exec setpriv --reuid 1001 --regid 1001 --clear-groups "$@"
}

crashes() {
	mkfs -O quota
	up

	# ---- without a name
	mkdir -m 777 "$MNT/d"
	cd "$MNT/d"
	# Its number is that of the program, so that it can be killed.
	exec_as_user python3 - <<-'PY' &
		import os, time
		def unnamed():
		    fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
		    os.write(fd, os.urandom(1 << 20))
		    return fd
		def link(fd, name):
		    # With a directory, so that it follows the link: only then it is linkat.
		    os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd)
		never, linked, late = unnamed(), unnamed(), unnamed()
		link(linked, "linked")
		os.fsync(linked)
		gone = os.open("gone", os.O_CREAT | os.O_RDWR)
		os.write(gone, os.urandom(1 << 20))
		os.unlink("gone")
		os.fsync(gone)
		os.fsync(never)
		half = os.open("half", os.O_CREAT | os.O_RDWR)
		os.write(half, b"x" * 100)
		os.link("half", "whole")
		os.unlink("half")
		os.fsync(half)
		# Behind all that is durable.
		link(late, "late")
		open("ready", "w")
		time.sleep(1000)
	PY
	local pid=$!
	until [ -e ready ]; do
		kill -0 $pid || die "making files failed"
		sleep 0.1
	done
	crash
	kill -9 $pid
	wait $pid 2> /dev/null || true
	recovered
	same "names after the crash" "linked whole" "$(ls "$MNT/d" | grep -v -e ready -e late | xargs)"
	same "size of what was linked" 1048576 "$(stat -c %s "$MNT/d/linked")"
	rm -f "$MNT/d/ready" "$MNT/d/late"
	same "used by what is left" "$(((1 << 20) + 512)) 2" "$(used)"
	mkdir -m 777 "$MNT"/{a,b,c}
	for limited in 1001 1002; do
		aegisfs quota set "$MNT" --user $limited --space-hard 20M --inodes-hard 150
	done

	# ---- mode and list
	down
	up
	cd "$MNT"
	touch acl{1..40}
	setfacl -m u:1001:rwx acl{1..40}
	sync acl1
	(
		for n in $(seq 100000); do
			file=acl$((n % 40 + 1))
			case $((n % 3)) in
			0) setfacl -m u:1001:rwx,m::rwx "$file" ;;
			1) chmod 640 "$file" ;;
			2) setfacl -m u:1002:r,m::r-x "$file" ;;
			esac
		done
	) 2> /dev/null &
	pid=$!
	# What is durable when it comes ends anywhere.
	while sync acl1; do :; done 2> /dev/null &
	sleep 1.5
	crash
	kill $pid $! 2> /dev/null || true
	wait 2> /dev/null || true
	recovered
	python3 - "$MNT" <<-'PY'
		import os, struct, sys
		lists = 0
		for i in range(1, 41):
		    path = f"{sys.argv[1]}/acl{i}"
		    try:
		        value = os.getxattr(path, "system.posix_acl_access")
		    except OSError:
		        continue
		    lists += 1
		    entries = {t: p for t, p, _ in struct.iter_unpack("<HHI", value[4:])}
		    mode = entries[1] << 6 | entries[16] << 3 | entries[32]
		    assert mode == os.stat(path).st_mode & 0o777, (path, oct(mode), oct(os.stat(path).st_mode))
		print(lists, "lists agree with their modes")
		assert lists
	PY

	# ---- under load
	local round
	for round in $(seq "$rounds"); do
		down
		up
		"$tests/lib_quota.py" load "$MNT" "$seed-$DRIVER-$round" &
		pid=$!
		sleep "0.$((RANDOM % 9 + 1))"
		((round % 2)) || sleep 2
		crash
		wait $pid || true
		recovered
	done
	checked
}

mkdir -p "$MNT"
modprobe aegisfs
modprobe fuse
for DRIVER in module fuse; do
	echo "through $DRIVER"
	crashes
done
