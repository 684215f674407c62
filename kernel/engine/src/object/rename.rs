// SPDX-License-Identifier: GPL-2.0-only
//! Rename in all its modes, as one operation each.
//!
//! A directory is not moved below itself, whatever the host has checked: it and all below it would
//! be out of reach. An operation has the trees for itself, so nothing moves while ancestors are
//! looked at.

use super::dir::{
    add_entry, check_name, dangling, directory, live_directory, put_entry, remove_entry, touch,
    touch_entries, Found,
};
use super::inode::check_project;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::record::decode_inode;
use crate::txn::{Class, Fs, Tx};
use crate::types::{Attr, NewInode, RenameMode, Renamed, MODE_CHAR, MODE_DIR, MODE_TYPE, ROOT_INO};
use aegisfs_platform::{try_box, Box};

impl Renamed {
    /// Before anything is done; `moved` is still to come. Boxed, because kernel stacks are small.
    #[inline(never)]
    fn begin(tx: &mut Tx<'_>, from_dir: u64, to_dir: u64) -> Result<Box<Self>> {
        let mut renamed = try_box(Self {
            from: directory(tx, from_dir)?,
            to: None,
            moved: Attr::default(),
            target: None,
        })?;
        if from_dir != to_dir {
            renamed.to = Some(live_directory(tx, to_dir)?);
        }
        if renamed.into_dir().nlink == 0 {
            return Err(Error::NotFound);
        }
        Ok(renamed)
    }

    /// The directory of the new name.
    fn into_dir(&mut self) -> &mut Attr {
        self.to.as_mut().unwrap_or(&mut self.from)
    }

    fn dirs(&mut self) -> impl Iterator<Item = &mut Attr> {
        core::iter::once(&mut self.from).chain(self.to.as_mut())
    }

    /// Stores all that changed but what was replaced.
    #[inline(never)]
    fn put(&self, tx: &mut Tx<'_>) -> Result<()> {
        tx.put_inode(&self.moved)?;
        tx.put_inode(&self.from)?;
        match &self.to {
            Some(to) => tx.put_inode(to),
            None => Ok(()),
        }
    }
}

