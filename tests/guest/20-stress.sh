#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Many processes at once, with content verified: random I/O of all kinds by fio, the filesystem
# stressors of stress-ng, dbench, little memory.
# vm: --disk 3G --mem 1024 --cpus 2
# timeout: 900
. "$(dirname "$0")/lib.sh"
need fio stress-ng

fresh
cd "$MNT"

size=$(sized "files of fio" 48m 6m)
small=$(sized "shared by fio's jobs" 12m 2m)
least=$(sized "files where memory is short" 8m 2m)

# ---- fio: written at random, read back and compared
verify() {
	fio --eta=never --output=/tmp/fio.out --name="$1" --directory="$MNT" --size=$size --verify=crc32c \
		--verify_fatal=1 --do_verify=1 --random_generator=lfsr "${@:2}" || {
		cat /tmp/fio.out
		die "fio $1"
	}
	rm -f "$1".*
}
[ -n "${QUICK:-}" ] || verify buffered --rw=randwrite --bs=4k --numjobs=3
[ -n "${QUICK:-}" ] || verify odd --rw=randwrite --bs=3000 --size=$small --numjobs=2
[ -n "${QUICK:-}" ] || verify direct --rw=randwrite --bs=4k --direct=1 --numjobs=2 --ioengine=libaio --iodepth=8
[ -n "${QUICK:-}" ] || verify large --rw=randwrite --bs=256k --direct=1 --numjobs=2 --ioengine=libaio --iodepth=4
# io_uring tries each call without waiting first.
[ -n "${QUICK:-}" ] || verify uring --rw=randwrite --bs=64k --direct=1 --numjobs=2 --ioengine=io_uring --iodepth=8
[ -n "${QUICK:-}" ] || verify mapped --rw=randwrite --bs=4k --ioengine=mmap --numjobs=2
[ -n "${QUICK:-}" ] || verify synced --rw=randwrite --bs=16k --fsync=8 --size=$least --numjobs=2
[ -n "${QUICK:-}" ] || verify prealloc --rw=randwrite --bs=4k --fallocate=native --numjobs=2
# buffered and direct on the same file, reading what the other wrote
fio --eta=never --output=/tmp/fio.out --directory="$MNT" --filename=shared --size=32m --bs=4k --runtime=15 \
	--time_based --name=b --rw=randrw --name=d --rw=randrw --direct=1 --name=m --rw=randrw \
	--ioengine=mmap || {
	cat /tmp/fio.out
	die "mixed access to one file"
}
rm -f shared

# ---- stress-ng
stress-ng --temp-path "$MNT" --verify --timeout 60 --metrics-brief --oom-avoid \
	--hdd 1 --hdd-bytes 48m --hdd-opts wr-rnd,rd-rnd,fsync --fallocate 1 --fallocate-bytes 48m \
	--fpunch 1 --iomix 1 --iomix-bytes 16m --metamix 1 --rename 1 --link 1 --symlink 1 --dir 1 \
	--dentry 1 --dentries 300 --dirmany 1 --xattr 1 --seek 1 --seek-size 32m --seek-punch \
	--mmap 1 --mmap-file --mmap-bytes 32m --io 1 --file-ioctl 1 --flock 1 --fstat 1 --utime 1 \
	--chmod 1 --chown 1 --copy-file 1 --copy-file-bytes 128m --readahead 1 --readahead-bytes 32m \
	--sync-file 1 --sync-file-bytes 32m --acl 1 --fiemap 1 --fiemap-bytes 32m --open 1 \
	--unlink 1 --touch 1 --fsize 1 --getdent 1 --filename 1 --filename-opts posix --lease 1 \
	--inode-flags 1 --chattr 1 --handle 1 --locka 1 > /tmp/stress.out 2>&1 || {
	cat /tmp/stress.out
	die stress-ng
}

# ---- dbench
if command -v dbench > /dev/null; then
	dbench -t 20 -D "$MNT" 4 > /tmp/dbench.out 2>&1 || {
		tail -20 /tmp/dbench.out
		die dbench
	}
	tail -1 /tmp/dbench.out
fi

rm -rf "${MNT:?}"/*
cd /
checked
