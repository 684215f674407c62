// SPDX-License-Identifier: GPL-2.0-only
//! Rename in all its modes, as one operation each.
//!
//! That a directory is not moved below itself is the host's to see to: only it holds the locks that
//! keep ancestors in place. The engine refuses the cases that it can see (moving a directory into
//! itself).

use super::dir::{
    add_entry, check_name, dangling, directory, live_directory, remove_entry, touch, Found,
};
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::record::{Dirent, DIRENT_MAX};
use crate::txn::{Class, Fs, Tx};
use crate::types::{file_type, Attr, NewInode, RenameMode, MODE_CHAR, MODE_DIR, MODE_TYPE};

/// Source and target directories, which may be one.
struct Parents {
    from: Attr,
    /// `None`: the same as `from`.
    to: Option<Attr>,
}

impl Parents {
    fn target(&mut self) -> &mut Attr {
        self.to.as_mut().unwrap_or(&mut self.from)
    }

    fn put(&self, tx: &mut Tx<'_>) -> Result<()> {
        tx.put_inode(&self.from)?;
        match &self.to {
            Some(to) => tx.put_inode(to),
            None => Ok(()),
        }
    }
}

impl Fs {
    /// Renames. Gives the attributes of what was replaced, after that: without names left, the host
    /// evicts it when nobody uses it.
    ///
    /// # Errors
    /// `NotFound`, `Exists` (`NoReplace`), `NotEmpty`, `IsDirectory`, `NotDirectory`, `Invalid`
    /// (a directory into itself), `NoSpace`, `ReadOnly`, `TooManyLinks`.
    pub fn rename(
        &self,
        from_dir: u64,
        from: &[u8],
        to_dir: u64,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<Option<Attr>> {
        check_name(from)?;
        check_name(to)?;
        let mut tx = self.begin(Class::Grow)?;
        let mut parents = Parents {
            from: directory(&tx, from_dir)?,
            to: if from_dir == to_dir {
                None
            } else {
                Some(live_directory(&tx, to_dir)?)
            },
        };
        if parents.target().nlink == 0 {
            return Err(Error::NotFound);
        }
        let Ok(source) = self.probe(&tx, from_dir, from)? else {
            return Err(Error::NotFound);
        };
        let moved = tx.inode(source.ino).map_err(dangling)?;
        if source.ino == to_dir {
            return Err(Error::Invalid);
        }
        let target = self.probe(&tx, to_dir, to)?;
        if mode == RenameMode::Exchange {
            let Ok(target) = target else {
                return Err(Error::NotFound);
            };
            if target.ino == from_dir {
                return Err(Error::Invalid);
            }
            if target.ino != source.ino {
                exchange(&mut tx, &mut parents, (source, from, moved), (target, to))?;
                tx.commit()?;
            }
            return Ok(None);
        }
        let mut replaced = None;
        let cookie = match target {
            Ok(_) if mode == RenameMode::NoReplace => return Err(Error::Exists),
            // Two names of one inode: POSIX wants nothing done.
            Ok(target) if target.ino == source.ino => return Ok(None),
            Ok(target) => {
                let mut victim = tx.inode(target.ino).map_err(dangling)?;
                check_replace(&moved, &victim)?;
                remove_entry(&mut tx, parents.target(), target.cookie, to, &victim)?;
                self.drop_name(&mut tx, &mut victim)?;
                replaced = Some(victim);
                target.cookie
            }
            Err(cookie) => cookie,
        };
        let mut moved = moved;
        remove_entry(&mut tx, &mut parents.from, source.cookie, from, &moved)?;
        if mode == RenameMode::Whiteout {
            let whiteout = self.new_inode(
                &mut tx,
                from_dir,
                &NewInode {
                    mode: MODE_CHAR,
                    ..NewInode::default()
                },
            )?;
            tx.put_inode(&whiteout)?;
            add_entry(&mut tx, &mut parents.from, source.cookie, from, &whiteout)?;
        }
        // Both names may share a hash; then the cookie just freed and the one just found differ.
        add_entry(&mut tx, parents.target(), cookie, to, &moved)?;
        moved.parent = to_dir;
        touch(&mut moved);
        tx.put_inode(&moved)?;
        parents.put(&mut tx)?;
        tx.commit()?;
        Ok(replaced)
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

const fn is_dir(attr: &Attr) -> bool {
    attr.mode & MODE_TYPE == MODE_DIR
}

/// Swaps what two names stand for.
fn exchange(
    tx: &mut Tx<'_>,
    parents: &mut Parents,
    (source, from, mut a): (Found, &[u8], Attr),
    (target, to): (Found, &[u8]),
) -> Result<()> {
    let mut b = tx.inode(target.ino).map_err(dangling)?;
    let (from_dir, to_dir) = (parents.from.ino, parents.target().ino);
    for (dir, cookie, name, attr) in [
        (from_dir, source.cookie, from, &b),
        (to_dir, target.cookie, to, &a),
    ] {
        let mut buf = [0; DIRENT_MAX];
        let entry = Dirent {
            ino: attr.ino,
            kind: file_type(attr.mode),
            name,
        };
        tx.put(Key::new(dir, kind::DIRENT, cookie), entry.encode(&mut buf))?;
    }
    if is_dir(&a) != is_dir(&b) && parents.to.is_some() {
        let (loses, gains) = if is_dir(&a) {
            (from_dir, to_dir)
        } else {
            (to_dir, from_dir)
        };
        for parent in [Some(&mut parents.from), parents.to.as_mut()]
            .into_iter()
            .flatten()
        {
            if parent.ino == loses {
                parent.nlink = parent.nlink.saturating_sub(1);
            } else if parent.ino == gains {
                parent.nlink = parent.nlink.checked_add(1).ok_or(Error::TooManyLinks)?;
            }
        }
    }
    a.parent = to_dir;
    b.parent = from_dir;
    for attr in [&mut a, &mut b] {
        touch(attr);
        tx.put_inode(attr)?;
    }
    for parent in [Some(&mut parents.from), parents.to.as_mut()]
        .into_iter()
        .flatten()
    {
        touch(parent);
        parent.mtime = parent.ctime;
    }
    parents.put(tx)
}
