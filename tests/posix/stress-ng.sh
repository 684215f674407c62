#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# stress-ng: its stressors of filesystems and I/O, one after the other, results verified.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 3600
. "$(dirname "$0")/lib.sh"

fresh
# Of its classes `filesystem` and `io`, those that work on files in a directory of one's choice.
stressors="access acl aio aiol bad-altstack chattr chdir chmod chown close copy-file dentry dir
	dirdeep dirmany dup eventfd fallocate fanotify fcntl fiemap file-ioctl filename filerace flock
	fpunch fsize fstat fsync-range getdent handle hdd inode-flags inotify io io-uring iomix lease link
	locka lockf lockofd lockmix metamix mknod mmap-file mmapaddr mmapmany mmapfork msync noop open
	pidfd pipe-file rdrand readahead rename revio seal seek sendfile splice statmount symlink
	sync-file tee touch truncate unlink utime verity vm-splice xattr"
known=" $(stress-ng --stressors) "
run() {
	local name=$1 options=() status=0
	case $name in
	hdd) options=(--hdd-bytes 32m --hdd-opts wr-rnd,rd-rnd,fsync) ;;
	iomix) options=(--iomix-bytes 16m) ;;
	fallocate) options=(--fallocate-bytes 64m) ;;
	copy-file) options=(--copy-file-bytes 128m) ;;
	readahead) options=(--readahead-bytes 32m) ;;
	sync-file) options=(--sync-file-bytes 32m) ;;
	fiemap) options=(--fiemap-bytes 32m) ;;
	dentry) options=(--dentries 300) ;;
	filename) options=(--filename-opts posix) ;;
	seek) options=(--seek-size 32m --seek-punch) ;;
	truncate) options=(--truncate-bytes 64m) ;;
	esac
	stress-ng --temp-path "$MNT" --verify --oom-avoid --timeout "$seconds" "--$name" 2 "${options[@]}" ||
		status=$?
	# 3: not enough resources, 4: not implemented; its output says why.
	echo "status $status"
	[ "$status" = 0 ]
}
seconds=$(by_size 2 10)
[ -z "${AEGIS_QUICK:-}" ] ||
	stressors="acl aio chattr copy-file dentry dir fallocate fiemap filename filerace fpunch handle hdd
		inode-flags iomix lease link locka metamix msync open rename seek sendfile splice symlink
		sync-file truncate unlink utime xattr"
for name in $stressors; do
	case $known in
	*" $name "*) ;;
	*) continue ;;
	esac
	output=$(check "$name" run "$name")
	if [[ $output == FAILED* ]] && grep -qE "^status 4$" "$LOG"; then
		skipped "$name" "$(grep -m1 -oE "(skipping|skipped|not implemented|not supported).*" "$LOG" || echo "stress-ng has not implemented it here")"
	else
		echo "$output"
	fi
	rm -rf "${MNT:?}"/*
done
finish
