#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Extended attributes, access control lists, chattr, the label, file handles.
# vm: --disk 3G --mem 2048 --cpus 2
# smoke
# timeout: 300
. "$(dirname "$0")/lib.sh"
need setfattr getfattr setfacl getfacl chattr lsattr setpriv

value() {
	getfattr --only-values -n "$2" "$1" 2> /dev/null
}

fresh -L before
cd "$MNT"
umask 022

# ---- attributes
touch f
mkdir d
ln -s f l
setfattr -n user.one -v 1 f
setfattr -n user.empty f
setfattr -n trusted.two -v 2 f
setfattr -n security.three -v 3 f
setfattr -n user.d -v 4 d
setfattr -h -n trusted.l -v 5 l
refused "not permitted" setfattr -h -n user.l -v 5 l
refused "not supported" setfattr -n bogus.x -v 1 f
same user.one 1 "$(value f user.one)"
same names "security.three trusted.two user.empty user.one" \
	"$(getfattr --absolute-names -d -m - f | sed -n 's/=.*//p' | sort | tr '\n' ' ' | sed 's/ $//')"
same "names for others" "user.empty user.one" \
	"$(setpriv --reuid 1000 --clear-groups getfattr -d -m '^(user|trusted)' f | sed -n 's/=.*//p' | sort | tr '\n' ' ' | sed 's/ $//')"
setfattr -n user.one -v changed f
same changed changed "$(value f user.one)"
setfattr -x user.one f
refused "No such attribute" getfattr -n user.one f
refused "No such attribute" setfattr -x user.one f
large=$(head -c 49152 /dev/urandom | base64 -w0 | head -c 65000)
python3 - "$large" << 'PY'
import os, sys
os.setxattr("f", "user.large", sys.argv[1].encode())
try:
    os.setxattr("f", "user.large", b"x", os.XATTR_CREATE)
    sys.exit("created twice")
except FileExistsError:
    pass
try:
    os.setxattr("f", "user.none", b"x", os.XATTR_REPLACE)
    sys.exit("replaced nothing")
except OSError:
    pass
for i in range(100):
    os.setxattr("d", "user.%03d" % i, b"v" * i)
os.setxattr("f", "user." + "n" * 250, b"long name")
try:
    os.setxattr("f", "user." + "n" * 251, b"longer name")
    sys.exit("a name of 256 bytes")
except OSError:
    pass
PY
same "value of 65000 bytes" "$large" "$(value f user.large)"
same "many" 101 "$(getfattr -d d | grep -c =)"

# ---- lists
setfacl -m u:1000:rw,g:2000:r f
same "shown in the mode" 664 "$(stat -c %a f)"
same list "user::rw- user:1000:rw- group::r-- group:2000:r-- mask::rw- other::r--" \
	"$(getfacl -nc f | tr '\n' ' ' | sed 's/ *$//')"
chmod 600 f
setpriv --reuid 1000 --clear-groups cat f > /dev/null 2>&1 && die "the mask does not count"
setfacl -m m:rw f
setpriv --reuid 1000 --clear-groups sh -c 'echo by 1000 > f' || die "the list does not count"
setfacl -d -m u:1000:rwx,m:rwx d
touch d/inherits
mkdir d/passes-on
same inherited "user:1000:rwx #effective:rw-" "$(getfacl -nc d/inherits | grep 1000 | tr -s '\t ' ' ')"
same "passed on" "default:user:1000:rwx" "$(getfacl -nc d/passes-on | grep default:user:1000)"
setfacl -b f
same "no list" "" "$(getfacl -nc f | grep 1000 || true)"
getfattr -m - -d f | grep -q posix_acl && die "an empty list is stored"

# ---- flags
chattr +i f
refused "not permitted" rm f
refused "not permitted" sh -c 'echo >> f'
same flags i "$(lsattr f | cut -d' ' -f1 | tr -d -)"
chattr -i +a f
refused "not permitted" sh -c 'echo > f'
echo appended >> f
chattr -a +dA f
refused "not supported" chattr +c f
chattr +i l 2> /dev/null && die "a symbolic link has flags"

# ---- label
same label before "$(xfs_io -c label . | sed 's/label = "\(.*\)"/\1/')"
xfs_io -c 'label -s after' . > /dev/null
same label after "$(xfs_io -c label . | sed 's/label = "\(.*\)"/\1/')"
refused "" xfs_io -c "label -s $(printf 'x%.0s' $(seq 64))" .

# ---- handles
PYTHONPATH=$(dirname "$0") python3 - << 'PY'
import os
from lib_handles import handle, opened
open("handled", "w").write("content")
h = handle("handled")
fd = opened(h)
assert os.read(fd, 100) == b"content"
os.close(fd)
hd = handle("d/passes-on")
os.system("echo 3 > /proc/sys/vm/drop_caches")
assert os.path.samefile("/proc/self/fd/%d" % opened(hd), "d/passes-on")
os.unlink("handled")
try:
    opened(h)
    raise SystemExit("opened a deleted file")
except OSError as e:
    assert e.errno == 116, e
PY

before=$(getfattr -R -d -m - . | sort; getfacl -nR . | sort; lsattr -R . 2> /dev/null | sort)
cd /
remount_cold
cd "$MNT"
after=$(getfattr -R -d -m - . | sort; getfacl -nR . | sort; lsattr -R . 2> /dev/null | sort)
[ "$before" = "$after" ] || {
	diff <(echo "$before") <(echo "$after") || true
	die "attributes differ after a remount"
}
same label after "$(xfs_io -c label . | sed 's/label = "\(.*\)"/\1/')"
cd /
checked
