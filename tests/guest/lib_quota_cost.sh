# SPDX-License-Identifier: GPL-2.0-only
# Cost of quota: makes, writes and removes many small files, as a user whom limits bind, on volumes that
# count and enforce and on volumes that do not, in turns. Prints both times of each round and their ratio.
# In a guest: bash /tests/guest/lib_quota_cost.sh [FILES] [ROUNDS] [KIND]
# KIND without, with (enforced, and no limits for this user) or limited (limits for user and group): rounds of one kind
# alone, for who measures the processor time of the whole guest; none: nothing.
. "$(dirname "$0")/lib.sh"
files=${1:-20000}
rounds=${2:-6}
kind=${3:-}
cat > /tmp/churn.c <<'C'
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	int n = atoi(argv[1]);
	char name[32];
	for (int i = 0; i < n; i++) {
		sprintf(name, "f%d", i);
		int f = open(name, O_CREAT | O_WRONLY, 0644);
		if (f < 0 || write(f, name, 20) != 20)
			return 1;
		close(f);
	}
	sync();
	for (int i = 0; i < n; i++) {
		sprintf(name, "f%d", i);
		if (unlink(name))
			return 1;
	}
	sync();
	return 0;
}
C
gcc -O2 -o /tmp/churn /tmp/churn.c
modprobe aegisfs
churn() { # MKFS-OPTIONS MOUNT-OPTIONS [LIMITED]: nanoseconds
	mkfs $1
	mount_volume "$2"
	if [ -n "${3:-}" ]; then
		setquota -u 1000 5000000 6000000 500000 600000 "$MNT"
		setquota -g 1000 5000000 6000000 500000 600000 "$MNT"
	fi
	mkdir -m 777 "$MNT/d"
	cd "$MNT/d"
	local start=$(date +%s%N)
	setpriv --reuid 1000 --regid 1000 --clear-groups /tmp/churn "$files"
	echo $(($(date +%s%N) - start))
	cd /
	unmount_volume
}
if [ -n "$kind" ]; then
	for _ in $(seq "$rounds"); do
		case $kind in
		without) churn "" "" ;;
		with) churn "-O quota" usrquota,grpquota,prjquota ;;
		limited) churn "-O quota" usrquota,grpquota,prjquota limited ;;
		esac
	done
	exit
fi
churn "" "" > /dev/null
for _ in $(seq "$rounds"); do
	without=$(churn "" "")
	with=$(churn "-O quota" usrquota,grpquota,prjquota limited)
	echo "$((without / 1000000)) ms without, $((with / 1000000)) ms with: $((with * 1000 / without)) / 1000"
done
