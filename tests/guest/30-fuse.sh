#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# One volume, two drivers: what FUSE writes the module reads, and the other way round.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 300
. "$(dirname "$0")/lib.sh"
need python3

modprobe fuse
modprobe aegisfs
mkfs
mkdir -p "$MNT"

through() {
	case $1 in
	fuse) mount -t fuse.aegisfs "$DEV" "$MNT" ;;
	module) mount -t aegisfs "$DEV" "$MNT" ;;
	esac
	same "type" "$2" "$(findmnt -n -o FSTYPE "$MNT")"
}
# FUSE's unmount returns before the server has written its last checkpoint.
released() {
	umount "$MNT"
	flock --timeout 120 "$DEV" true || die "the server does not let go of the device"
}
digest() {
	"$(dirname "$0")/walk.py" "$MNT"
}
populate() {
	mkdir "$MNT/$1"
	cp -a /etc "$MNT/$1/"
	head -c 5000000 /dev/urandom > "$MNT/$1/large"
	truncate -s 1T "$MNT/$1/sparse"
	echo tail >> "$MNT/$1/sparse"
	ln -s target "$MNT/$1/link"
	mkfifo "$MNT/$1/fifo"
	setfattr -n user.name -v value "$MNT/$1/large" 2> /dev/null || true
	for i in $(seq 300); do echo "$i" > "$MNT/$1/file-$i"; done
	rm "$MNT/$1/"file-1??
	truncate -s 4000000 "$MNT/$1/large"
	# A file of a tebibyte is not read by the walk.
	truncate -s 10M "$MNT/$1/sparse"
}

through fuse fuse.aegisfs
populate fuse
mount -o remount,ro "$MNT"
refused "Read-only" touch "$MNT/file"
mount -o remount,rw "$MNT"
touch "$MNT/fuse/fifo"
before=$(digest)
released
through module aegisfs
same "what FUSE wrote" "$before" "$(digest)"
populate module
rm -r "$MNT/fuse/etc"
before=$(digest)
unmount_volume
through fuse fuse.aegisfs
same "what the module wrote" "$before" "$(digest)"
rm -r "$MNT/module"
released
mount_volume
same "left" fuse "$(ls "$MNT")"
checked
