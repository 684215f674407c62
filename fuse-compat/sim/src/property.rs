// SPDX-License-Identifier: GPL-2.0-only
//! Random operations on the engine and on the model: equal results, equal errors, equal content.

use crate::audit::audit;
use crate::disk::SimDisk;
use crate::generate::{Generator, Profile};
use crate::model::{Body, Model};
use crate::ops::{Op, Value};
use crate::volume::{counts, disk_over, is_full, mount, new_volume, Shape};
use aegisfs_engine::{Error, Fs};

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Seed of everything.
    pub seed: u64,
    /// Number of operations.
    pub ops: u64,
    /// The volume.
    pub shape: Shape,
    /// The operations.
    pub profile: Profile,
    /// Operations between remounts, checks of the whole tree and audits.
    pub check_every: u64,
}

struct State {
    disk: SimDisk,
    fs: Box<Fs>,
    model: Model,
    discard: bool,
    full: u64,
}

/// Runs; gives the number of operations that the volume refused for lack of space.
///
/// # Errors
/// What differs, in words.
pub fn run(run: &Run) -> Result<u64, String> {
    let image = new_volume(&run.shape, run.seed).map_err(|e| format!("mkfs: {e}"))?;
    let disk = disk_over(&image);
    let discard = run.seed % 2 == 0;
    let mut state = State {
        fs: mount(&disk, discard).map_err(|e| format!("first mount: {e}"))?,
        disk,
        model: Model::new(counts(run.seed)),
        discard,
        full: 0,
    };
    let mut generator = Generator::new(run.seed, run.profile);
    for n in 0..run.ops {
        let op = generator.next(&state.model);
        state
            .step(&op)
            .map_err(|e| format!("operation {n}: {op:?}\n  {e}"))?;
        if (n + 1) % run.check_every == 0 {
            state
                .check(generator.rng().below(3))
                .map_err(|e| format!("check after operation {n}: {e}"))?;
        }
    }
    state.check(0).map_err(|e| format!("at the end: {e}"))?;
    state.empty().map_err(|e| format!("emptying: {e}"))?;
    Ok(state.full)
}

impl State {
    fn step(&mut self, op: &Op) -> Result<(), String> {
        let got = op.run(&self.fs);
        if got.as_ref().is_err_and(|e| is_full(*e)) {
            return self.full(op);
        }
        let want = self.model.run(op);
        if got != want {
            return Err(format!(
                "volume: {}\n  model:  {}",
                short(&got),
                short(&want)
            ));
        }
        Ok(())
    }

    /// The volume is full: nothing has changed, or for operations of several parts, only some have.
    fn full(&mut self, op: &Op) -> Result<(), String> {
        self.full += 1;
        let ino = match op {
            Op::Write { ino, .. } | Op::Fallocate { ino, .. } | Op::Punch { ino, .. } => *ino,
            Op::Clone {
                to, dedupe: false, ..
            } => *to,
            // No part of these shows.
            Op::Clone { .. }
            | Op::Unshare { .. }
            | Op::Collapse { .. }
            | Op::Insert { .. }
            | Op::Create { .. }
            | Op::CreateUnnamed { .. }
            | Op::Link { .. }
            | Op::Rename { .. }
            | Op::SetXattr { .. } => return Ok(()),
            Op::Truncate { ino, size } => {
                let old = self.model.inode(*ino).map_or(0, crate::model::Inode::size);
                if *size <= old {
                    return Err("shrinking a file was refused for lack of space".into());
                }
                return Ok(());
            }
            _ => return Err(format!("refused for lack of space: {:?}", self.fs.statfs())),
        };
        let before = self.model.clone();
        let mut legal = vec![before.digest()];
        legal.extend(before.halfway(op, before.digest()));
        let mut after = before.clone();
        if after.run(op).is_ok() {
            legal.push(after.digest());
        }
        let inode = self.model.inode_mut(ino).map_err(|e| e.to_string())?;
        let size = self.fs.getattr(ino).map_err(|e| e.to_string())?.size;
        if let Body::File(c) = &mut inode.body {
            let mut now = crate::model::Content::default();
            let mut buf = vec![0; 1 << 16];
            let offset = match op {
                Op::Write { offset, data, .. } => *offset..*offset + data.len as u64,
                Op::Clone { to_offset, len, .. } => *to_offset..*to_offset + len,
                _ => 0..0,
            };
            // Only what the operation touches can differ; the rest is compared later.
            now.clone_from(c);
            now.size = now.size.max(size);
            let mut at = offset.start / 4096 * 4096;
            while at < offset.end.min(size) {
                let n = self.fs.read(ino, at, &mut buf).map_err(|e| e.to_string())?;
                now.put(at, &buf[..n]);
                at += n as u64;
            }
            now.size = size;
            *c = now;
        }
        let nameless = inode.nlink == 0;
        if nameless || legal.contains(&self.model.digest()) {
            Ok(())
        } else {
            Err("lack of space has left something that is neither before nor after".into())
        }
    }

