#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The kernel's NFS server exports a volume, and its client mounts it, versions 3 and 4.2, over loopback.
# AEGIS_DRIVERS: "module fuse" for volumes that FUSE has mounted, too.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 1200
. "$(dirname "$0")/lib.sh"
need python3 exportfs rpc.nfsd rpc.mountd rpcbind
modprobe nfsd 2> /dev/null || skip "this kernel has no NFS server (nfsd): file handles are in 36-calls-handles-namespaces"

CLIENT=/mnt/nfs
mkdir -p "$MNT" "$CLIENT"
export DRIVER

volume() { # mount or umount
	case $1-$DRIVER in
	mount-module) mount_volume ;;
	mount-fuse) mount -t fuse.aegisfs "$DEV" "$MNT" ;;
	umount-module) unmount_volume ;;
	umount-fuse)
		umount "$MNT"
		flock --timeout 120 "$DEV" true
		;;
	esac
}

# The shortest grace and lease times that the server takes.
start() {
	volume mount
	echo 10 > /proc/fs/nfsd/nfsv4leasetime
	echo 10 > /proc/fs/nfsd/nfsv4gracetime
	exportfs -o "rw,no_root_squash,no_subtree_check,insecure$([ "$DRIVER" = module ] || echo ,fsid=7)" "127.0.0.1:$MNT"
	rpc.nfsd 4
}

stop() {
	rpc.nfsd 0
	exportfs -ua
	exportfs -f
	volume umount
}

python3 -c '
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))'
mkdir -p /run/rpcbind /run/rpc_pipefs /var/lib/nfs/{nfsdcld,sm,sm.bak}
mount -t nfsd nfsd /proc/fs/nfsd 2> /dev/null || true
mount -t rpc_pipefs sunrpc /run/rpc_pipefs 2> /dev/null || true
rpcbind -w
rpc.statd --no-notify
nfsdcld
rpc.mountd

work() { # VERSION
	start
	mount -t nfs -o "vers=$1,actimeo=0,soft,timeo=100" "127.0.0.1:$MNT" "$CLIENT"
	coproc python3 "$(dirname "$0")/lib_nfs.py" "$CLIENT" "$MNT" "$1"
	local pid=$COPROC_PID line out=${COPROC[0]} in=${COPROC[1]}
	while read -r line <&"$out"; do
		case $line in
		cold) drop_caches ;;
		restart)
			stop
			start
			;;
		*)
			echo "$line"
			continue
			;;
		esac
		echo done >&"$in"
	done
	wait "$pid" || die "version $1 through $DRIVER"
	umount "$CLIENT"
	stop
}

cd "$(dirname "$0")"
for DRIVER in ${AEGIS_DRIVERS:-module}; do
	modprobe "${DRIVER/module/aegisfs}"
	mkfs
	for version in 3 4.2; do
		work $version
	done
	fsck.aegisfs -n -f "$DEV" || die "fsck found something"
done
