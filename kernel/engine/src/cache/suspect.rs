// SPDX-License-Identifier: GPL-2.0-only
//! Blocks that a device could not read or write: noted where it happens, under whatever locks are held
//! there, and looked at later by who may begin operations (`badblocks.rs`).

use super::Pool;
use crate::error::Result;
use crate::format::key::Key;
use aegisfs_platform::{LockClass, Mutex, Vec};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Most suspects that wait; further ones will be met again.
const SUSPECTS_MAX: usize = 256;

/// What a copy belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nothing that could be moved.
    Nobody,
    /// A node of a tree, on the way to a key.
    Node { tree: u64, key: Key },
    /// A block of a file.
    Data { ino: u64, block: u64 },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The blocks could not be read, and there is no other copy.
    Read,
    /// The blocks could not be written; nothing refers to them.
    Write,
    /// The blocks are a bad copy that cannot be rewritten, while another copy is good.
    Copy,
}

/// Blocks that may be bad.
#[derive(Clone, Copy, Debug)]
pub struct Suspect {
    /// First block.
    pub addr: u64,
    /// Length.
    pub blocks: u32,
    /// What happened.
    pub trouble: Trouble,
    /// Whose copy it is.
    pub owner: Owner,
    /// How often it was looked at in vain.
    pub tries: u32,
}

/// The list of them.
pub struct Suspects {
    list: Mutex<Vec<Suspect>>,
    some: AtomicBool,
}

impl Suspects {
    pub fn new() -> Result<Self> {
        Ok(Self {
            list: Mutex::try_new(LockClass::Leaf, Vec::try_with_capacity(SUSPECTS_MAX)?)?,
            some: AtomicBool::new(false),
        })
    }
}

impl Pool {
    /// Notes blocks that may be bad; `false`: there are too many already.
    pub fn suspect(&self, suspect: Suspect) -> bool {
        let mut list = self.suspects.list.lock();
        let known = list
            .iter()
            .any(|s| s.addr == suspect.addr && s.trouble == suspect.trouble);
        if known {
            return true;
        }
        let noted = list.len() < SUSPECTS_MAX && list.try_push(suspect).is_ok();
        if noted {
            self.suspects.some.store(true, Relaxed);
        }
        noted
    }

    /// There are blocks to be looked at.
    pub fn has_suspects(&self) -> bool {
        self.suspects.some.load(Relaxed)
    }

    /// Takes all blocks that are to be looked at. Without memory they stay.
    pub fn take_suspects(&self) -> Vec<Suspect> {
        let Ok(empty) = Vec::try_with_capacity(SUSPECTS_MAX) else {
            return Vec::new();
        };
        let mut list = self.suspects.list.lock();
        self.suspects.some.store(false, Relaxed);
        core::mem::replace(&mut *list, empty)
    }
}
