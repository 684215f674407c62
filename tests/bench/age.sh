#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Makes the aged volume of the kind $FS that the scripts use with AGED=1: full to nine tenths, its files many times
# replaced.
. "$(dirname "$0")/lib.sh"

disk=$(aged_disk)
make_volume "$disk"
mkdir -p $MNT
attach "$disk"
aegis-bench age $MNT 90 "$(by_size 3 10)"
detach
