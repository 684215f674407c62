// SPDX-License-Identifier: GPL-2.0-only
//! fsck: checks every structure of a volume, and every relation between structures.
//!
//! The check reads the state that a mount would have: superblock, chunk table, trees with the journal
//! replayed in memory. It never writes. [`Fs::check`] hands each [`Problem`] to an [`Observer`];
//! [`Fs::repair`] mends one, [`Fs::begin_repair`] and [`Fs::end_repair`] around all of them.
//! When a volume cannot be mounted at all, [`diagnose`] says which structure is to blame.
//!
//! Memory: one bit for each block of chunks that hold anything (32 MiB per TiB), 32 bytes for each
//! inode, 16 bytes for each name, 32 bytes for each identifier with a quota, 16 bytes for each extent that
//! is shared and for each record of a count. Nothing else grows with the volume: one node per level, some
//! MiB of nodes that are read ahead.
//!
//! Invariants:
//! 1. Nothing here trusts what it reads: any image gives problems or an error, never a panic, and
//!    the walk ends.
//! 2. A volume that the engine wrote, crashed at any point and recovered, has no problem above
//!    [`Severity::Note`].
//! 3. Where a node is lost, what follows from the loss is not reported: the next check, after the
//!    loss was cut out, does that.

mod ahead;
mod data;
mod devices;
mod facts;
mod free;
mod health;
mod inode;

mod names;
mod problem;
mod quota;
mod repair;
mod shared;
mod tables;
mod usage;
mod walk;
mod xattrs;

#[cfg(test)]
mod tests;

pub use devices::diagnose;
pub use problem::{Name, NodeCopyFault, Object, Problem, Severity, Stage, SuperCopyFault};
pub use repair::{Outcome, Repair};

use crate::btree::{Root, Trees};
use crate::cache::Pool;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key, FIRST_SUBVOLUME, POOL_TREE};
use crate::format::record::Subvolume;
use crate::format::superblock::{COMPAT_BAD_BLOCKS, COMPAT_HEALTH};
use crate::space::Range;
use crate::txn::{Fs, State, TREE};
use aegisfs_platform::Vec;
use ahead::Ahead;
use inode::Inodes;
use usage::Usage;
use walk::Sink;

/// What to check beyond the metadata.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read and verify all file data.
    pub data: bool,
}

/// Part of a check, for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Superblocks, chunk table, journal.
    Devices,
    /// Trees: inodes and all that belongs to them. Counted in inodes.
    Trees,
    /// Names against inodes. Counted in inodes.
    Names,
    /// Free-space maps against use. Counted in chunks.
    Space,
}

impl Phase {
    /// Number of phases.
    pub const COUNT: u32 = 4;

    /// Position of the phase, from 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Devices => 1,
            Self::Trees => 2,
            Self::Names => 3,
            Self::Space => 4,
        }
    }

    /// What is looked at, in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Devices => "superblocks and chunk table",
            Self::Trees => "inodes",
            Self::Names => "names",
            Self::Space => "free space",
        }
    }
}

/// Who wants to know.
pub trait Observer {
    /// Something is wrong.
    fn problem(&mut self, problem: &Problem);

    /// `done` of `total` parts of a phase are ready. `false` ends the check.
    fn progress(&mut self, phase: Phase, done: u64, total: u64) -> bool;
}

/// What a check saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Nodes of all trees.
    pub nodes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Regular files among them.
    pub files: u64,
    /// Symbolic links among them.
    pub symlinks: u64,
    /// Names.
    pub entries: u64,
    /// Extents.
    pub extents: u64,
    /// Blocks that extents hold, in all replicas.
    pub data_blocks: u64,
    /// Copies of blocks of data that were verified.
    pub data_verified: u64,
    /// Blocks in use, bitmap slots left out.
    pub used_blocks: u64,
    /// Blocks that can be used.
    pub total_blocks: u64,
    /// Operations that were in the journal only.
    pub replayed: u64,
    /// Notes, warnings, errors.
    pub problems: [u64; 3],
    /// Nodes were lost, or hold what is not theirs: what follows from that was not looked at.
    pub incomplete: bool,
    /// The observer ended the check.
    pub cancelled: bool,
}

impl Summary {
    /// Nothing above a note was found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.problems[1] == 0 && self.problems[2] == 0 && !self.cancelled
    }

    fn count(&mut self, severity: Severity) {
        let i = match severity {
            Severity::Note => 0,
            Severity::Warning => 1,
            Severity::Error => 2,
        };
        if let Some(n) = self.problems.get_mut(i) {
            *n = n.saturating_add(1);
        }
    }
}

/// Outcome of a check: the figures, and what repairs build on.
pub struct Report {
    /// The figures.
    pub summary: Summary,
    usage: Usage,
    /// Records of counts as they should be.
    counts: Vec<shared::Counted>,
}

impl core::fmt::Debug for Report {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.summary.fmt(f)
    }
}

