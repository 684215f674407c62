// SPDX-License-Identifier: GPL-2.0-only
//! The AegisFS engine: a copy-on-write filesystem with checksums and a journal, for any host.
//!
//! Compiled unchanged into the kernel module, the FUSE server, the tools and the simulator. It knows
//! nothing of its host but the crate `aegisfs_platform` and the [`BlockDevice`]s it is given.
//!
//! Layers, each of which uses only those before it:
//! format <- cache <- btree <- space <- txn <- object <- volume <- fs.
//! `docs/architecture.md` has the overview, `docs/crash-safety.md` the argument.

// kbuild says so itself.
#![cfg_attr(not(MODULE), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
// Values from devices are checked where they enter; what is cast after that fits.
#![allow(clippy::cast_possible_truncation)]
// `pub` marks the interface between layers; what leaves the crate is re-exported below.
#![allow(unreachable_pub)]
// What only `check` uses.
#![cfg_attr(MODULE, allow(dead_code, unused_imports))]

#[cfg(test)]
extern crate std;

mod badblocks;
mod btree;
mod cache;
pub mod control;
// Userspace only: sorting large tables needs more stack than a kernel thread has.
#[cfg(not(MODULE))]
pub mod check;
mod device;
mod error;
pub mod format;
mod fs;
mod map;
mod object;
mod scrub;
mod sort;
mod space;
#[cfg(test)]
mod testing;
mod txn;
mod types;
mod volume;

pub use cache::PendingWrite;
pub use device::{BlockDevice, ReadOp, WriteOp};
pub use error::{Error, Result};
pub use object::data::ReadGuard;
pub use object::quota::QuotaHold;
pub use txn::Fs;
pub use types::*;
pub use volume::format::format as format_volume;
pub use volume::layout::Layout;
pub use volume::mount::read_superblock;
