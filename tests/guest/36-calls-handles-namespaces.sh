#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# File handles as NFS uses them; idmapped mounts; user namespaces.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 400
. "$(dirname "$0")/lib.sh"
need python3 unshare setfacl

fresh
cd "$MNT"
handles=$(dirname "$0")/lib_handles.py
"$handles" make
"$handles" warm
drop_caches
"$handles" cold
cd /
remount_cold
cd "$MNT"
"$handles" cold
mv a z
mv z a
"$handles" warm
rm -rf ./*

# ---- an idmapped mount: on the disk 1000.., seen as 11000..
mkdir tree /mnt/mapped 2> /dev/null || true
chown 1000:1000 tree
echo content > tree/file
chown 1000:1000 tree/file
setfacl -m u:1001:r tree/file
if mount --bind -o X-mount.idmap=b:1000:11000:1000 tree /mnt/mapped; then
	cd /mnt/mapped
	same "owner through the mapping" 11000:11000 "$(stat -c %u:%g file)"
	same "list through the mapping" user:11001:r-- "$(getfacl -nc file | grep user:1)"
	setpriv --reuid 11000 --regid 11000 --clear-groups bash -ec '
		echo x > new; mkdir dir; ln -s x link; mkfifo fifo; chmod 2775 dir; echo y > dir/f
		setfattr -n user.a -v b new; setfacl -m u:11002:rw new; setfacl -d -m u:11003:rwx dir; touch dir/inherits
		mv new renamed; ln renamed hard; truncate -s 100 renamed; chgrp 11000 renamed'
	setpriv --reuid 11000 --regid 11000 --clear-groups python3 -c '
import os
os.close(os.open(".", os.O_TMPFILE | os.O_RDWR))'
	cd "$MNT/tree"
	same "owners on the disk" "1000:1000 1000:1000 1000:1000 1000:1000" \
		"$(echo $(stat -c %u:%g renamed dir link dir/inherits))"
	same "list on the disk" user:1002:rw- "$(getfacl -nc renamed | grep user:1)"
	same "inherited list on the disk" user:1003:rwx "$(getfacl -nc dir/inherits | grep -o user:1003:rwx)"
	same "set-group-ID" 2775 "$(stat -c %a dir)"
	# Who is not mapped can make nothing, and nothing can be given to them.
	refused "too large" touch /mnt/mapped/by-root
	refused "" chown 5 /mnt/mapped/renamed
	chown 11005:11006 /mnt/mapped/renamed
	same "chown through the mapping" 1005:1006 "$(stat -c %u:%g renamed)"
	same "rights through the mapping" refused \
		"$(setpriv --reuid 1000 --clear-groups sh -c 'echo > /mnt/mapped/file' 2> /dev/null || echo refused)"
	cd "$MNT"
	umount /mnt/mapped
else
	die "the kernel refuses an idmapped mount"
fi

# ---- a user namespace
chmod 777 .
refused "" setpriv --reuid 1000 --regid 1000 --clear-groups unshare -Urm mount -t aegisfs "$DEV" /mnt
setpriv --reuid 1000 --regid 1000 --clear-groups unshare -Ur bash -ec '
	echo x > mine
	chown 0:0 mine
	! chown 1 mine 2> /dev/null
	! chattr +i mine 2> /dev/null
	! setfattr -n trusted.a -v 1 mine 2> /dev/null
	! mknod null c 1 3 2> /dev/null
	! fsfreeze -f . 2> /dev/null
	! xfs_io -x -c shutdown . 2> /dev/null | grep -q never' || die "rights in a user namespace"
[ -w . ] && touch alive
same "owner from outside" 1000:1000 "$(stat -c %u:%g mine)"
cd /
checked
