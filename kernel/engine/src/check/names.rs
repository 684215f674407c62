// SPDX-License-Identifier: GPL-2.0-only
//! Names against inodes: every name leads to an inode, every inode is reached from the root, and all
//! counters are right.

use super::inode::Inodes;
use super::problem::{Name, Problem};
use super::tables::{Mark, Reference, Row, Rows, DIRECTORY};
use super::{Checker, Phase};
use crate::btree::Io;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::record::{Dirent, Subvolume};
use crate::txn::TREE;
use crate::types::{file_type, MODE_FILE, ROOT_INO};
use aegisfs_platform::Vec;

/// What the walk of the tree came to.
pub struct Names {
    /// Inodes.
    pub rows: Rows,
    /// Names that lead to them.
    pub references: Vec<Reference>,
    /// Inodes with an ORPHAN record, ascending.
    pub orphans: Vec<u64>,
}

/// Checks all names, and the counters of the volume.
pub fn check(cx: &mut Checker<'_>, inodes: Inodes, subvolume: &Subvolume) -> Result<()> {
    let mut names = inodes.into_names();
    if cx.summary.incomplete {
        return Ok(());
    }
    counters(cx, &names.rows, subvolume)?;
    resolve(cx, &mut names)?;
    reach(cx, &mut names)?;
    links(cx, &names)
}

fn counters(cx: &mut Checker<'_>, rows: &Rows, subvolume: &Subvolume) -> Result<()> {
    let counted = cx.summary.inodes;
    if subvolume.inodes != counted {
        cx.report(&Problem::InodeCount {
            found: subvolume.inodes,
            counted,
        })?;
    }
    let needed = rows.last().map_or(ROOT_INO, |r| r.ino).saturating_add(1);
    if subvolume.next_ino < needed {
        cx.report(&Problem::NextInode {
            found: subvolume.next_ino,
            needed,
        })?;
    }
    let root = rows.find(ROOT_INO).and_then(|i| rows.get(i));
    if root.is_none() {
        cx.report(&Problem::InodeMissing {
            ino: ROOT_INO,
            kind: DIRECTORY,
        })?;
    }
    Ok(())
}

/// Follows all names to their inodes.
fn resolve(cx: &mut Checker<'_>, names: &mut Names) -> Result<()> {
    names.references.sort_unstable();
    let total = names.rows.len() as u64;
    let mut rest = &names.references[..];
    let mut runs = 0u64;
    while let Some(first) = rest.first() {
        let n = rest.iter().take_while(|r| r.ino() == first.ino()).count();
        let (run, after) = rest.split_at_checked(n).ok_or(Error::Corrupt)?;
        rest = after;
        match names.rows.find(first.ino()) {
            None => {
                each_entry(cx, run, &mut |dir, cookie, e| {
                    Some(Problem::EntryDangling {
                        dir,
                        cookie,
                        ino: e.ino,
                        name: Name::new(e.name),
                    })
                })?;
            }
            Some(i) => join(cx, &mut names.rows, i, run)?,
        }
        runs += 1;
        if runs % 4096 == 0 {
            cx.progress(Phase::Names, runs, total)?;
        }
    }
    Ok(())
}

