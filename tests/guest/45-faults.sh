#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Devices and memory that fail while a program writes and others read: nothing hangs, the kernel has nothing to
# report, what was acknowledged is there once the fault is gone, and nothing wrong is ever read. Prints a line for
# each fault. What the kernel cannot inject is left out (failslab and its kin are in the debug kernel only).
# vm: --disk 1G
# timeout: 1200
. "$(dirname "$0")/lib.sh"
need dmsetup python3

seconds=${AEGIS_SECONDS:-3}
modprobe aegisfs
modprobe dm-mod 2> /dev/null || skip "this kernel has no device mapper"
sectors=$(blockdev --getsz "$DEV")
good="0 $sectors linear $DEV 0"
MAPPED=/dev/mapper/aegis-faults
debug=/sys/kernel/debug
mountpoint -q "$debug" || mount -t debugfs debugfs "$debug" 2> /dev/null || true

swap() {
	dmsetup suspend --nolockfs --noflush aegis-faults
	dmsetup load aegis-faults --table "$1"
	dmsetup resume aegis-faults
}
promised() { sed -n 's/^synced //p' /tmp/writer | tail -1; }

# One round: begin, fault, work, end of the fault, check. $1: name (AEGIS_ONLY: only those with this in it);
# $2: what begins the fault; $3: what ends it.
round() {
	local name=$1 begin=$2 finish=$3 writer before after state failed=0 wrong=0
	[[ $name == *${AEGIS_ONLY:-}* ]] || return 0
	dmsetup create aegis-faults --table "$good"
	mkfs.aegisfs -q -f "$MAPPED"
	mkdir -p "$MNT"
	mount -t aegisfs "$MAPPED" "$MNT"
	mkdir "$MNT/old"
	for i in {1..30}; do head -c $((i * 5000)) /dev/urandom > "$MNT/old/$i"; done
	(cd "$MNT/old" && sha256sum -- *) > /tmp/sums
	sync
	aegis-guest write "$MNT/work" > /tmp/writer 2>&1 &
	writer=$!
	for _ in {1..600}; do
		[[ $(promised) ]] && break
		sleep 0.1
	done
	before=$(promised)
	[[ $before ]] || die "$name: the writer does not begin: $(cat /tmp/writer)"
	eval "$begin"
	local end=$((SECONDS + seconds))
	while ((SECONDS < end)); do
		# 3: caches are dropped, so that the device is read.
		echo 3 > /proc/sys/vm/drop_caches 2> /dev/null || true
		while read -r sum file; do
			local got
			if got=$(sha256sum < "$MNT/old/$file" 2> /dev/null); then
				[[ ${got%% *} == "$sum" ]] || wrong=$((wrong + 1))
			else
				failed=$((failed + 1))
			fi
		done < /tmp/sums
	done
	kill -0 $writer 2> /dev/null && state="goes on" || state="ended: $(grep -v ^synced /tmp/writer | sed 's/.*: //' | tail -1)"
	kill $writer 2> /dev/null || true
	wait $writer 2> /dev/null || true
	after=$(promised)
	eval "$finish"
	umount "$MNT" || die "$name: cannot be unmounted"
	mount -t aegisfs "$MAPPED" "$MNT" || die "$name: does not mount after the fault"
	((wrong == 0)) || die "$name: $wrong reads gave wrong data"
	(cd "$MNT/old" && sha256sum --quiet -c /tmp/sums) || die "$name: old files are damaged"
	aegis-guest check "$MNT/work" "$after" > /dev/null || die "$name: $after steps were acknowledged"
	umount "$MNT"
	fsck.aegisfs -n -f --data "$MAPPED" > /tmp/fsck || die "$name: fsck: $(cat /tmp/fsck)"
	dmsetup remove aegis-faults
	echo "$name: writer $state; $before, then $after steps acknowledged and there; reads: $failed failed, $wrong wrong"
}

round "dm-error, all" 'swap "0 $sectors error"' 'swap "$good"'
half=$((sectors / 2))
round "dm-error, second half" 'swap "0 $half linear $DEV 0
$half $((sectors - half)) error"' 'swap "$good"'
if modprobe dm-flakey 2> /dev/null; then
	round "dm-flakey, writes fail" 'swap "0 $sectors flakey $DEV 0 0 3600 1 error_writes"' 'swap "$good"'
	round "dm-flakey, reads fail" 'swap "0 $sectors flakey $DEV 0 0 3600 1 error_reads"' 'swap "$good"'
	round "dm-flakey, fails every other second" 'swap "0 $sectors flakey $DEV 0 1 1 1 error_writes"' 'swap "$good"'
	round "dm-flakey, one byte of each read wrong" \
		'swap "0 $sectors flakey $DEV 0 0 3600 5 corrupt_bio_byte 100 r 1 0"' 'swap "$good"'
	round "dm-flakey, reads wrong at random" \
		'swap "0 $sectors flakey $DEV 0 0 3600 2 random_read_corrupt 200000000"' 'swap "$good"'
fi
if modprobe dm-dust 2> /dev/null; then
	round "dm-dust, bad blocks" 'swap "0 $sectors dust $DEV 0 4096"
		for b in $(seq 2000 37 60000); do dmsetup message aegis-faults 0 addbadblock $b; done > /dev/null
		dmsetup message aegis-faults 0 enable' 'swap "$good"'
fi
if modprobe dm-delay 2> /dev/null; then
	round "dm-delay, 50 ms" 'swap "0 $sectors delay $DEV 0 50"' 'swap "$good"'
fi

# ---- memory and requests that fail, by the kernel's own fault injection
inject() { # DIRECTORY PROBABILITY
	echo "$2" > "$debug/$1/probability"
	echo 1 > "$debug/$1/interval"
	echo -1 > "$debug/$1/times"
	echo 0 > "$debug/$1/verbose"
}
for kind in failslab fail_page_alloc; do
	[[ -d $debug/$kind ]] || continue
	echo N > "$debug/$kind/ignore-gfp-wait" 2> /dev/null || true
	# Only the writer: everything else in the guest must go on.
	echo Y > "$debug/$kind/task-filter"
	[[ $kind == fail_page_alloc ]] && echo 0 > "$debug/$kind/min-order"
	for percent in 1 5; do
		round "$kind, $percent %" "echo 1 > /proc/\$writer/make-it-fail; inject $kind $percent" "echo 0 > $debug/$kind/probability"
	done
done
if [[ -d $debug/fail_make_request ]]; then
	disk=$(basename "$(readlink -f "$DEV")")
	for percent in 1 20; do
		round "fail_make_request, $percent %" \
			"echo 1 > /sys/block/$disk/make-it-fail; inject fail_make_request $percent" \
			"echo 0 > $debug/fail_make_request/probability; echo 0 > /sys/block/$disk/make-it-fail"
	done
fi
