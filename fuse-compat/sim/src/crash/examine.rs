// SPDX-License-Identifier: GPL-2.0-only
//! What a volume must stand after a crash.

use crate::audit::audit;
use crate::disk::{Event, ReadSet, SimDisk};
use crate::generate::{Generator, Profile};
use crate::model::Model;
use crate::ops::{Data, New, Op, Value};
use crate::rng::Rng;
use crate::volume::{is_full, is_honest, mount};
use aegisfs_engine::check::{CheckOptions, Observer, Phase, Problem, Severity};
use aegisfs_engine::{Fs, MODE_FILE, ROOT_INO};

/// What was seen.
pub struct Examined {
    /// Digest of what the volume showed first.
    pub digest: u64,
    /// The pages that mattered.
    pub read: ReadSet,
    /// What the first mount wrote.
    pub recovery: Vec<Event>,
    /// Every structure was checked without the engine, too.
    pub audited: bool,
}

/// Mounts, compares, checks, changes, crashes again or unmounts, mounts, compares again. `judge` says
/// whether the volume may show this.
pub fn examine(
    disk: &SimDisk,
    nested: bool,
    errors: bool,
    rng: &mut Rng,
    judge: &mut dyn FnMut(&Model) -> Result<(), String>,
) -> Result<Examined, String> {
    disk.watch();
    if nested {
        disk.record();
    }
    let (fs, mut model) = mounted(disk)?;
    let recovery = disk.take_log();
    let digest = model.digest();
    judge(&model)?;
    if !errors {
        // Blocks freed in a chunk whose map could not be read stay marked until the next fsck.
        checked(&fs, false, disk.is_worn())?;
    }
    let more = if rng.chance(1, 8) { 12 } else { 0 };
    let again = |e: String| format!("further operations after recovery: {e}");
    let may_fail = disk.is_worn();
    let mut failed = !go_on(&fs, &mut model, more, rng.next_u64(), may_fail).map_err(again)?;
    if rng.chance(1, 2) {
        match fs.unmount() {
            Err(e) if may_fail && is_honest(e) => failed = true,
            other => other.map_err(|e| again(format!("unmount: {e}")))?,
        }
    }
    drop(fs);
    let (fs, seen) = mounted(disk).map_err(again)?;
    model.drop_unnamed();
    // What failed is done, not done, or done in part.
    match model.differences(&seen) {
        d if d.is_empty() || failed => {}
        d => return Err(again(format!("model / volume:\n  {}", d.join("\n  ")))),
    }
    disk.spared()?;
    let read = disk.watched();
    let audited = !failed && rng.chance(1, 4);
    if audited {
        fs.unmount().map_err(|e| again(format!("unmount: {e}")))?;
        drop(fs);
        audit_of(disk, errors)?;
    }
    Ok(Examined {
        digest,
        read,
        recovery,
        audited,
    })
}

/// Mounts, and reads everything.
fn mounted(disk: &SimDisk) -> Result<(Box<Fs>, Model), String> {
    let fs = mount(disk, false).map_err(|e| format!("mount: {e}"))?;
    let seen = Model::read_from(&fs).map_err(|e| format!("reading everything: {e}"))?;
    let inodes = fs.statfs().inodes;
    if inodes != seen.inodes.len() as u64 {
        return Err(format!("{inodes} inodes, {} have names", seen.inodes.len()));
    }
    Ok((fs, seen))
}

/// What was found first; copies of nodes need not all be good if the flag is set.
struct First(Option<String>, bool);

impl Observer for First {
    fn problem(&mut self, problem: &Problem) {
        let is_expected = self.1 && matches!(problem, Problem::NodeCopy { .. });
        if problem.severity() > Severity::Note && !is_expected && self.0.is_none() {
            self.0 = Some(problem.to_string());
        }
    }

    fn progress(&mut self, _: Phase, _: u64, _: u64) -> bool {
        true
    }
}

/// The engine's own check finds nothing, but bad copies of nodes on a device that is `worn`.
pub(crate) fn checked(fs: &Fs, data: bool, worn: bool) -> Result<(), String> {
    let mut first = First(None, worn);
    fs.check(CheckOptions { data }, &mut first)
        .map_err(|e| format!("check: {e}"))?;
    match first.0 {
        Some(problem) => Err(format!("check: {problem}")),
        None => Ok(()),
    }
}

fn audit_of(disk: &SimDisk, errors: bool) -> Result<(), String> {
    let found = audit(disk, true).map(|mut found| {
        // As in `examine`.
        found.retain(|f| !(errors && (f.ends_with("leak") || f.contains("blocks free"))));
        // Copies of nodes that could not be written.
        found.retain(|f| !(disk.is_worn() && f.starts_with("node ")));
        found
    });
    match found {
        Ok(found) if found.is_empty() => Ok(()),
        Ok(found) => Err(format!("audit:\n  {}", found.join("\n  "))),
        Err(e) => Err(format!("audit: {e}")),
    }
}

/// A new file with content that is synced, and random operations before that; `false` if one failed as it may on a
/// device that `may_fail`.
fn go_on(fs: &Fs, model: &mut Model, more: u32, seed: u64, may_fail: bool) -> Result<bool, String> {
    let create = Op::Create {
        dir: ROOT_INO,
        name: b"after the crash".to_vec(),
        new: New {
            mode: MODE_FILE | 0o600,
            uid: 0,
            rdev: 0,
            target: vec![],
            xattrs: vec![],
        },
    };
    let made = match create.run(fs) {
        Err(e) if may_fail && is_honest(e) => return Ok(false),
        made => made.map_err(|e| format!("create: {e}"))?,
    };
    let Value::Attr(made_attr) = &made else {
        return Err("create gave no attributes".into());
    };
    let ino = made_attr.ino;
    if model.inodes.contains_key(&ino) {
        return Err(format!("inode {ino} given out twice"));
    }
    model.next_ino = ino;
    if model.run(&create) != Ok(made) {
        return Err("create gave something else than the model".into());
    }
    let write = Op::Write {
        ino,
        offset: 100,
        data: Data { seed: 1, len: 9000 },
    };
    let mut generator = Generator::new(seed, Profile::CRASH);
    let mut went = step(fs, model, &write, may_fail)?;
    for _ in 0..more {
        if went == Went::Well {
            went = step(fs, model, &generator.next(model), may_fail)?;
        }
    }
    let synced = step(fs, model, &Op::Sync, may_fail)?;
    Ok(went != Went::Failed && synced != Went::Failed)
}

/// How an operation went that did not go wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Went {
    Well,
    /// The volume is full.
    Full,
    /// The device failed, and may.
    Failed,
}

/// One operation on both.
fn step(fs: &Fs, model: &mut Model, op: &Op, may_fail: bool) -> Result<Went, String> {
    let got = op.run(fs);
    match &got {
        Err(e) if is_full(*e) => return Ok(Went::Full),
        Err(e) if may_fail && is_honest(*e) => return Ok(Went::Failed),
        _ => {}
    }
    let want = model.run(op);
    if got == want {
        Ok(Went::Well)
    } else {
        Err(format!("{op:?}: {got:?}, model: {want:?}"))
    }
}
