#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A source tree, as developers treat it. The archive is the disk 2, one of a git repository the disk 3.
# row: tar -x of a source tree
# row: cold read of the tree
# row: cp -a of the tree
# row: rm -rf of the tree
# row: git clone
# row: git status, cold
. "$(dirname "$0")/lib.sh"

read_all() {
	find $WORK/tree -type f -print0 | sort -z | xargs -0 cat >/dev/null
}

[ -d "$SCRATCH/repository.git" ] || tar -xf "$AEGIS_DISK3" -C "$SCRATCH"
cat "$AEGIS_DISK2" >/dev/null
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
fresh
mkdir $WORK/tree
seconds "tar -x of a source tree" synced tar -xf "$AEGIS_DISK2" -C $WORK/tree
cold
seconds "cold read of the tree" read_all
seconds "cp -a of the tree" synced cp -a $WORK/tree $WORK/copy
cold
seconds "rm -rf of the tree" synced rm -rf $WORK/copy
rm -rf $WORK/tree
settle
seconds "git clone" synced git clone --quiet --no-hardlinks "$SCRATCH/repository.git" $WORK/clone
# git reads again what it wrote in the second in which it wrote its index, and notes what it found.
sleep 1
git -C $WORK/clone status --short
settle
cold
seconds "git status, cold" git -C $WORK/clone status --short
finish
