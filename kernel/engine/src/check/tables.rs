// SPDX-License-Identifier: GPL-2.0-only
//! The compact tables of a check: one row for each inode, one for each name.

use crate::types::{INO_END, MODE_DIR};
use aegisfs_platform::{AllocError, Vec};

/// Type of a directory, as names have it.
pub const DIRECTORY: u8 = (MODE_DIR >> 12) as u8;

/// An inode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    /// Number.
    pub ino: u64,
    /// Directories: the directory it says it is in; later the one it was found in.
    pub parent: u64,
    /// Links as the inode has them.
    pub nlink: u32,
    /// Links found (directories: subdirectories found).
    pub links: u32,
    /// Type, as names have it.
    pub kind: u8,
    /// There is no inode record, only others of its number.
    pub missing: bool,
    /// There is an inode record, but it cannot be decoded.
    pub invalid: bool,
    /// Directories: a name of it was found.
    pub named: bool,
    /// Directories: leads to the root; being looked at.
    pub mark: Mark,
}

const _: () = assert!(size_of::<Row>() == 32);

/// What is known about the way from a directory to the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nothing yet.
    #[default]
    Unknown,
    /// On the way that is being followed.
    OnWay,
    /// It ends: at the root, or at a directory that was reported.
    Ends,
}

/// All inodes, ascending by number.
#[derive(Default)]
pub struct Rows(Vec<Row>);

impl Rows {
    /// With room for `n` rows, which is only a guess.
    pub fn new(n: u64) -> Result<Self, AllocError> {
        /// No more than this on the word of a counter.
        const GUESS_MAX: u64 = 1 << 21;
        Ok(Self(Vec::try_with_capacity(n.min(GUESS_MAX) as usize)?))
    }

    /// Appends an inode; the numbers ascend.
    pub fn push(&mut self, row: Row) -> Result<(), AllocError> {
        self.0.try_push(row)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Position of an inode.
    pub fn find(&self, ino: u64) -> Option<usize> {
        self.0.binary_search_by_key(&ino, |r| r.ino).ok()
    }

    /// A row.
    pub fn get(&self, i: usize) -> Option<&Row> {
        self.0.get(i)
    }

    /// A row, to change.
    pub fn get_mut(&mut self, i: usize) -> Option<&mut Row> {
        self.0.get_mut(i)
    }

    /// The last row.
    pub fn last(&self) -> Option<&Row> {
        self.0.last()
    }
}

/// Bits of a reference that hold the type.
const KIND_BITS: u32 = 4;
const _: () = assert!(INO_END == 1 << (64 - KIND_BITS));

/// A name: which inode it leads to, what it says it is, where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    ino_kind: u64,
    /// The directory.
    pub dir: u64,
}

impl Reference {
    /// `ino` is below [`INO_END`], `kind` below 16.
    pub const fn new(ino: u64, kind: u8, dir: u64) -> Self {
        Self {
            ino_kind: ino << KIND_BITS | kind as u64,
            dir,
        }
    }

    /// Inode that it leads to.
    pub const fn ino(&self) -> u64 {
        self.ino_kind >> KIND_BITS
    }

    /// Type that it says.
    pub const fn kind(&self) -> u8 {
        (self.ino_kind & ((1 << KIND_BITS) - 1)) as u8
    }
}

const _: () = assert!(size_of::<Reference>() == 16);
