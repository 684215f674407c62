// SPDX-License-Identifier: GPL-2.0-only
//! Records of the trees in words.

use aegisfs_engine::format::key::{kind, Key};
use aegisfs_engine::format::record::{decode_inode, Dirent, Extent, ExtentKind, Subvolume, Xattr};
use aegisfs_tools::output::printable;

/// What a record of a kind is called.
pub fn kind_name(n: u8) -> &'static str {
    match n {
        kind::INODE => "inode",
        kind::INLINE => "inline",
        kind::XATTR => "xattr",
        kind::XATTR_BODY => "xattr_body",
        kind::DIRENT => "dirent",
        kind::EXTENT => "extent",
        kind::ORPHAN => "orphan",
        kind::SUBVOLUME => "subvolume",
        kind::DEADLIST => "deadlist",
        _ => "unknown",
    }
}

/// The value in words; `None` for bytes that are no such record.
pub fn describe(key: &Key, value: &[u8]) -> Option<String> {
    Some(match key.kind {
        kind::INODE => {
            let a = decode_inode(key.object, value)?;
            format!(
                "mode {:o} links {} owner {}:{} size {} blocks {} generation {}{}",
                a.mode,
                a.nlink,
                a.uid,
                a.gid,
                a.size,
                a.blocks,
                a.generation,
                if a.inline { " inline" } else { "" }
            )
        }
        kind::DIRENT => {
            let d = Dirent::decode(value)?;
            format!(
                "\"{}\" -> inode {} type {}",
                printable(d.name),
                d.ino,
                d.kind
            )
        }
        kind::XATTR => {
            let x = Xattr::decode(value)?;
            format!("{} {} bytes", printable(x.name), x.len)
        }
        kind::EXTENT => {
            let e = Extent::decode(value)?;
            let what = match e.kind {
                ExtentKind::Data => "data",
                ExtentKind::Unwritten => "unwritten",
            };
            let at: Vec<u64> = e.replicas().collect();
            format!("{what} {} blocks at {at:?} birth {}", e.blocks, e.birth)
        }
        kind::SUBVOLUME => {
            let s = Subvolume::decode(value)?;
            let at: Vec<u64> = s.root.replicas().collect();
            format!(
                "root {at:?} level {} inodes {} next {}",
                s.level, s.inodes, s.next_ino
            )
        }
        _ => format!("{} bytes", value.len()),
    })
}
