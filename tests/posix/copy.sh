#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# rsync and tar carry a tree with everything in it to the volume and back: hard links, access lists,
# extended attributes, sparse files, special files, times, names of all kinds.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 1800
. "$(dirname "$0")/lib.sh"

fresh
SOURCE=/tmp/source
id tests > /dev/null 2>&1 || useradd --no-create-home --user-group tests

make_tree() {
	mkdir -p "$SOURCE"
	cd "$SOURCE"
	python3 - "$(by_size 100 2000)" "$(by_size 40 300)" <<- 'END'
		import os, random, socket, sys
		rng = random.Random(3)
		count = int(sys.argv[1])
		for i in range(count):
		    d = f"dir{i % 23}/sub{i % 5}"
		    os.makedirs(d, exist_ok=True)
		    name = f"{d}/file{i}"
		    with open(name, "wb") as f:
		        f.write(rng.randbytes(int(min(rng.paretovariate(0.7) * 200, 1 << 20))))
		    os.chmod(name, rng.randrange(0o10000))
		    os.chown(name, rng.randrange(70000), rng.randrange(70000))
		    os.utime(name, ns=(rng.randrange(2**60), rng.randrange(2**60)))
		    if i % 7 == 0: os.link(name, f"{d}/hard{i}")
		    if i % 9 == 0: os.symlink(name if i % 2 else "x" * rng.randrange(1, 4000), f"{d}/link{i}")
		    if i % 5 == 0:
		        os.setxattr(name, "user.number", str(i).encode())
		        os.setxattr(name, "user.bytes", rng.randbytes(rng.randrange(900)))
		        os.setxattr(name, "trusted.hidden", b"\0\xff")
		os.mkfifo("fifo")
		socket.socket(socket.AF_UNIX).bind("socket")
		os.mknod("block", 0o60640, os.makedev(259, 65540))
		os.mknod("char", 0o20640, os.makedev(4, 64))
		for name in ["\xff" * 255, b"\x01\x7f\n \\*", "ü" * 127, "-rf", " "]:
		    open(name if isinstance(name, bytes) else name.encode("latin-1" if name[0] == "\xff" else "utf-8"), "w").close()
		with open("sparse", "wb") as f:
		    size = int(sys.argv[2]) << 20
		    f.truncate(size)
		    for at in (0, 1 << 20, size // 2, size - 5): f.seek(at); f.write(b"data!")
	END
	setfacl -m u:tests:rw,g:nogroup:r dir0/sub0/file0 2> /dev/null || setfacl -m u:tests:rw,g:nogroup:r dir0
	setfacl -d -m u:tests:rwx,g:nogroup:rx dir1
	setfacl -m u:12345:x dir2
	setcap cap_net_raw+ep "$(find . -name 'file*' -size +0 | sort | head -n 1)"
	# rsync takes times of one second for equal, and these were made just now.
	find . ! -type f -exec touch -h -d @1000000000.123456789 {} +
}
# All that a copy has to keep.
manifest() {
	(
		cd "$1"
		find . -printf '%P %y %m %U %G %n %T@ %l ' \( -type d -printf '-\n' -o -printf '%s\n' \) | sort
		find . -type b -o -type c | sort | xargs stat -c '%n %t:%T'
		find . -type f -print0 | sort -z | xargs -0 sha256sum
		find . -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex 2> /dev/null
		# A symbolic link has none, and its target is there under its own name.
		find . ! -type l -print0 | sort -z | xargs -0 getfacl -p -n
		# Which names are one file.
		find . -links +1 -type f -printf '%i %p\n' | sort -k 2 |
			awk '{ if (!($1 in n)) n[$1] = ++count; print n[$1], $2 }'
	)
}
# same_trees WHAT DIRECTORY
same_trees() {
	manifest "$SOURCE" > /tmp/expected
	manifest "$2" > /tmp/found
	diff /tmp/expected /tmp/found | head -n 40
	cmp /tmp/expected /tmp/found || die "$1: the trees differ"
	[ "$(stat -c %b "$2/sparse")" -lt 10000 ] || die "$1: the sparse file is full"
}
rsync_to() {
	rsync -aHAXS --numeric-ids "$SOURCE/" "$MNT/rsync/"
	same_trees rsync "$MNT/rsync"
	remount_cold
	same_trees "rsync, after a remount" "$MNT/rsync"
	[ -z "$(rsync -aHAXSi --checksum --delete --numeric-ids "$SOURCE/" "$MNT/rsync/")" ]
}
rsync_back() {
	rsync -aHAXS --numeric-ids "$MNT/rsync/" /tmp/back/
	same_trees "rsync back" /tmp/back
	rm -rf /tmp/back
}
tar_to() {
	rm -rf /tmp/back
	local options=(--xattrs --xattrs-include='*' --acls --sparse --numeric-owner)
	tar "${options[@]}" -C "$SOURCE" -cf "$MNT/archive" .
	mkdir "$MNT/tar" /tmp/back
	tar "${options[@]}" -C "$MNT/tar" -xpf "$MNT/archive"
	tar "${options[@]}" -C "$MNT/tar" -cf - . | tar "${options[@]}" -C /tmp/back -xpf -
	# An archive has no sockets.
	cp -a "$SOURCE/socket" "$MNT/tar/"
	cp -a "$SOURCE/socket" /tmp/back/
	touch -r "$SOURCE" "$MNT/tar" /tmp/back
	same_trees tar "$MNT/tar"
	remount_cold
	same_trees "tar, after a remount" "$MNT/tar"
	same_trees "tar back" /tmp/back
	rm -rf /tmp/back
}
copy() {
	cp -a "$MNT/rsync" "$MNT/copy"
	same_trees "cp -a" "$MNT/copy"
}
check "a tree with everything" make_tree
check "rsync -aHAXS to the volume" rsync_to
check "rsync -aHAXS back" rsync_back
check "tar --xattrs --acls --sparse" tar_to
check "cp -a" copy
rm -rf "$SOURCE"
finish
