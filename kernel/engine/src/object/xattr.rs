// SPDX-License-Identifier: GPL-2.0-only
//! Extended attributes: small values beside their name, large ones in records of their own.

use super::dir::touch;
use super::inode::delete_range;
use crate::btree::Io;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::node::max_value;
use crate::format::record::{Xattr, COOKIE_SLOTS, XATTR_HEADER};
use crate::txn::{Class, Fs, Tx, TREE};
use crate::types::{Attr, XattrMode};
use aegisfs_platform::Vec;

/// Longest value, in bytes (`XATTR_SIZE_MAX` of Linux).
pub const VALUE_MAX: usize = 65536;
/// Longest name, in bytes (`XATTR_NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;
/// Parts of a value have their number in the lower bits of the key's offset.
pub const BODY_SHIFT: u32 = 16;

/// Where an attribute stands and how long its value is.
#[derive(Clone, Copy)]
struct Found {
    cookie: u64,
    len: u32,
    body: u32,
}

struct Probe<'a> {
    name: &'a [u8],
    found: Option<Found>,
    free: u64,
    bad: bool,
}

impl<'a> Probe<'a> {
    const fn new(name: &'a [u8], first: u64) -> Self {
        Self {
            name,
            found: None,
            free: first,
            bad: false,
        }
    }

    fn see(&mut self, key: Key, value: &[u8], out: Option<&mut Vec<u8>>) -> bool {
        if key.offset == self.free {
            self.free += 1;
        }
        let Some(x) = Xattr::decode(value) else {
            self.bad = true;
            return false;
        };
        if x.name != self.name {
            return true;
        }
        self.found = Some(Found {
            cookie: key.offset,
            len: x.len,
            body: x.body,
        });
        if let Some(out) = out {
            // Without memory it stays empty, which the caller notices by the length.
            let _ = out.try_extend_from_slice(x.value);
        }
        false
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.contains(&0) {
        return Err(Error::Invalid);
    }
    if name.len() > NAME_MAX {
        return Err(Error::Range);
    }
    Ok(())
}

impl Fs {
    fn xattr_range(&self, ino: u64, name: &[u8]) -> (Key, Key) {
        let first = self.name_cookie(name);
        (
            Key::new(ino, kind::XATTR, first),
            Key::new(ino, kind::XATTR, first + (COOKIE_SLOTS - 1)),
        )
    }

    /// Reads an attribute's value.
    ///
    /// # Errors
    /// `NoData` when there is none of the name.
    pub fn getxattr(&self, ino: u64, name: &[u8], out: &mut Vec<u8>) -> Result<()> {
        check_name(name)?;
        let (from, to) = self.xattr_range(ino, name);
        let mut probe = Probe::new(name, from.offset);
        self.read_trees(|state, io| {
            out.clear();
            probe = Probe::new(name, from.offset);
            let io_trees = &state.trees;
            io_trees.scan(TREE, &from, &to, io, &mut |k, v| probe.see(k, v, Some(out)))?;
            let Some(found) = probe.found.filter(|f| f.body != 0) else {
                return Ok(());
            };
            let (from, to) = body_range(ino, found.body);
            io_trees.scan(TREE, &from, &to, io, &mut |_, v| {
                out.len() + v.len() <= VALUE_MAX && out.try_extend_from_slice(v).is_ok()
            })
        })?;
        match probe.found {
            _ if probe.bad => Err(Error::Corrupt),
            None => Err(Error::NoData),
            Some(found) if found.len as usize != out.len() => Err(Error::Corrupt),
            Some(_) => Ok(()),
        }
    }

    /// Hands the names of all attributes to `emit`. No lock is held while it runs.
    ///
    /// # Errors
    /// `Stale` when the inode does not exist.
    pub fn listxattr(&self, ino: u64, emit: &mut dyn FnMut(&[u8])) -> Result<()> {
        if !self.getattr(ino)?.has_xattrs {
            return Ok(());
        }
        let (from, to) = (
            Key::new(ino, kind::XATTR, 0),
            Key::new(ino, kind::XATTR, u64::MAX),
        );
        let mut names: Vec<u8> = Vec::new();
        let mut result = Ok(());
        self.read_trees(|state, io| {
            names.clear();
            result = Ok(());
            state.trees.scan(TREE, &from, &to, io, &mut |_, v| {
                result = match Xattr::decode(v) {
                    Some(x) => names
                        .try_extend_from_slice(x.name)
                        .and_then(|()| names.try_push(0))
                        .map_err(Error::from),
                    None => Err(Error::Corrupt),
                };
                result.is_ok()
            })
        })?;
        result?;
        for name in names.split(|c| *c == 0).filter(|n| !n.is_empty()) {
            emit(name);
        }
        Ok(())
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// `Exists` and `NoData` as `mode` says; `Range` for names or values that are too long; `NoSpace`.
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        check_name(name)?;
        if value.len() > VALUE_MAX {
            return Err(Error::Range);
        }
        let mut tx = self.begin(Class::Grow)?;
        let mut attr = tx.inode(ino)?;
        self.change_xattr(&mut tx, &mut attr, name, Some(value), mode)?;
        touch(&mut attr);
        tx.put_inode(&attr)?;
        tx.commit()?;
        Ok(())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `NoData` when there is none of the name.
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let mut tx = self.begin(Class::Reserve)?;
        let mut attr = tx.inode(ino)?;
        self.change_xattr(&mut tx, &mut attr, name, None, XattrMode::Replace)?;
        touch(&mut attr);
        tx.put_inode(&attr)?;
        tx.commit()?;
        Ok(())
    }

