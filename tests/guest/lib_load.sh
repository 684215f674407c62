#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Real programs at work in a directory, until they are killed: what they write is synced at odd moments, and
# makes the volume's own work (free space, shared extents, large directories) go on beside a test.
set -u
mkdir -p "$1"
cd "$1" || exit 1

git_commits() {
	git init -q git && cd git || return
	git config user.email test@localhost
	git config user.name test
	for n in $(seq 100000); do
		head -c $((n * 37 % 9000)) /dev/urandom > "file$((n % 20))"
		git add -A && git commit -q -m "$n"
		((n % 15)) || git gc -q
	done
}

database() {
	for n in $(seq 100000); do
		sqlite3 db "create table if not exists t(a integer primary key, b blob);
			insert into t(b) values (randomblob($((n * 53 % 7000))));
			delete from t where a % 7 = $((n % 7)) and a < $((n - 20));" || return
	done
}

extents() {
	for n in $(seq 100000); do
		dd if=/dev/urandom of=source bs=64k count=4 conv=notrunc oflag=append status=none
		cp --reflink=always source "clone$((n % 8))"
		fallocate -p -o $((n % 16 * 4096)) -l 16384 "clone$((n % 8))"
		truncate -s $((n * 1000 % 100000)) source
		mv "clone$((n % 8))" "moved$((n % 5))"
		((n % 3)) || sync -f .
	done
}

names() {
	for n in $(seq 100000); do
		mkdir "d$n" && touch "d$n"/{1..30} && ln "d$n/1" "d$n/link" && ln -s target "d$n/symlink"
		setfattr -n user.test -v "$(head -c 300 /dev/zero | tr '\0' "$((n % 10))")" "d$n/2"
		mv "d$n/3" "d$n/4"
		[ -d "d$((n - 5))" ] && rm -r "d$((n - 5))"
	done
}

owners() {
	for n in $(seq 100000); do
		head -c $((n * 71 % 9000)) /dev/urandom > "f$((n % 30))"
		chown "$((n % 4)):$((n % 3))" "f$((n % 30))" "f$((n * 7 % 20))"
		chattr -p "$((n % 5))" "f$((n % 11))"
		rm -f "f$((n * 3 % 30))"
	done
}

for work in git_commits database extents names owners; do
	(mkdir -p "$work" && cd "$work" && "$work") < /dev/null > /dev/null 2>&1 &
done
wait
