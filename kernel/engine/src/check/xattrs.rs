// SPDX-License-Identifier: GPL-2.0-only
//! Extended attributes of an inode: names first, then the large values, as their keys come.

use super::inode::Current;
use super::problem::{Name, Problem};
use super::Checker;
use crate::error::Result;
use crate::format::key::Key;
use crate::format::record::{name_cookie, Xattr, COOKIE_SLOTS};
use crate::object::xattr::{BODY_SHIFT, VALUE_MAX};
use crate::txn::TREE;
use aegisfs_platform::Vec;

/// A large value that an attribute has.
struct Wanted {
    body: u32,
    len: u32,
    cookie: u64,
    /// Bytes found so far, without a gap.
    found: u64,
    /// Parts found so far.
    parts: u64,
}

/// The attributes of one inode so far.
#[derive(Default)]
pub struct Xattrs {
    wanted: Vec<Wanted>,
    sorted: bool,
    /// The last value without an attribute that was reported.
    unused: Option<u32>,
}

/// Takes an attribute.
pub fn xattr(cx: &mut Checker<'_>, own: &mut Xattrs, key: Key, value: &[u8]) -> Result<()> {
    let decoded =
        Xattr::decode(value).filter(|x| !x.name.contains(&0) && x.len as usize <= VALUE_MAX);
    let Some(x) = decoded else {
        return cx.report(&Problem::RecordInvalid { tree: TREE, key });
    };
    let first = name_cookie(cx.hash_seed, x.name);
    if key
        .offset
        .checked_sub(first)
        .is_none_or(|n| n >= COOKIE_SLOTS)
    {
        cx.report(&Problem::XattrCookie {
            ino: key.object,
            cookie: key.offset,
            name: Name::new(x.name),
        })?;
    }
    if x.body != 0 {
        own.wanted.try_push(Wanted {
            body: x.body,
            len: x.len,
            cookie: key.offset,
            found: 0,
            parts: 0,
        })?;
    }
    Ok(())
}

/// Takes a part of a large value.
pub fn xattr_body(cx: &mut Checker<'_>, own: &mut Xattrs, key: Key, value: &[u8]) -> Result<()> {
    if !own.sorted {
        own.sorted = true;
        own.wanted.sort_unstable_by_key(|w| w.body);
    }
    let (body, part) = (
        key.offset >> BODY_SHIFT,
        key.offset & ((1 << BODY_SHIFT) - 1),
    );
    let found = own
        .wanted
        .binary_search_by_key(&body, |w| u64::from(w.body));
    if let Some(w) = found.ok().and_then(|i| own.wanted.get_mut(i)) {
        if w.parts == part {
            w.parts += 1;
            w.found += value.len() as u64;
        }
        return Ok(());
    }
    let Ok(body) = u32::try_from(body) else {
        return cx.report(&Problem::RecordUnknown { tree: TREE, key });
    };
    if own.unused == Some(body) {
        return Ok(());
    }
    own.unused = Some(body);
    cx.report(&Problem::XattrBodyUnused {
        ino: key.object,
        body,
    })
}

/// All records of an inode passed by.
pub fn finish_xattrs(cx: &mut Checker<'_>, done: &mut Current) -> Result<()> {
    for w in &done.xattrs.wanted {
        if w.found != u64::from(w.len) {
            cx.report(&Problem::XattrBody {
                ino: done.ino,
                cookie: w.cookie,
                body: w.body,
                found: w.found,
                len: w.len,
            })?;
        }
    }
    Ok(())
}
