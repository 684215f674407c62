#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# git: a repository with thousands of files; clone, gc, fsck, storms of checkouts.
# vm: --disk 3G --mem 2048 --cpus 2
# timeout: 1800
. "$(dirname "$0")/lib.sh"

fresh
export HOME=/tmp GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git config --global core.fsync all
git config --global init.defaultBranch main
git config --global safe.directory '*'
git config --global gc.auto 0
files=$(by_size 400 5000)

generate() {
	git init -q "$MNT/origin"
	cd "$MNT/origin"
	python3 - "$files" <<- 'END'
		import os, random, sys
		rng = random.Random(5)
		for i in range(int(sys.argv[1])):
		    d = f"d{i % 37}/e{i % 11}"
		    os.makedirs(d, exist_ok=True)
		    with open(f"{d}/f{i}", "w") as f:
		        f.write("".join(f"line {rng.random()}\n" for _ in range(rng.randrange(60))))
	END
	git add -A
	git commit -q -m 0
	for branch in one two three; do
		git checkout -q -b $branch main
		python3 - $branch <<- 'END'
			import os, random, sys
			rng = random.Random(sys.argv[1])
			names = sorted(os.path.join(d, n) for d, _, ns in os.walk(".") if ".git" not in d for n in ns)
			for name in rng.sample(names, len(names) // 4):
			    what = rng.randrange(4)
			    if what == 0: os.remove(name)
			    elif what == 1: os.rename(name, name + sys.argv[1])
			    elif what == 2: os.chmod(name, 0o755)
			    else:
			        with open(name, "a") as f: f.write(sys.argv[1] + "\n")
		END
		git add -A
		git commit -q -m $branch
	done
}
clean() {
	git -C "$1" fsck --full --strict
	[ -z "$(git -C "$1" status --porcelain)" ]
	git -C "$1" diff --quiet HEAD
}
clone() {
	git clone -q --no-hardlinks "$MNT/origin" "$MNT/clone"
	git clone -q "$MNT/origin" "$MNT/linked"
	clean "$MNT/clone"
	clean "$MNT/linked"
}
storm() {
	cd "$MNT/clone"
	local i
	for i in $(seq "$(by_size 2 12)"); do
		for branch in one two three main; do
			git checkout -q "$branch"
			[ -z "$(git status --porcelain)" ]
		done
	done
	git diff --quiet HEAD
}
collect() {
	cd "$MNT/origin"
	git gc -q --aggressive --prune=now
	git repack -q -a -d -f
	clean "$MNT/origin"
}
compare() {
	remount_cold
	drop_caches
	clean "$MNT/clone"
	clean "$MNT/linked"
	git clone -q "file://$MNT/origin" /tmp/outside
	git -C "$MNT/clone" checkout -q one
	git -C /tmp/outside checkout -q one
	diff -r --exclude=.git "$MNT/clone" /tmp/outside
	rm -rf /tmp/outside
}
check "add and commit $files files on 4 branches" generate
check "clone" clone
check "checkouts" storm
check "gc, repack, fsck" collect
check "the same after a remount, and outside" compare
finish