    fn check(&mut self, how: u64) -> Result<(), String> {
        self.compare()?;
        match how {
            // In order, everything must be there.
            0 => {
                self.fs.unmount().map_err(|e| format!("unmount: {e}"))?;
                self.audited("unmount")?;
                self.remount()?;
                self.model.drop_unnamed();
            }
            // Without order, after a sync.
            1 => {
                self.fs.sync().map_err(|e| format!("sync: {e}"))?;
                self.remount()?;
                self.model.drop_unnamed();
            }
            _ => self
                .fs
                .checkpoint()
                .map_err(|e| format!("checkpoint: {e}"))?,
        }
        self.compare()?;
        if how == 2 {
            return Ok(());
        }
        let named = self.model.inodes.len() as u64;
        let inodes = self.fs.statfs().inodes;
        if inodes != named {
            return Err(format!("{inodes} inodes, {named} have names"));
        }
        self.fs
            .checkpoint()
            .map_err(|e| format!("checkpoint: {e}"))?;
        self.audited("remount")
    }

    fn remount(&mut self) -> Result<(), String> {
        // The old mount must not write any more; it is dropped with the assignment.
        self.fs = mount(&self.disk, self.discard).map_err(|e| format!("mount: {e}"))?;
        Ok(())
    }

    fn audited(&self, when: &str) -> Result<(), String> {
        let found = audit(&self.disk, true).map_err(|e| format!("audit: {e}"))?;
        if found.is_empty() {
            Ok(())
        } else {
            Err(format!("audit after {when}:\n  {}", found.join("\n  ")))
        }
    }

    fn compare(&self) -> Result<(), String> {
        let seen = Model::read_from(&self.fs).map_err(|e| format!("reading everything: {e}"))?;
        let differences = self.model.differences(&seen);
        if !differences.is_empty() {
            return Err(format!("model / volume:\n  {}", differences.join("\n  ")));
        }
        for (ino, i) in self.model.inodes.iter().filter(|(_, i)| i.nlink == 0) {
            // Still open: it must go on working.
            let Body::File(c) = &i.body else { continue };
            let mut buf = vec![0; c.size.min(1 << 16) as usize];
            let n = self.fs.read(*ino, 0, &mut buf).map_err(|e| e.to_string())?;
            if buf[..n] != c.read(0, buf.len())[..] {
                return Err(format!("unlinked inode {ino} has other content"));
            }
        }
        Ok(())
    }

    /// Removes everything: must always be possible, and give all space back.
    fn empty(&mut self) -> Result<(), String> {
        let say = |what: &str, e: Error| format!("{what}: {e}");
        while let Some((dir, name, ino)) = self.last_name() {
            let is_dir = self.model.inode(ino).is_ok_and(crate::model::Inode::is_dir);
            let op = if is_dir {
                Op::Rmdir { dir, name }
            } else {
                Op::Unlink { dir, name }
            };
            self.step(&op).map_err(|e| format!("{op:?}: {e}"))?;
        }
        let rest: Vec<u64> = self.model.inodes.keys().copied().collect();
        for ino in rest.into_iter().filter(|i| *i != 1) {
            self.step(&Op::Evict { ino })?;
        }
        for _ in 0..2 {
            self.fs.checkpoint().map_err(|e| say("checkpoint", e))?;
        }
        let s = self.fs.statfs();
        self.fs.unmount().map_err(|e| say("unmount", e))?;
        self.audited("emptying")?;
        // The root's xattrs may stay.
        if s.inodes != 1 || s.total - s.free > 1000 {
            return Err(format!("not all is free: {s:?}"));
        }
        Ok(())
    }

    /// A name whose inode has no entries.
    fn last_name(&self) -> Option<(u64, Vec<u8>, u64)> {
        self.model.inodes.iter().rev().find_map(|(dir, i)| {
            let Body::Dir(names) = &i.body else {
                return None;
            };
            names
                .iter()
                .find(|(_, ino)| self.model.inode(**ino).is_ok_and(|c| c.entries() == 0))
                .map(|(name, ino)| (*dir, name.clone(), *ino))
        })
    }
}

fn short(result: &Result<Value, Error>) -> String {
    let mut text = match result {
        Ok(Value::Bytes(b)) => {
            format!("{} bytes, hash {:x}", b.len(), crate::rng::hash_bytes(0, b))
        }
        other => format!("{other:?}"),
    };
    text.truncate(600);
    text
}
