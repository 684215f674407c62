// SPDX-License-Identifier: GPL-2.0-only
//! Listing directories. A position is the engine's cookie, after two of our own for `.` and `..`;
//! it stays valid while entries come and go, so an open directory needs no state.

use super::attr::put_entry;
use super::refusal::Result;
use super::Server;
use crate::wire::payload::Payload;
use aegisfs_engine::{file_type, Error, MODE_DIR, ROOT_INO};

/// Positions after `.` and after `..`. The engine's are larger.
const AFTER_DOT: u64 = 1;
const AFTER_DOTS: u64 = 2;
/// Bytes of an entry's attributes, in a listing with attributes.
const ATTRIBUTES: usize = 128;

/// An entry as both kinds of listing need it.
struct Item<'a> {
    ino: u64,
    kind: u8,
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
                kind: file_type(MODE_DIR),
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
                kind: entry.kind,
                name: entry.name,
                next: entry.next,
            })
        })?;
        if offset == 0 {
            self.touch_atime(dir);
        }
        Ok(())
    }

    /// Lists into at most `size` bytes.
    pub fn list(&self, dir: u64, offset: u64, size: usize, out: &mut Payload) -> Result<()> {
        self.walk(dir, offset, &mut |item| {
            let fits = out.bytes().len() + Payload::entry_len(item.name.len()) <= size;
            if fits {
                out.entry(item.ino, item.next, item.kind, item.name);
            }
            fits
        })
    }

    /// Lists with attributes. Each entry but `.` and `..` gives the kernel a reference.
    pub fn list_plus(&self, dir: u64, offset: u64, size: usize, out: &mut Payload) -> Result<()> {
        self.walk(dir, offset, &mut |item| {
            let len = ATTRIBUTES + Payload::entry_len(item.name.len());
            if out.bytes().len() + len > size {
                return false;
            }
            match self.fs.getattr(item.ino) {
                Ok(attr) => {
                    if item.next > AFTER_DOTS {
                        self.inodes.remember(item.ino);
                    }
                    put_entry(out, &attr);
                }
                // It has gone since it was read.
                Err(Error::NotFound) => return true,
                // A damaged inode has a name all the same: listed without attributes, so that the
                // lookup that follows gives the error.
                Err(_) => out.zeros(ATTRIBUTES),
            }
            out.entry(item.ino, item.next, item.kind, item.name);
            true
        })
    }
}