/// Looks at the entries that make up a run of references: once per directory, since the run is
/// sorted by type before it is by directory.
fn each_entry(
    cx: &mut Checker<'_>,
    run: &[Reference],
    f: &mut dyn FnMut(u64, u64, &Dirent<'_>) -> Option<Problem>,
) -> Result<()> {
    for (i, reference) in run.iter().enumerate() {
        if run.iter().take(i).any(|r| r.dir == reference.dir) {
            continue;
        }
        let (from, to) = (
            Key::new(reference.dir, kind::DIRENT, 0),
            Key::new(reference.dir, kind::DIRENT, u64::MAX),
        );
        let mut found: Vec<Problem> = Vec::new();
        let mut memory = Ok(());
        let trees = cx.trees;
        trees
            .scan(TREE, &from, &to, Io::Allowed, &mut |key, value| {
                let entry = Dirent::decode(value).filter(|e| e.ino == reference.ino());
                if let Some(p) = entry.and_then(|e| f(key.object, key.offset, &e)) {
                    memory = found.try_push(p);
                }
                memory.is_ok()
            })
            .map_err(Error::from)?;
        memory?;
        for problem in &found {
            cx.report(problem)?;
        }
    }
    Ok(())
}

/// The names of one inode.
fn join(cx: &mut Checker<'_>, rows: &mut Rows, i: usize, run: &[Reference]) -> Result<()> {
    if let Some(row) = rows.get(i).copied().filter(|r| r.missing) {
        // Its records do not tell a file from other things without entries; its names do.
        let named = run.first().map_or(row.kind, Reference::kind);
        if let Some(row) = rows.get_mut(i).filter(|r| r.kind != DIRECTORY) {
            if named != DIRECTORY {
                row.kind = named;
            }
        }
    }
    let Some(row) = rows.get(i).copied() else {
        return Ok(());
    };
    if row.invalid {
        // Its names stay, and directories count those by what the entries say.
        for r in run.iter().filter(|r| r.kind() == DIRECTORY) {
            count_in(rows, r.dir);
        }
        return Ok(());
    }
    if run.iter().any(|r| r.kind() != row.kind) {
        each_entry(cx, run, &mut |dir, cookie, e| {
            (e.kind != row.kind).then(|| Problem::EntryKind {
                dir,
                cookie,
                ino: e.ino,
                found: e.kind,
                expected: row.kind,
                name: Name::new(e.name),
            })
        })?;
    }
    if row.kind != DIRECTORY {
        if let Some(row) = rows.get_mut(i) {
            row.links = u32::try_from(run.len()).unwrap_or(u32::MAX);
        }
        return Ok(());
    }
    // The one name that counts: where the directory says it is, else the first one; the root has none.
    let is_root = row.ino == ROOT_INO;
    let own = run
        .iter()
        .find(|r| r.dir == row.parent)
        .or(run.first())
        .filter(|_| !is_root);
    if run.len() > usize::from(!is_root) {
        let mut spared = is_root;
        let kept = own.map_or(0, |r| r.dir);
        each_entry(cx, run, &mut |dir, cookie, e| {
            if !spared && dir == kept {
                spared = true;
                return None;
            }
            Some(Problem::DirectoryLinked {
                dir,
                cookie,
                ino: e.ino,
                name: Name::new(e.name),
            })
        })?;
    }
    let Some(own) = own else { return Ok(()) };
    if own.dir != row.parent && !row.missing {
        cx.report(&Problem::DirectoryParent {
            ino: row.ino,
            found: row.parent,
            expected: own.dir,
        })?;
    }
    if let Some(row) = rows.get_mut(i) {
        row.parent = own.dir;
        row.named = true;
    }
    count_in(rows, own.dir);
    Ok(())
}

/// A directory has one more subdirectory.
fn count_in(rows: &mut Rows, dir: u64) {
    if let Some(parent) = rows.find(dir).and_then(|p| rows.get_mut(p)) {
        parent.links = parent.links.saturating_add(1);
    }
}

/// Follows every directory up to the root.
fn reach(cx: &mut Checker<'_>, names: &mut Names) -> Result<()> {
    let rows = &mut names.rows;
    if let Some(root) = rows.find(ROOT_INO).and_then(|i| rows.get_mut(i)) {
        root.mark = Mark::Ends;
    }
    for start in 0..rows.len() {
        let mut at = start;
        // Up, marking the way ...
        let looped = loop {
            let Some(row) = rows.get_mut(at) else {
                break None;
            };
            if row.kind != DIRECTORY || row.mark == Mark::Ends {
                break None;
            }
            if row.mark == Mark::OnWay {
                break Some((row.ino, row.parent));
            }
            row.mark = Mark::OnWay;
            // Without a name, or in something that does not exist: reported as such.
            if !row.named {
                break None;
            }
            let parent = row.parent;
            match rows.find(parent) {
                Some(i) => at = i,
                None => break None,
            }
        };
        if let Some((ino, dir)) = looped {
            cx.report(&Problem::DirectoryLoop { ino, dir })?;
        }
        // ... and once more, closing it.
        let mut at = start;
        while let Some(row) = rows.get_mut(at).filter(|r| r.mark == Mark::OnWay) {
            row.mark = Mark::Ends;
            let parent = row.parent;
            match rows.find(parent) {
                Some(i) => at = i,
                None => break,
            }
        }
    }
    Ok(())
}

/// Compares link counts, and finds what no name leads to.
fn links(cx: &mut Checker<'_>, names: &Names) -> Result<()> {
    for ino in &names.orphans {
        if names.rows.find(*ino).is_none() {
            cx.report(&Problem::OrphanUseless { ino: *ino })?;
        }
    }
    let total = names.rows.len();
    for i in 0..total {
        let Some(row) = names.rows.get(i) else { break };
        if i % 4096 == 0 {
            cx.progress(Phase::Names, i as u64, total as u64)?;
        }
        if row.missing {
            cx.report(&Problem::InodeMissing {
                ino: row.ino,
                kind: row.kind,
            })?;
        }
        if row.missing || row.invalid {
            continue;
        }
        let orphan = names.orphans.binary_search(&row.ino).is_ok();
        judge(cx, row, orphan)?;
    }
    Ok(())
}

fn judge(cx: &mut Checker<'_>, row: &Row, orphan: bool) -> Result<()> {
    let ino = row.ino;
    let directory = row.kind == DIRECTORY;
    let reached = if directory {
        row.named || ino == ROOT_INO
    } else {
        row.links > 0
    };
    if !reached && orphan && row.nlink == 0 && (!directory || row.links == 0) {
        return cx.report(&Problem::Unfinished { ino });
    }
    if !reached {
        cx.report(&Problem::Unreachable {
            ino,
            kind: row.kind,
        })?;
        if !directory {
            return Ok(());
        }
    }
    let counted = if directory {
        row.links.saturating_add(2)
    } else {
        row.links
    };
    if row.nlink != counted {
        cx.report(&Problem::LinkCount {
            ino,
            found: row.nlink,
            counted,
        })?;
    }
    if !orphan {
        return Ok(());
    }
    // A truncation that a crash interrupted, or nothing that there is.
    if reached && row.nlink > 0 && row.kind == file_type(MODE_FILE) {
        return cx.report(&Problem::Unfinished { ino });
    }
    cx.report(&Problem::OrphanUseless { ino })
}
