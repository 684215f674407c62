#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# PostgreSQL: a cluster with data checksums, pgbench, the server killed, the filesystem crashed.
# Each transaction that was acknowledged is there afterwards; indexes and checksums hold.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 2400
. "$(dirname "$0")/lib.sh"

fresh
DATA=$MNT/data
BIN=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
mkdir -p "$DATA" /tmp/pg
chown postgres "$DATA" /tmp/pg
chmod 700 "$DATA"
seconds=$(by_size 4 40)

pg() {
	local program=$1
	shift
	# Not from the directory of root, where postgres may not be.
	(cd /tmp/pg && setpriv --reuid=postgres --regid=postgres --init-groups env PGHOST=/tmp/pg "$BIN/$program" "$@")
}
sql() {
	pg psql -X -q -A -t -d bench -c "$1"
}
start() {
	rm -f /tmp/pg/.s.*
	pg pg_ctl -D "$DATA" -l /tmp/pg/log -w -t 300 start > /dev/null || {
		tail -n 20 /tmp/pg/log
		return 1
	}
}
create() {
	pg initdb -D "$DATA" --data-checksums --auth=trust --no-instructions
	cat >> "$DATA/postgresql.conf" <<- END
		unix_socket_directories = '/tmp/pg'
		listen_addresses = ''
		wal_level = minimal
		max_wal_senders = 0
		max_wal_size = 64MB
		checkpoint_timeout = 30s
		shared_buffers = 32MB
	END
	start
	pg createdb bench
	pg pgbench -q -i -s "$(by_size 1 5)" --foreign-keys bench
	sql "create extension amcheck"
}
# bench: in the background; each transaction that returned is a line of a log
bench() {
	rm -f /tmp/pg/tx.*
	pg pgbench -n -c 4 -j 2 -T "$((seconds * 3))" -l --log-prefix=/tmp/pg/tx bench > /tmp/pg/bench 2>&1 &
	sleep "$seconds"
}
# verify BEFORE: sums agree, indexes are sound, and at least what was logged has been added
verify() {
	local acknowledged now
	acknowledged=$(cat /tmp/pg/tx.* | wc -l)
	now=$(sql "select count(*) from pgbench_history")
	echo "$now transactions, $1 before, $acknowledged acknowledged since"
	[ "$acknowledged" -gt 0 ]
	[ "$now" -ge $(($1 + acknowledged)) ] || die "transactions are lost"
	[ "$(sql "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
		and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)
		and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)")" = t ] ||
		die "the sums differ"
	pg pg_amcheck --heapallindexed bench
}
whole() {
	bench
	wait
	verify 0
	pg pg_ctl -D "$DATA" -w stop
	pg pg_checksums --check -D "$DATA"
	remount_cold
	pg pg_checksums --check -D "$DATA"
	start
}
killed() {
	local before
	before=$(sql "select count(*) from pgbench_history")
	bench
	pkill -KILL -x postgres
	wait || true
	start
	verify "$before"
}
crashed() {
	local before
	before=$(sql "select count(*) from pgbench_history")
	bench
	if is_fuse; then
		crash
		pkill -KILL -x postgres || true
	else
		xfs_io -x -c shutdown "$MNT" > /dev/null
		pkill -KILL -x postgres || true
		sleep 1
		umount "$MNT"
		mount_volume
	fi
	wait || true
	start
	verify "$before"
}
end() {
	pg pg_ctl -D "$DATA" -w stop
	pg pg_checksums --check -D "$DATA"
}
check "initdb, pgbench -i" create
check "pgbench, checksums, after a remount" whole
check "server killed" killed
check "filesystem crashed" crashed
[ -n "${AEGIS_QUICK:-}" ] || check "filesystem crashed again" crashed
check "stop, checksums" end
finish
