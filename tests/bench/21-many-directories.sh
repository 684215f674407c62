#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Many empty files in 100 directories.
# row: create in 100 directories
# row: readdir of 100 directories
# row: stat in 100 directories
# row: rename in 100 directories
# row: written for a rename in 100 directories
# row: unlink in 100 directories
. "$(dirname "$0")/lib.sh"
. "$HERE/lib_metadata.sh"

metadata "100 directories" 100
