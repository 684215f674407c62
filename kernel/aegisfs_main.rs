// SPDX-License-Identifier: GPL-2.0-only
//! The kernel module's root crate: registers the filesystem with the VFS.

mod linux;

use kernel::prelude::*;

module! {
    type: AegisFs,
    name: "aegisfs",
    authors: ["AegisFS developers"],
    description: "AegisFS: a copy-on-write filesystem with checksums and snapshots",
    license: "GPL",
    alias: ["fs-aegisfs"],
}

struct AegisFs {
    _registration: linux::vfs::Registration,
}

impl kernel::Module for AegisFs {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _registration: linux::vfs::Registration::new()?,
        })
    }
}
