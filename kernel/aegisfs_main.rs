// SPDX-License-Identifier: GPL-2.0-only
//! The kernel module's root crate: registers the filesystem with the VFS.

use kernel::prelude::*;

module! {
    type: AegisFs,
    name: "aegisfs",
    authors: ["AegisFS developers"],
    description: "AegisFS: a copy-on-write filesystem with checksums and snapshots",
    license: "GPL",
    alias: ["fs-aegisfs"],
}

struct AegisFs;

impl kernel::Module for AegisFs {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let mut v = aegisfs_platform::Vec::<u32>::new();
        v.try_push(aegisfs_platform::crc32(0, b"123456789")).map_err(|_| ENOMEM)?;
        aegisfs_platform::log(aegisfs_platform::LogLevel::Info, format_args!("{:x}", v[0]));
        Ok(Self)
    }
}