/// State of a check that all its parts share.
pub(crate) struct Checker<'a> {
    pool: &'a Pool,
    trees: &'a Trees,
    observer: &'a mut dyn Observer,
    options: CheckOptions,
    usage: Usage,
    quota: quota::Recount,
    /// There are records of health.
    health: bool,
    /// There is a list of bad blocks.
    bad_blocks: bool,
    sharing: shared::Sharing,
    summary: Summary,
    node_blocks: u32,
    /// Last generation that devices can hold.
    generation: u64,
    /// Generation of changes in memory.
    running: u64,
    hash_seed: u64,
    /// A buffer, empty while it is used.
    spare: Vec<u8>,
    ahead: Ahead,
}

impl Checker<'_> {
    fn report(&mut self, problem: &Problem) -> Result<()> {
        self.summary.count(problem.severity());
        self.observer.problem(problem);
        Ok(())
    }

    /// So many `blocks` of a run that an object claims are somebody else's, too.
    fn contested(&mut self, run: Range, blocks: u32, tree: u64, object: u64) -> Result<()> {
        self.usage.contested.add(run);
        self.report(&Problem::BlocksShared {
            block: run.addr,
            blocks,
            tree,
            object,
        })
    }

    fn progress(&mut self, phase: Phase, done: u64, total: u64) -> Result<()> {
        if self.observer.progress(phase, done, total) {
            return Ok(());
        }
        self.summary.cancelled = true;
        Err(Error::Busy)
    }
}

impl Fs {
    /// Checks everything. The volume is mounted read-only, or nobody changes it meanwhile.
    ///
    /// # Errors
    /// `NoMemory`. Damage is no error: it is reported.
    pub fn check(&self, options: CheckOptions, observer: &mut dyn Observer) -> Result<Report> {
        let info = self.info();
        let state = self.state.read();
        let header_blocks = {
            let checkpointer = self.checkpointer.lock();
            checkpointer.superblock.chunk_header_blocks()
        };
        let mut cx = Checker {
            pool: &self.pool,
            trees: &state.trees,
            observer,
            options,
            usage: Usage::new(&info, header_blocks)?,
            quota: quota::Recount::new(state.quota.on),
            health: info.features[0] & COMPAT_HEALTH != 0,
            bad_blocks: info.features[0] & COMPAT_BAD_BLOCKS != 0,
            sharing: shared::Sharing::new(&info, header_blocks)?,
            summary: Summary::default(),
            node_blocks: info.node_size / crate::types::BLOCK_SIZE as u32,
            generation: info.generation,
            running: state.trees.generation(),
            hash_seed: self.hash_seed,
            spare: Vec::new(),
            ahead: Ahead::default(),
        };
        match check_all(&mut cx, self, &state) {
            Err(Error::Busy) if cx.summary.cancelled => {}
            other => other?,
        }
        Ok(Report {
            counts: cx.sharing.right()?,
            summary: cx.summary,
            usage: cx.usage,
        })
    }
}

fn check_all(cx: &mut Checker<'_>, fs: &Fs, state: &State) -> Result<()> {
    let subvolume = &state.subvolume;
    cx.progress(Phase::Devices, 0, 1)?;
    devices::check(cx, state.sequence)?;
    cx.progress(Phase::Trees, 0, subvolume.inodes)?;
    let pool_root = cx.trees.root(POOL_TREE)?;
    walk::walk(cx, &pool_root, &mut PoolRecords)?;
    let mut inodes = Inodes::new(subvolume.inodes)?;
    let root: Root = cx.trees.root(TREE)?;
    walk::walk(cx, &root, &mut inodes)?;
    inodes.finish(cx)?;
    shared::check(cx)?;
    quota::check(cx, &state.quota)?;
    names::check(cx, inodes, subvolume)?;
    free::check(cx, &fs.space)
}

/// Records of the pool tree.
struct PoolRecords;

impl Sink for PoolRecords {
    fn record(&mut self, cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()> {
        if key.kind == kind::SHARED {
            return shared::record(cx, key, value);
        }
        if [kind::QUOTA, kind::QUOTA_INFO].contains(&key.kind) {
            return quota::record(cx, key, value);
        }
        if key.kind == kind::BAD_BLOCK && cx.bad_blocks {
            return health::bad_block(cx, key, value);
        }
        if [kind::SCRUB, kind::SCRUB_DAMAGE, kind::DEVICE_STATS].contains(&key.kind) {
            return health::record(cx, key, value);
        }
        if key != Key::new(FIRST_SUBVOLUME, kind::SUBVOLUME, 0) {
            return cx.report(&Problem::RecordUnknown {
                tree: POOL_TREE,
                key,
            });
        }
        if Subvolume::decode(value).is_none() {
            return cx.report(&Problem::RecordInvalid {
                tree: POOL_TREE,
                key,
            });
        }
        Ok(())
    }

    fn lost(&mut self, cx: &mut Checker<'_>, _from: Key, _to: Key) -> Result<()> {
        cx.summary.incomplete = true;
        Ok(())
    }
}
