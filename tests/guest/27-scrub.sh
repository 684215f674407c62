#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Healing while the volume is in use, the scrub job, and the counters of devices.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 600
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_scrub.sh"
need python3 fsfreeze xfs_io setpriv

# ---- a read finds a bad copy, and rewrites it
fresh --data-replicas 2
python3 -c 'import random; open("/tmp/data", "wb").write(random.Random(1).randbytes(4 << 20))'
cp /tmp/data "$MNT/data"
drop_caches
same "blocks damaged" 1024 "$(damage /tmp/data 0)"
dmesg -C
cmp "$MNT/data" /tmp/data || die "the other copy was not used"
grep -q "aegisfs.*rewritten from its replica" <<< "$(dmesg)" || die "no line in the log: $(dmesg)"
[ "$(dmesg | grep -c aegisfs)" -lt 100 ] || die "the log is full of it"
# The device has it twice again.
same "all copies" 2048 "$(damage /tmp/data all)"
drop_caches
refused "Input/output error" cmp "$MNT/data" /tmp/data
# A whole overwrite makes it good again.
cp /tmp/data "$MNT/data"
drop_caches
cmp "$MNT/data" /tmp/data

# ---- the same for metadata
mkdir "$MNT/d"
for i in $(seq 1 500); do echo "content $i" > "$MNT/d/file-$i"; done
want=$(ls "$MNT/d" | digest; cat "$MNT"/d/* | digest)
unmount_volume
damaged=$(damage nodes 0)
[ "$damaged" -gt 5 ] || die "only $damaged nodes damaged"
mount_volume
dmesg -C
same "with damaged nodes" "$want" "$(ls "$MNT/d" | digest; cat "$MNT"/d/* | digest)"
healed=$(field devices.0.healed aegisfs device stats "$MNT")
[ "$healed" -gt 1024 ] || die "$healed copies rewritten"
# ---- the same in sysfs
sys=/sys/fs/aegisfs/$(basename "$(readlink -f "$DEV")")
same "healed in sysfs" "$healed" "$(cat "$sys/device0/healed")"
same "uuid in sysfs" "$(field uuid aegisfs volume info "$MNT")" "$(cat "$sys/uuid")"
same "label in sysfs" "" "$(cat "$sys/label")"
xfs_io -c 'label -s named' "$MNT" > /dev/null
same "label in sysfs" named "$(cat "$sys/label")"
same "state in sysfs" none "$(cat "$sys/scrub/state")"
for file in "$sys"/* "$sys"/*/*; do
	[ -d "$file" ] || cat "$file" > /dev/null || die "$file cannot be read"
done

same "scrub before the first one" "no scrub has run" "$(aegisfs scrub status "$MNT")"
status 2 aegisfs scrub resume "$MNT"
status 2 aegisfs scrub wait "$MNT"

# ---- a scrub mends what nobody has read
status 0 aegisfs scrub start --wait "$MNT"
clean_scrub
same "second copies damaged" 1024 "$(damage /tmp/data 1)"
status 0 aegisfs scrub start --wait "$MNT"
same "in sysfs" "finished 1024 1024 0" \
	"$(cat "$sys"/scrub/{state,errors_found,errors_healed,uncorrectable} | tr '\n' ' ' | sed 's/ $//')"
same "found and mended" "1024 1024 0" \
	"$(scrub_field data_errors) $(scrub_field healed) $(scrub_field data_uncorrectable)"
clean_scrub
checked

[ ! -e "$sys" ] || die "$sys is still there"

# ---- counters outlive the mount, until they are reset
mount_volume
after=$(field devices.0.healed aegisfs device stats "$MNT")
[ "$after" -ge $((healed + 1024)) ] || die "$after after the remount"
grep -q "$after" <<< "$(aegisfs device stats --reset "$MNT")" || die "reset does not show them"
remount_cold
same "after the reset" 0 "$(field devices.0.healed aegisfs device stats "$MNT")"
chmod 755 "$MNT"
refused "only root" setpriv --reuid 1234 --clear-groups aegisfs device stats "$MNT"
refused "only root" setpriv --reuid 1234 --clear-groups aegisfs scrub start "$MNT"
unmount_volume

# ---- data without a good copy
fresh
mkdir "$MNT/dir"
cp /tmp/data "$MNT/dir/data"
unmount_volume
same "blocks damaged" 3 "$(damage /tmp/data all 100 3)"
mount_volume
dmesg -C
status 3 aegisfs scrub start --wait "$MNT"
grep -q "inode .*data at byte 409600 is damaged" <<< "$(dmesg)" || die "log: $(dmesg)"
for _ in 1 2; do
	status 3 aegisfs scrub status "$MNT"
	same "the damaged file" "/dir/data 409600 12288" \
		"$(scrub_field damaged.0.path) $(scrub_field damaged.0.offset) $(scrub_field damaged.0.length)"
	remount_cold
done
rm "$MNT/dir/data"
clean_scrub

# ---- orders; a job survives unmount, shutdown, freeze
head -c 300M /dev/urandom > "$MNT/big"
sync
aegisfs scrub start --limit 4M "$MNT"
status 1 aegisfs scrub start "$MNT"
sleep 2
[ "$(scrub_field bytes_done)" -lt $((40 << 20)) ] || die "the limit does not hold: $(scrub_field bytes_done)"
same state running "$(scrub_field state)"
aegisfs scrub pause "$MNT"
done=$(scrub_field bytes_done)
status 2 aegisfs scrub pause "$MNT"
sleep 1
same "while paused" "paused $done" "$(scrub_field state) $(scrub_field bytes_done)"
begin=$(date +%s)
remount_cold
[ $(($(date +%s) - begin)) -lt 20 ] || die "unmounting took long"
same "after a remount" "paused $done" "$(scrub_field state) $(scrub_field bytes_done)"
aegisfs scrub resume "$MNT"
# While it waits for the limit, unmounting does not wait.
begin=$(date +%s)
remount_cold
[ $(($(date +%s) - begin)) -lt 20 ] || die "unmounting took long"
same "goes on by itself" running "$(scrub_field state)"
fsfreeze -f "$MNT"
done=$(scrub_field bytes_done)
sleep 1
same "while frozen" "$done" "$(scrub_field bytes_done)"
fsfreeze -u "$MNT"
mount -o remount,ro "$MNT"
done=$(scrub_field bytes_done)
sleep 1
same "while read-only" "$done" "$(scrub_field bytes_done)"
status 1 aegisfs scrub cancel "$MNT"
mount -o remount,rw "$MNT"
xfs_io -x -c "shutdown -f" "$MNT" > /dev/null
remount_cold
same "after a shutdown" running "$(scrub_field state)"
aegisfs scrub limit "$MNT" 0
status 0 aegisfs scrub wait "$MNT"
same "all of it" finished "$(scrub_field state)"
aegisfs scrub start --limit 1M "$MNT"
aegisfs scrub cancel "$MNT"
same cancelled cancelled "$(scrub_field state)"
status 2 aegisfs scrub resume "$MNT"
status 1 aegisfs scrub wait "$MNT"
rm "$MNT/big"

# ---- no false alarm while everything changes
aegisfs device stats --reset "$MNT" > /dev/null
stop=/tmp/stop
rm -f $stop
for t in 1 2 3; do
	(
		cd "$MNT"
		while [ ! -e $stop ]; do
			head -c 3000000 /dev/urandom > t$t
			cp --reflink=always t$t c$t
			dd if=/dev/urandom of=t$t bs=64k count=5 seek=3 conv=notrunc oflag=direct status=none
			truncate -s 1000001 c$t
			fallocate -p -o 8192 -l 500000 t$t
			fallocate -l 2000000 f$t
			dd if=/dev/urandom of=f$t bs=4k count=100 conv=notrunc,fsync status=none
			mv c$t m$t
			rm -f m$t f$t
		done
	) &
done
for _ in $(seq 1 8); do
	clean_scrub
	sync
done
touch $stop
wait
same "no errors counted" 0 "$(field devices.0.checksum_errors aegisfs device stats "$MNT")"
checked

# ---- a volume that is not mounted is scrubbed by the command
status 0 aegisfs scrub start "$DEV"
same "on the device" finished "$(field state aegisfs scrub status "$DEV")"
