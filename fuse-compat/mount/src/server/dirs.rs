// SPDX-License-Identifier: GPL-2.0-only
//! Listing directories. A position is the engine's cookie, after two of our own for `.` and `..`;
//! it stays valid while entries come and go, so an open directory needs no state.

use super::attr::{file_attr, file_type};
use super::refusal::Result;
use super::{Server, CACHE_TTL};
use aegisfs_engine::{Attr, MODE_DIR, MODE_TYPE, ROOT_INO};
use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Positions after `.` and after `..`. The engine's are larger.
const AFTER_DOT: u64 = 1;
const AFTER_DOTS: u64 = 2;

/// An entry as both kinds of listing need it.
struct Item<'a> {
    ino: u64,
    type_bits: u32,
    name: &'a [u8],
    /// Position after it.
    next: u64,
}

impl Server {
    /// Calls `emit` for the entries after `offset`, until it returns false.
    fn walk(&self, dir: u64, offset: u64, emit: &mut dyn FnMut(&Item<'_>) -> bool) -> Result<()> {
        let attr = self.fs.getattr(dir)?;
        let parent = if dir == ROOT_INO {
            ROOT_INO
        } else {
            attr.parent
        };
        let own: [(u64, &[u8], u64); 2] = [(dir, b".", AFTER_DOT), (parent, b"..", AFTER_DOTS)];
        for (ino, name, next) in own {
            let item = Item {
                ino,
                type_bits: MODE_DIR,
                name,
                next,
            };
            if offset < next && !emit(&item) {
                return Ok(());
            }
        }
        let cookie = if offset <= AFTER_DOTS { 0 } else { offset };
        self.fs.readdir(dir, cookie, &mut |entry| {
            emit(&Item {
                ino: entry.ino,
                type_bits: u32::from(entry.kind) << 12,
                name: entry.name,
                next: entry.next,
            })
        })?;
        if offset == 0 {
            self.touch_atime(dir);
        }
        Ok(())
    }

    pub fn list(&self, dir: u64, offset: u64, reply: &mut ReplyDirectory) -> Result<()> {
        self.walk(dir, offset, &mut |item| {
            let kind = file_type(item.type_bits & MODE_TYPE);
            !reply.add(
                INodeNo(item.ino),
                item.next,
                kind,
                OsStr::from_bytes(item.name),
            )
        })
    }

    /// Listing with attributes. Each entry but `.` and `..` gives the kernel a reference.
    pub fn list_plus(&self, dir: u64, offset: u64, reply: &mut ReplyDirectoryPlus) -> Result<()> {
        self.walk(dir, offset, &mut |item| {
            // An entry that has gone since it was read is left out.
            let Ok(attr) = self.fs.getattr(item.ino) else {
                return true;
            };
            let full = reply.add(
                INodeNo(item.ino),
                item.next,
                OsStr::from_bytes(item.name),
                &CACHE_TTL,
                &file_attr(&attr),
                generation(&attr),
            );
            if !full && item.next > AFTER_DOTS {
                self.inodes.remember(item.ino);
            }
            !full
        })
    }
}

fn generation(attr: &Attr) -> Generation {
    Generation(u64::from(attr.generation))
}
