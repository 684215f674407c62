#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Work that waits for the disk.
# row: append and fsync
# row: small files with fsync
# row: fsync latency, median
# row: fsync latency, 99 %
# row: group commit, 8 writers
# row: written for 4 KiB and fsync
. "$(dirname "$0")/lib.sh"

count=$(by_size 1000 10000)
fresh
rate "append and fsync" op/s "$count" aegis-bench append $WORK/log "$count" 200
rate "small files with fsync" files/s "$count" aegis-bench small $WORK/spool "$count" 4000
read -r median tail <<<"$(aegis-bench latency $WORK/database "$count" 16777216)"
result "fsync latency, median" us "$median"
result "fsync latency, 99 %" us "$tail"
rate "group commit, 8 writers" op/s $((count * 2)) aegis-bench group $WORK/group 8 $((count / 4))
settle
amplification "written for 4 KiB and fsync" "$count" aegis-bench group $WORK/one 1 "$count"
finish
