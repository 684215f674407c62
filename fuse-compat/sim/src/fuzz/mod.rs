// SPDX-License-Identifier: GPL-2.0-only
//! Targets for a fuzzer: any bytes are an input, and a panic is a finding.
//!
//! [`image`] spoils metadata with checksums made right again, [`journal`] replays entries of any content,
//! [`operations`] compares a sequence with the model while requests to the disk fail. `cargo xtask fuzz` runs
//! them guided by coverage; the tests run the corpus in `tests/fuzz` and some mutations of it.

mod image;
mod journal;
mod operations;

pub use image::{image, seeds as image_seeds};
pub use journal::{journal, seeds as journal_seeds};
pub use operations::{operations, seeds as operations_seeds};

use aegisfs_engine::check::{CheckOptions, Observer, Outcome, Phase, Problem, Severity, Stage};
use aegisfs_engine::{Fs, MountOptions};

use crate::damage::{attack, Original, Totals};
use crate::disk::SimDisk;
use crate::rng::{hash_bytes, Rng};
use crate::volume::disk_over;
use std::sync::Arc;

/// A target.
pub type Target = fn(&[u8]);
/// Inputs to begin with.
pub type Seeds = fn() -> Vec<Vec<u8>>;

/// All targets by name, with inputs to begin with.
pub const TARGETS: [(&str, Target, Seeds); 3] = [
    ("image", image, image_seeds),
    ("journal", journal, journal_seeds),
    ("operations", operations, operations_seeds),
];

/// Requests that one input may cost; more would be a loop.
const BUDGET: u64 = 400_000;

/// Bytes of an input, one after another; zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let part = self.take(N);
        out[..part.len()].copy_from_slice(part);
        out
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (part, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        part
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A simple generator of mutated inputs, for runs without a fuzzer.
#[must_use]
pub fn mutate(input: &[u8], rng: &mut crate::rng::Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.below(3) {
        let at = rng.index(bytes.len().max(1));
        match rng.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = rng.next_u64() as u8,
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => bytes.truncate(at),
            _ => bytes.insert(at.min(bytes.len()), rng.next_u64() as u8),
        }
    }
    bytes
}

#[derive(Default)]
struct Found(Vec<Problem>);

impl Observer for Found {
    fn problem(&mut self, problem: &Problem) {
        if self.0.len() < 100_000 {
            self.0.push(*problem);
        }
    }
    fn progress(&mut self, _: Phase, _: u64, _: u64) -> bool {
        true
    }
}

/// Repairs as `fsck.aegisfs -y` does: at most three passes that change something. Gives the codes of what was
/// repaired, if the volume can be checked.
pub(crate) fn repair(disk: &SimDisk) -> Option<Vec<&'static str>> {
    let options = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    let mut repaired = vec![];
    for _ in 0..3 {
        let fs = Fs::mount(disk.devices(), options).ok()?;
        let mut found = Found::default();
        let report = fs.check(CheckOptions { data: true }, &mut found).ok()?;
        let bad = |p: &&Problem| p.severity() > Severity::Note;
        let mut plan: Vec<(Stage, &Problem)> = found
            .0
            .iter()
            .filter(|p| bad(p) || report.summary.incomplete)
            .filter_map(|p| p.stage().map(|s| (s, p)))
            .collect();
        plan.sort_by_key(|(stage, _)| *stage);
        let space = plan.iter().any(|(stage, _)| *stage == Stage::Space);
        let mut repair = fs.begin_repair(&report, space).ok()?;
        let before = repaired.len();
        let mut cut = false;
        for (stage, p) in &plan {
            if cut && *stage > Stage::Cut {
                break;
            }
            let outcome = repair.apply(p).ok()?;
            if outcome == Outcome::Repaired {
                repaired.push(p.code());
                cut |= *stage == Stage::Cut;
            }
        }
        let fixed = repaired.len() - before;
        if fixed == 0 {
            break;
        }
        let all = found.0.iter().filter(bad).count();
        repair.finish(fixed >= all).ok()?;
    }
    Some(repaired)
}

/// Does everything with a spoiled volume, and repairs another copy of it. `data` decides what else varies.
fn withstand(disk: &SimDisk, original: &Original, repaired: bool, data: &[u8]) {
    let spoiled = disk.image();
    disk.set_budget(BUDGET);
    let mut rng = Rng::new(hash_bytes(0, data));
    let mut totals = Totals::default();
    if let Err(what) = attack(disk, original, repaired, &mut rng, 12, &mut totals) {
        panic!("{what}");
    }
    assert!(disk.budget() > 0, "used up its budget of requests");
    let disk = disk_over(&Arc::new(spoiled));
    disk.set_budget(BUDGET);
    repair_converges(&disk);
    assert!(disk.budget() > 0, "repair: used up its budget of requests");
}

/// A second repair finds nothing that it could repair.
fn repair_converges(disk: &SimDisk) {
    if let Some(first) = repair(disk) {
        let second = repair(disk).unwrap_or_default();
        assert!(second.is_empty(), "repaired {first:?}, and then {second:?}");
    }
}
