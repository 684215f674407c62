#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Many processes on the same files and directories, each checking every byte of its own, on 1 to 8
# processors, with eviction and too little memory; then again after a remount and after a crash.
# vm: --disk 3G --mem 1536 --cpus 8
# timeout: 3600
. "$(dirname "$0")/lib.sh"

fresh
without=none
if is_fuse; then
	for kind in clone dedupe; do
		skipped "$kind" "the kernel's FUSE client refuses it"
		without+=,$kind
	done
fi
seed=$((RANDOM * 32768 + RANDOM))
seconds=$(by_size 12 180)

stress() {
	rm -rf "${MNT:?}"/* /tmp/aegis-stress
	aegis-stress --seed $seed --seconds "$seconds" --without $without "$@" "$MNT"
}
compare() {
	aegis-stress --verify --workers "$1" "$MNT"
}
on_processors() {
	local cpu
	for cpu in 1 2 3 4 5 6 7; do
		[ ! -e "/sys/devices/system/cpu/cpu$cpu" ] ||
			echo $((cpu < $1)) > "/sys/devices/system/cpu/cpu$cpu/online"
	done
	same processors "$1" "$(nproc)"
	stress --workers 8
	unmount_volume
	mount_volume
	compare 8
}
for processors in $(by_size "2 8" "1 2 4 8"); do
	if [ "$(nproc --all)" = 1 ] && [ "$processors" != 1 ]; then
		skipped "$processors processors" "this kernel has one"
		continue
	fi
	check "$processors processors, seed $seed" on_processors "$processors"
	seed=$((seed + 1))
done

# The page cache of all workers together does not fit: every write waits for writeback.
in_little_memory() {
	echo +memory > /sys/fs/cgroup/cgroup.subtree_control
	mkdir -p /sys/fs/cgroup/little
	echo 32M > /sys/fs/cgroup/little/memory.max
	echo $BASHPID > /sys/fs/cgroup/little/cgroup.procs
	stress --workers 6 --calm
	cat /sys/fs/cgroup/little/memory.events
	compare 6
}
mkdir -p /sys/fs/cgroup
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup 2> /dev/null || true
if grep -qsw memory /sys/fs/cgroup/cgroup.controllers; then
	check "6 workers in 32 MiB, seed $seed" in_little_memory
else
	skipped "6 workers in 32 MiB" "this kernel has no memory control groups"
fi

# What was synced is there after a crash.
through_a_crash() {
	stress --workers 4 --calm
	# FUSE does not hear of sync, only of fsync.
	find "$MNT" -exec sync {} +
	crash
	compare 4
}
check "after a crash, seed $seed" through_a_crash
finish
