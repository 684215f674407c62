// SPDX-License-Identifier: GPL-2.0-only
//! Limits of quota, for the user that a request comes from. Root may exceed them.

use super::Server;
use aegisfs_engine::{Owner, Result};
use std::ops::Range;

/// Limits do not bind this user.
pub fn exempt(caller: u32) -> bool {
    caller == 0
}

impl Server {
    /// Runs an operation that takes `space` more bytes and makes `inodes` inodes, for `owner`.
    pub fn within_quota<T>(
        &self,
        caller: u32,
        owner: &Owner,
        space: u64,
        inodes: u64,
        operation: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.fs
            .with_quota(owner, space, inodes, exempt(caller), operation)
    }

    /// Runs an operation that writes or allocates `blocks` of a file, which then has at least `size`
    /// bytes.
    pub fn growing<T>(
        &self,
        caller: u32,
        ino: u64,
        blocks: Range<u64>,
        size: u64,
        operation: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if !self.fs.quota_enforced() {
            return operation();
        }
        let growth = self.fs.quota_growth(ino, blocks.start, blocks.end, size)?;
        let owner = self.fs.getattr(ino)?.owner();
        self.within_quota(caller, &owner, growth, 0, operation)
    }
}
