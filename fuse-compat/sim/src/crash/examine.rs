// SPDX-License-Identifier: GPL-2.0-only
//! What a volume must stand after a crash.

use crate::audit::audit;
use crate::disk::{Event, ReadSet, SimDisk};
use crate::generate::{Generator, Profile};
use crate::model::Model;
use crate::ops::{Data, New, Op, Value};
use crate::rng::Rng;
use crate::volume::{is_full, mount};
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
        checked(&fs, false)?;
    }
    let more = if rng.chance(1, 8) { 12 } else { 0 };
    let again = |e: String| format!("further operations after recovery: {e}");
    go_on(&fs, &mut model, more, rng.next_u64()).map_err(again)?;
    if rng.chance(1, 2) {
        fs.unmount().map_err(|e| again(format!("unmount: {e}")))?;
    }
    drop(fs);
    let (fs, seen) = mounted(disk).map_err(again)?;
    model.drop_unnamed();
    match model.differences(&seen) {
        d if d.is_empty() => {}
        d => return Err(again(format!("model / volume:\n  {}", d.join("\n  ")))),
    }
    disk.spared()?;
    let read = disk.watched();
    let audited = rng.chance(1, 4);
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

struct First(Option<String>);

impl Observer for First {
    fn problem(&mut self, problem: &Problem) {
        if problem.severity() > Severity::Note && self.0.is_none() {
            self.0 = Some(problem.to_string());
        }
    }

    fn progress(&mut self, _: Phase, _: u64, _: u64) -> bool {
        true
    }
}

/// The engine's own check finds nothing.
pub(crate) fn checked(fs: &Fs, data: bool) -> Result<(), String> {
    let mut first = First(None);
    fs.check(CheckOptions { data }, &mut first)
        .map_err(|e| format!("check: {e}"))?;
    match first.0 {
        Some(problem) => Err(format!("check: {problem}")),
        None => Ok(()),
    }
}

fn audit_of(disk: &SimDisk, errors: bool) -> Result<(), String> {
    let found = audit(disk, true).map(|mut found| {
        // As above.
        found.retain(|f| !(errors && (f.ends_with("leak") || f.contains("blocks free"))));
        found
    });
    match found {
        Ok(found) if found.is_empty() => Ok(()),
        Ok(found) => Err(format!("audit:\n  {}", found.join("\n  "))),
        Err(e) => Err(format!("audit: {e}")),
    }
}

/// A new file with content that is synced, and random operations before that.
fn go_on(fs: &Fs, model: &mut Model, more: u32, seed: u64) -> Result<(), String> {
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
    let made = create.run(fs).map_err(|e| format!("create: {e}"))?;
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
    let mut room = step(fs, model, &write)?;
    for _ in 0..more {
        room = room && step(fs, model, &generator.next(model))?;
    }
    step(fs, model, &Op::Sync).map(|_| ())
}

/// One operation on both; `false` when the volume is full.
fn step(fs: &Fs, model: &mut Model, op: &Op) -> Result<bool, String> {
    let got = op.run(fs);
    if got.as_ref().is_err_and(|e| is_full(*e)) {
        return Ok(false);
    }
    let want = model.run(op);
    if got == want {
        Ok(true)
    } else {
        Err(format!("{op:?}: {got:?}, model: {want:?}"))
    }
}
