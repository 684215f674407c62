#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Many empty files in one directory.
# row: create in one directory
# row: readdir of one directory
# row: stat in one directory
# row: rename in one directory
# row: written for a rename in one directory
# row: unlink in one directory
. "$(dirname "$0")/lib.sh"
. "$HERE/lib_metadata.sh"

metadata "one directory" 1
