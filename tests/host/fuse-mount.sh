#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 180
# Mounting and unmounting through FUSE: options, refusals, exit status, signals, users.

. "$(dirname "$0")/lib.sh"
need_fuse

image=$tmp/image
mnt=$tmp/mnt
mkdir "$mnt"
mkfs.aegisfs -q -L test "$image" 128M

# ---- refusals, with the reason
refused "does not exist|No such file" aegisfs-fuse "$tmp/absent" "$mnt"
refused "No such file" aegisfs-fuse "$image" "$tmp/absent"
refused "not a directory" aegisfs-fuse "$image" "$image"
refused "unknown mount option .frobnicate" aegisfs-fuse -o frobnicate "$image" "$mnt"
refused "norecovery.*needs .ro" aegisfs-fuse -o norecovery "$image" "$mnt"
truncate -s 64M "$tmp/empty"
refused "not an AegisFS volume" aegisfs-fuse "$tmp/empty" "$mnt"
status=0
aegisfs-fuse "$tmp/empty" "$mnt" 2>/dev/null || status=$?
[[ $status == 32 ]] || fail "exit status $status of a mount that failed, mount(8) expects 32"
mountpoint -q "$mnt" && fail "something is mounted after refusals"

# ---- the mount table
aegisfs-fuse -o nosuid,nodev,noatime,commit=2 "$image" "$mnt"
line=$(findmnt --raw --noheadings --output SOURCE,FSTYPE,OPTIONS "$mnt")
grep -q "^$image fuse.aegisfs rw,nosuid,nodev,noatime" <<<"$line" || fail "mount table: $line"
refused "in use" timeout 60 aegisfs-fuse "$image" "$mnt"
refused "in use" timeout 60 mkfs.aegisfs -f "$image"
shows "mounted at $mnt" aegisfs volume info "$mnt"
shows "mounted at $mnt" aegisfs volume info "$image"
echo content >"$mnt/file"
umount "$mnt"

# ---- mounting again at once: the server's last checkpoint is waited for
for _ in 1 2 3 4 5; do
	aegisfs-fuse "$image" "$mnt"
	grep -q content "$mnt/file" || fail "content is lost"
	umount "$mnt"
done

# ---- read-only: not a byte of the image changes
flock "$image" true
before=$(sha256sum <"$image")
aegisfs-fuse -o ro "$image" "$mnt"
refused "Read-only" touch "$mnt/x"
refused "Read-only" rm "$mnt/file"
cat "$mnt/file" >/dev/null
unmount_volume "$mnt"
[[ $(sha256sum <"$image") == "$before" ]] || fail "a read-only mount has changed the image"
chmod 0444 "$image"
aegisfs-fuse -o ro "$image" "$mnt"
unmount_volume "$mnt"
chmod 0644 "$image"

# ---- after a crash: read-only with and without the journal, the image unchanged
aegisfs-fuse -o commit=3600 "$image" "$mnt"
echo synced >"$mnt/late"
sync "$mnt/late"
kill -KILL "$(server_of "$mnt")"
umount "$mnt"
before=$(sha256sum <"$image")
aegisfs-fuse -o ro "$image" "$mnt"
grep -q synced "$mnt/late" || fail "what was synced is not in a read-only mount"
unmount_volume "$mnt"
aegisfs-fuse -o ro,norecovery "$image" "$mnt"
[[ ! -e $mnt/late ]] || fail "norecovery shows what only the journal holds"
unmount_volume "$mnt"
[[ $(sha256sum <"$image") == "$before" ]] || fail "a read-only mount has changed the image"
mount_volume "$image" "$mnt"
grep -q synced "$mnt/late" || fail "what was synced is lost"
unmount_volume "$mnt"

# ---- signals: an idle mount goes at once, a busy one too, and nothing is lost
for signal in TERM INT HUP; do
	mount_volume "$image" "$mnt"
	echo "$signal" >"$mnt/signal"
	server=$(server_of "$mnt")
	kill -"$signal" "$server"
	timeout 30 tail --pid="$server" -f /dev/null || fail "SIG$signal does not end the server"
	mountpoint -q "$mnt" && fail "still mounted after SIG$signal"
	mount_volume "$image" "$mnt"
	grep -q "$signal" "$mnt/signal" || fail "content lost by SIG$signal"
	unmount_volume "$mnt"
done
mount_volume "$image" "$mnt"
server=$(server_of "$mnt")
exec 5>"$mnt/busy"
echo before >&5
kill -TERM "$server"
timeout 30 tail --pid="$server" -f /dev/null || fail "SIGTERM does not end the server of a busy mount"
exec 5>&- || true
mountpoint -q "$mnt" && fail "still mounted after SIGTERM when busy"
mount_volume "$image" "$mnt"
grep -q before "$mnt/busy" || fail "content lost by SIGTERM when busy"
unmount_volume "$mnt"

# ---- in the foreground, the exit status is that of the whole mount
aegisfs-fuse -f "$image" "$mnt" &
server=$!
for _ in $(seq 100); do mountpoint -q "$mnt" && break; sleep 0.05; done
touch "$mnt/foreground"
umount "$mnt"
wait "$server" || fail "exit status $? of a foreground server"

# ---- as mount(8)'s helper
mount.fuse.aegisfs "$image" "$mnt" -f -o rw,nofail
mountpoint -q "$mnt" && fail "mounted by -f, which only checks"
mount.fuse.aegisfs "$image" "$mnt" -o rw,nosuid,_netdev,nofail,x-systemd.device-timeout=1,user=root -t fuse.aegisfs
mountpoint -q "$mnt" || fail "the mount helper has not mounted"
unmount_volume "$mnt"

# ---- other users: root's mount is for all, a user's own for that user
if [[ $(id -u) == 0 ]] && command -v setpriv >/dev/null && id nobody >/dev/null; then
	as_nobody() { setpriv --reuid nobody --regid nogroup --clear-groups -- env PATH="$PATH" "$@"; }
	chmod 0755 "$tmp" "$(dirname "$tmp")" 2>/dev/null || true
	mount_volume "$image" "$mnt"
	as_nobody ls "$mnt" >/dev/null || fail "root's mount is closed to others"
	refused "Permission denied" as_nobody touch "$mnt/x"
	unmount_volume "$mnt"
	if as_nobody test -x "$tmp/bin/aegisfs-fuse" && as_nobody test -w /dev/fuse && command -v fusermount3 >/dev/null; then
		mkdir "$tmp/user"
		chown nobody "$tmp/user"
		as_nobody mkfs.aegisfs -q "$tmp/user/image" 64M
		as_nobody mkdir "$tmp/user/mnt"
		as_nobody aegisfs-fuse "$tmp/user/image" "$tmp/user/mnt"
		findmnt -t fuse.aegisfs "$tmp/user/mnt" >/dev/null || fail "a user's mount is not in the table"
		as_nobody touch "$tmp/user/mnt/x" || fail "a user's own volume is not writable"
		refused "Permission denied" ls "$tmp/user/mnt"
		as_nobody fusermount3 -u "$tmp/user/mnt"
		flock --timeout 60 "$tmp/user/image" true
	fi
fi