impl Fs {
    /// Renames. If what was replaced has no names left, the host evicts it when nobody uses it.
    ///
    /// # Errors
    /// `NotFound`, `Exists` (`NoReplace`), `NotEmpty`, `IsDirectory`, `NotDirectory`, `Invalid`
    /// (a directory into itself or below), `NoSpace`, `ReadOnly`, `TooManyLinks`, `OtherProject`.
    pub fn rename(
        &self,
        from_dir: u64,
        from: &[u8],
        to_dir: u64,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<Box<Renamed>> {
        check_name(from)?;
        check_name(to)?;
        let mut tx = self.begin(Class::Grow)?;
        let mut renamed = Renamed::begin(&mut tx, from_dir, to_dir)?;
        let Ok(source) = self.probe(&tx, from_dir, from)? else {
            return Err(Error::NotFound);
        };
        let target = self.probe(&tx, to_dir, to)?;
        renamed.moved = tx.inode(source.ino).map_err(dangling)?;
        if mode == RenameMode::Exchange {
            let Ok(target) = target else {
                return Err(Error::NotFound);
            };
            if target.ino != source.ino {
                exchange(&mut tx, &mut renamed, (source, from), (target, to))?;
                tx.commit()?;
            }
            return Ok(renamed);
        }
        let moved = renamed.moved;
        if renamed.to.is_some() && is_dir(&moved) {
            check_loop(&tx, to_dir, moved.ino)?;
        }
        check_project(renamed.into_dir(), &moved)?;
        let cookie = match target {
            Ok(_) if mode == RenameMode::NoReplace => return Err(Error::Exists),
            // Two names of one inode: POSIX wants nothing done.
            Ok(target) if target.ino == source.ino => return Ok(renamed),
            Ok(target) => {
                renamed.target =
                    Some(self.displace(&mut tx, renamed.into_dir(), target, to, &moved)?);
                target.cookie
            }
            Err(cookie) => cookie,
        };
        remove_entry(&mut tx, &mut renamed.from, source.cookie, from, &moved)?;
        if let RenameMode::Whiteout { uid, gid } = mode {
            let new = NewInode {
                mode: MODE_CHAR,
                uid,
                gid,
                ..NewInode::default()
            };
            self.whiteout(&mut tx, &mut renamed.from, source.cookie, from, &new)?;
        }
        // Both names may share a hash; then the cookie just freed and the one just found differ.
        add_entry(&mut tx, renamed.into_dir(), cookie, to, &moved)?;
        renamed.moved.parent = to_dir;
        touch(&mut renamed.moved);
        renamed.put(&mut tx)?;
        tx.commit()?;
        Ok(renamed)
    }

    /// Takes the target's name from what has it.
    #[inline(never)]
    fn displace(
        &self,
        tx: &mut Tx<'_>,
        parent: &mut Attr,
        target: Found,
        name: &[u8],
        moved: &Attr,
    ) -> Result<Attr> {
        let mut victim = tx.inode(target.ino).map_err(dangling)?;
        check_replace(moved, &victim)?;
        remove_entry(tx, parent, target.cookie, name, &victim)?;
        self.drop_name(tx, &mut victim)?;
        Ok(victim)
    }

    /// Puts a whiteout where the source was.
    #[inline(never)]
    fn whiteout(
        &self,
        tx: &mut Tx<'_>,
        parent: &mut Attr,
        cookie: u64,
        name: &[u8],
        new: &NewInode<'_>,
    ) -> Result<()> {
        let attr = self.new_inode(tx, parent, new)?;
        tx.put_inode(&attr)?;
        add_entry(tx, parent, cookie, name, &attr)
    }
}

/// What may replace what.
fn check_replace(moved: &Attr, victim: &Attr) -> Result<()> {
    match (is_dir(moved), is_dir(victim)) {
        (true, false) => Err(Error::NotDirectory),
        (false, true) => Err(Error::IsDirectory),
        (true, true) if victim.entries != 0 => Err(Error::NotEmpty),
        _ => Ok(()),
    }
}

/// Fails if directory `moved` is `into` or above it.
fn check_loop(tx: &Tx<'_>, into: u64, moved: u64) -> Result<()> {
    // In a damaged volume parents may form a loop of their own: then this comes by its mark again.
    let (mut at, mut mark) = (into, into);
    let mut steps = 0u64;
    while at != ROOT_INO {
        if at == moved {
            return Err(Error::Invalid);
        }
        let mut parent = None;
        tx.get(&Key::new(at, kind::INODE, 0), &mut |b| {
            parent = decode_inode(at, b).map(|attr| attr.parent);
        })?;
        at = parent.filter(|p| *p != mark).ok_or(Error::Corrupt)?;
        steps += 1;
        if steps.is_power_of_two() {
            mark = at;
        }
    }
    Ok(())
}

const fn is_dir(attr: &Attr) -> bool {
    attr.mode & MODE_TYPE == MODE_DIR
}

/// Swaps what two names stand for.
#[inline(never)]
fn exchange(
    tx: &mut Tx<'_>,
    renamed: &mut Renamed,
    (source, from): (Found, &[u8]),
    (target, to): (Found, &[u8]),
) -> Result<()> {
    let a = renamed.moved;
    let mut b = tx.inode(target.ino).map_err(dangling)?;
    let (from_dir, to_dir) = (renamed.from.ino, renamed.into_dir().ino);
    if from_dir != to_dir {
        for (moved, into) in [(&a, to_dir), (&b, from_dir)] {
            if is_dir(moved) {
                check_loop(tx, into, moved.ino)?;
            }
        }
    }
    check_project(&renamed.from, &b)?;
    check_project(renamed.into_dir(), &a)?;
    for (dir, cookie, name, attr) in [
        (from_dir, source.cookie, from, &b),
        (to_dir, target.cookie, to, &a),
    ] {
        put_entry(tx, dir, cookie, name, attr)?;
    }
    if is_dir(&a) != is_dir(&b) && renamed.to.is_some() {
        let (loses, gains) = if is_dir(&a) {
            (from_dir, to_dir)
        } else {
            (to_dir, from_dir)
        };
        for dir in renamed.dirs() {
            if dir.ino == loses {
                dir.nlink = dir.nlink.saturating_sub(1);
            } else if dir.ino == gains {
                dir.nlink = dir.nlink.checked_add(1).ok_or(Error::TooManyLinks)?;
            }
        }
    }
    renamed.moved.parent = to_dir;
    b.parent = from_dir;
    touch(&mut renamed.moved);
    touch(&mut b);
    tx.put_inode(&b)?;
    for dir in renamed.dirs() {
        touch_entries(dir);
    }
    renamed.target = Some(b);
    renamed.put(tx)
}
