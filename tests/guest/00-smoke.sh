#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The module loads by its name and by its alias, registers the filesystem, and unloads.
# timeout: 60
set -euo pipefail

modprobe aegisfs
grep -qw aegisfs /proc/filesystems
modinfo --field license aegisfs | grep -q '^GPL'
modprobe -r aegisfs
if grep -qw aegisfs /proc/filesystems; then
    echo "the filesystem type is still registered after the module has gone"
    exit 1
fi

# What mount does for a type that the kernel does not know.
modprobe fs-aegisfs
grep -qw aegisfs /proc/filesystems
modprobe -r aegisfs