    /// Sets, or without a value removes, an attribute within an operation; the caller puts the inode.
    #[inline(never)]
    pub(crate) fn change_xattr(
        &self,
        tx: &mut Tx<'_>,
        attr: &mut Attr,
        name: &[u8],
        value: Option<&[u8]>,
        mode: XattrMode,
    ) -> Result<()> {
        let ino = attr.ino;
        let (probe, bodies) = self.probe_xattr(tx, ino, name)?;
        match (probe.found, mode) {
            (Some(_), XattrMode::Create) => return Err(Error::Exists),
            (None, XattrMode::Replace) => return Err(Error::NoData),
            (Some(found), _) if found.body != 0 => delete_body(tx, ino, found.body)?,
            _ => {}
        }
        match (value, probe.found) {
            (Some(value), found) => {
                let cookie = found.map_or(probe.free, |f| f.cookie);
                attr.has_xattrs = true;
                self.put_xattr(tx, ino, cookie, bodies + 1, name, value)
            }
            (None, Some(found)) => tx.delete(Key::new(ino, kind::XATTR, found.cookie)),
            (None, None) => Err(Error::NoData),
        }
    }

    /// Looks a name up, and finds the highest number of a value in use.
    fn probe_xattr<'n>(&self, tx: &Tx<'_>, ino: u64, name: &'n [u8]) -> Result<(Probe<'n>, u32)> {
        let (from, to) = self.xattr_range(ino, name);
        let mut probe = Probe::new(name, from.offset);
        let trees = &tx.state.trees;
        trees
            .scan(TREE, &from, &to, Io::Allowed, &mut |k, v| {
                probe.see(k, v, None)
            })
            .map_err(Error::from)?;
        if probe.bad {
            return Err(Error::Corrupt);
        }
        if probe.found.is_none() && probe.free > to.offset {
            return Err(Error::NoSpace);
        }
        let mut body = 0;
        let last = Key::new(ino, kind::XATTR_BODY, u64::MAX);
        trees
            .floor(TREE, &last, Io::Allowed, &mut |k, _| {
                if k.object == ino && k.kind == kind::XATTR_BODY {
                    body = (k.offset >> BODY_SHIFT) as u32;
                }
            })
            .map_err(Error::from)?;
        if body == u32::MAX {
            return Err(Error::NoSpace);
        }
        Ok((probe, body))
    }

    /// Stores name and value under `cookie`; a large value as body number `body`.
    pub(crate) fn put_xattr(
        &self,
        tx: &mut Tx<'_>,
        ino: u64,
        cookie: u64,
        body: u32,
        name: &[u8],
        value: &[u8],
    ) -> Result<()> {
        check_name(name)?;
        if value.len() > VALUE_MAX {
            return Err(Error::Range);
        }
        let part = max_value(self.node_size);
        let inline = XATTR_HEADER + name.len() + value.len() <= part / 2;
        let x = Xattr {
            name,
            len: value.len() as u32,
            body: if inline { 0 } else { body },
            value: if inline { value } else { &[] },
        };
        let mut record: Vec<u8> = Vec::try_from_slice(&x.encode_header())?;
        record.try_extend_from_slice(name)?;
        record.try_extend_from_slice(x.value)?;
        tx.put(Key::new(ino, kind::XATTR, cookie), &record)?;
        if !inline {
            for (i, bytes) in value.chunks(part).enumerate() {
                let offset = u64::from(body) << BODY_SHIFT | i as u64;
                tx.put(Key::new(ino, kind::XATTR_BODY, offset), bytes)?;
            }
        }
        Ok(())
    }
}

pub const fn body_range(ino: u64, body: u32) -> (Key, Key) {
    let first = (body as u64) << BODY_SHIFT;
    (
        Key::new(ino, kind::XATTR_BODY, first),
        Key::new(ino, kind::XATTR_BODY, first | ((1 << BODY_SHIFT) - 1)),
    )
}

fn delete_body(tx: &mut Tx<'_>, ino: u64, body: u32) -> Result<()> {
    let (from, to) = body_range(ino, body);
    // 64 KiB are fewer parts than one step deletes, in nodes of any size.
    delete_range(tx, &from, &to).map(|_| ())
}
