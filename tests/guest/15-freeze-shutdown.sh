#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Freezing, thawing, and shutting a volume down while it is in use.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 300
. "$(dirname "$0")/lib.sh"
need fsfreeze xfs_io

fresh
cd "$MNT"
echo before > file
exec 7> deleted
rm deleted

# ---- frozen: writers wait, readers do not
fsfreeze -f .
echo during > file &
writer=$!
exec 8< file
(exec 7>&-) # The last close of a deleted file waits too: not here, a copy is open.
sleep 2
same "reads while frozen" before "$(cat <&8)"
kill -0 $writer || die "a write went through"
stat -f . > /dev/null
fsfreeze -u .
wait $writer
same "after thawing" during "$(cat file)"
exec 7>&- 8<&-
refused "" fsfreeze -u .

# several times under load
for i in $(seq 1 4); do dd if=/dev/zero of=load$i bs=1M count=30 status=none & done
for _ in 1 2 3; do
	fsfreeze -f .
	sleep 0.3
	fsfreeze -u .
done
wait
same "written under freezes" "31457280 31457280 31457280 31457280" \
	"$(stat -c %s load1 load2 load3 load4 | tr '\n' ' ' | sed 's/ $//')"

# ---- shutdown: everything fails, nothing hangs, what was synced is there afterwards
echo synced > synced
sync
for how in -f ""; do
	head -c 5000000 /dev/urandom > lost
	xfs_io -x -c "shutdown $how" . > /dev/null
	refused "Input/output error" touch x
	refused "Input/output error" bash -c 'echo x >> file'
	refused "Input/output error" sync lost
	cd /
	unmount_volume
	mount_volume
	cd "$MNT"
	same "synced content" synced "$(cat synced)"
	echo again > after
	sync
done
cd /
checked
