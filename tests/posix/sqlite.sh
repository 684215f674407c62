#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# SQLite with each of its journals: the process killed, and the filesystem crashed, in the middle of
# transactions. Each transaction that was acknowledged is there afterwards, whole.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 1800
. "$(dirname "$0")/lib.sh"

fresh
DB=$MNT/test.db
modes="delete wal"
[ -n "${AEGIS_QUICK:-}" ] || modes="delete truncate persist wal"

create() {
	rm -f "$DB"*
	sqlite3 "$DB" "pragma journal_mode=$1; create table entries(n integer primary key, text blob);
		create table total(count integer); insert into total values(0);
		create index by_text on entries(text);"
	rm -f /tmp/acknowledged
	touch /tmp/acknowledged
}
# Each transaction adds an entry and counts it, then says its number.
transactions() {
	echo "pragma journal_mode=$1; pragma synchronous=$2; pragma cache_size=20;"
	local n
	for ((n = $3; n < $3 + 20000; n++)); do
		echo "begin; insert into entries values($n, randomblob(abs(random()) % 5000));
			delete from entries where n = $n - 500; update total set count = count + 1; commit; select $n;"
	done
}
start() {
	transactions "$1" "$2" "$(($(tail -n 1 /tmp/acknowledged) + 100000))" > /tmp/script.sql
	stdbuf -oL sqlite3 -bail "$DB" < /tmp/script.sql 2> /tmp/sqlite.err | stdbuf -oL grep -E '^[0-9]+$' > /tmp/new &
	sleep "$(by_size 2 6)"
}
verify() {
	local last sum
	[ "$(sqlite3 "$DB" 'pragma integrity_check')" = ok ]
	[ -s /tmp/new ] || die "nothing was acknowledged: $(cat /tmp/sqlite.err)"
	cat /tmp/new >> /tmp/acknowledged
	last=$(tail -n 1 /tmp/acknowledged)
	echo "$(wc -l < /tmp/new) transactions acknowledged"
	[ "$(sqlite3 "$DB" "select count(*) from entries where n = $last")" = 1 ] || die "transaction $last is lost"
	# One more may be there than was acknowledged at each interruption.
	sum=$(($(sqlite3 "$DB" "select count from total") - $(wc -l < /tmp/acknowledged)))
	[ "$sum" -ge 0 ] && [ "$sum" -le "$1" ] || die "$sum more than acknowledged, after $1 interruptions"
}
interrupted() {
	local i
	create "$1"
	for i in $(seq "$(by_size 1 3)"); do
		start "$1" "$2"
		pkill -KILL -x sqlite3
		wait || true
		verify $((2 * i - 1))
		start "$1" "$2"
		crash
		# Its files are gone from under it.
		pkill -KILL -x sqlite3 || true
		wait || true
		verify $((2 * i))
	done
}
mixed() {
	create wal
	local i
	for i in 1 2 3; do
		sqlite3 -cmd ".timeout 60000" "$DB" "$(for n in $(seq 60); do
			echo "begin immediate; insert into entries(text) values(randomblob(3000)); update total set count = count + 1; commit;"
		done)" &
	done
	wait
	sqlite3 "$DB" "vacuum; pragma integrity_check; select count from total; pragma wal_checkpoint(truncate);" | tee /tmp/out
	[ "$(sed -n 1,2p /tmp/out | xargs)" = "ok 180" ]
	[ "$(sqlite3 "$DB" 'select count(*) from entries')" = 180 ]
}
for mode in $modes; do
	# Commit is the removal of the journal, which only "extra" makes durable.
	check "journal $mode, killed and crashed" interrupted "$mode" extra
done
check "writers at once, vacuum" mixed
finish
