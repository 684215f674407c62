// SPDX-License-Identifier: GPL-2.0-only
//! Immutable and append-only inodes.
//!
//! The kernel enforces these flags for its own filesystems, but does not know them of FUSE's.

use super::refusal::{Refusal, Result};
use super::Server;
use aegisfs_engine::{flag, Attr};

/// Neither content nor attributes may change.
fn is_immutable(attr: &Attr) -> bool {
    attr.flags & flag::IMMUTABLE != 0
}

/// Content may only be added to.
fn is_append_only(attr: &Attr) -> bool {
    attr.flags & flag::APPEND != 0
}

fn permit(allowed: bool) -> Result<()> {
    if allowed {
        Ok(())
    } else {
        Err(Refusal::NOT_PERMITTED)
    }
}

/// Attributes, names or parts of the content are to change.
pub fn may_change(attr: &Attr) -> Result<()> {
    permit(!is_immutable(attr) && !is_append_only(attr))
}

/// The file is to be opened.
pub fn may_open(attr: &Attr, flags: i32) -> Result<()> {
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
    let appends = flags & libc::O_APPEND != 0;
    permit(!writes || !(is_immutable(attr) || is_append_only(attr) && !appends))
}

impl Server {
    /// A name is to be added to a directory.
    pub fn may_add_to(&self, dir: u64) -> Result<Attr> {
        let attr = self.fs.getattr(dir)?;
        permit(!is_immutable(&attr))?;
        Ok(attr)
    }

    /// A name is to be removed from a directory, and with it a name of `victim`.
    pub fn may_remove_from(&self, dir: u64, victim: &Attr) -> Result<()> {
        may_change(&self.fs.getattr(dir)?)?;
        may_change(victim)
    }
}
