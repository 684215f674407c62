// SPDX-License-Identifier: GPL-2.0-only
//! The crash simulator: runs operations on a disk that logs, and for every flush and every forced
//! write in the log mounts what a power failure there could have left.
//!
//! A crash state is everything that was durable before, and any subset of what was written since,
//! pages torn at sectors. It must mount, show the model after some prefix of the operations that
//! contains all those that had become durable, pass the check, and take and keep further changes;
//! operations of several transactions may be half done. Some of the mounts are themselves
//! interrupted, and the mounts after that: recovery must come to the same.
//!
//! Two states that differ only in pages that nobody looks at are one: what a state is, follows from
//! the pages that were read when it was examined. The engine on a simulated disk, with a clock that
//! stands still, does the same whenever it reads the same.

pub(crate) mod examine;
mod explore;
pub mod lies;
mod record;
pub mod seen;
mod shrink;

use crate::disk::Faults;
use crate::rng::Rng;
use crate::volume::{Shape, Simulated};
use lies::Lie;
use seen::Seen;
use std::fmt;
use std::time::Instant;

pub use record::{random_script, Base, Recording, Step};
pub use shrink::{replay, shrink, Origin, Token};

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Seed of everything.
    pub seed: u64,
    /// Operations of a random run.
    pub ops: u32,
    /// Random crash states at each flush, besides those that are always tried.
    pub samples: usize,
    /// Other threads do checkpoints and syncs meanwhile (such runs cannot be repeated exactly).
    pub threads: bool,
    /// Faults of the disk while the operations run.
    pub faults: Faults,
    /// The faults are honest: operations may fail with an error of the device, and then the run
    /// ends.
    pub errors: bool,
    /// The disk lies.
    pub lie: Option<Lie>,
}

impl Config {
    /// The usual run of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ops: 120,
            samples: 8,
            threads: false,
            faults: Faults::default(),
            errors: false,
            lie: None,
        }
    }

    /// The volume of a run.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape {
            size: 32 << 20,
            node_size: if self.seed % 3 == 0 { 16384 } else { 4096 },
            metadata_replicas: if self.seed % 5 == 0 { 1 } else { 2 },
            data_replicas: if self.seed % 7 == 0 { 2 } else { 1 },
        }
    }
}

/// What was done and found.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs.
    pub runs: u64,
    /// Operations in them.
    pub operations: u64,
    /// Flushes and forced writes at which crashes were tried.
    pub flushes: u64,
    /// Crash states, those included that are known to show what an earlier one showed.
    pub states: u64,
    /// Crash states that differ from all others in a page that was looked at; all were mounted,
    /// compared, checked, changed and mounted again.
    pub unique_states: u64,
    /// Crashes during recovery among the states.
    pub nested_states: u64,
    /// Crashes during recovery from a crash during recovery among them.
    pub twice_nested_states: u64,
    /// Images whose every structure was checked without the engine.
    pub audits: u64,
    /// What broke the contract.
    pub violations: Vec<Violation>,
}

impl Totals {
    /// Adds the figures of another thread.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.operations += other.operations;
        self.flushes += other.flushes;
        self.states += other.states;
        self.unique_states += other.unique_states;
        self.nested_states += other.nested_states;
        self.twice_nested_states += other.twice_nested_states;
        self.audits += other.audits;
        self.violations.extend(other.violations.iter().cloned());
    }
}

/// Which of the unflushed writes a crash has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// For each write, in order: it is there.
    pub keep: Vec<bool>,
    /// Writes that are there in part: which sectors.
    pub torn: Vec<(usize, u8)>,
}

/// A state that breaks the contract.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is wrong, in words.
    pub what: String,
    /// The place in the log, and the writes that are there. `None`: no crash is needed.
    pub place: Option<(usize, Choice)>,
    /// How the run is repeated.
    pub replay: String,
}

impl Violation {
    fn new(what: String) -> Self {
        Self {
            what,
            place: None,
            replay: String::new(),
        }
    }

    /// The first word of what is wrong, for tables.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        const KINDS: &[(&str, &str)] = &[
            ("recovery came to something else", "recovery not repeatable"),
            ("shows the state after", "acknowledged operation lost"),
            ("shows no legal state", "state that never was"),
            ("is not legal", "state that never was"),
            ("audit", "audit: structure damaged"),
            ("check:", "check: structure damaged"),
            ("mount", "does not mount"),
            ("reading", "cannot be read"),
            ("have names", "wrong counters"),
            ("after recovery", "further operations fail"),
        ];
        let found = KINDS.iter().find(|(text, _)| self.what.contains(text));
        found.map_or("operation differs from the model", |(_, kind)| kind)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.replay.is_empty() {
            write!(f, "\nreplay: {}", self.replay)?;
        }
        Ok(())
    }
}

/// Runs one random seed until it is through or `deadline` has passed.
pub fn run(config: &Config, totals: &mut Totals, deadline: Option<Instant>) {
    let script = random_script(config.seed, config.ops);
    let before = totals.violations.len();
    match Base::make(&config.shape(), config.seed, &[]) {
        Ok(base) => run_script(config, &base, &script, &Seen::default(), totals, deadline),
        Err(e) => totals.violations.push(Violation::new(e)),
    }
    for v in &mut totals.violations[before..] {
        v.replay = format!(
            "cargo xtask sim --replay random/{}/{}",
            config.seed, config.ops
        );
    }
}

/// Runs a script, and tries all its crash states.
pub fn run_script(
    config: &Config,
    base: &Base,
    script: &[Step],
    seen: &Seen,
    totals: &mut Totals,
    deadline: Option<Instant>,
) {
    totals.runs += 1;
    let _simulated = Simulated::begin(config.seed);
    match recorded(config, base, script) {
        Ok(recording) => {
            totals.operations += recording.steps.len() as u64;
            explore::explore(config, base, &recording, seen, totals, deadline);
        }
        Err(e) => totals.violations.push(Violation::new(e)),
    }
}

/// Records a script; a disk that lies has its say afterwards.
fn recorded(config: &Config, base: &Base, script: &[Step]) -> Result<Recording, String> {
    let mut recording = record::record(config, base, script)?;
    if let Some(lie) = config.lie {
        recording.events = lie.told(core::mem::take(&mut recording.events));
    }
    Ok(recording)
}

/// The chance of what follows from a crash state.
fn chance_of(hash: u64) -> Rng {
    Rng::new(hash ^ 0x6372_6173_6865_7321)
}
