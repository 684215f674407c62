// SPDX-License-Identifier: GPL-2.0-only
//! The VFS side: every callback that the kernel's filesystem layer makes.
//!
//! Locks, outermost first; the engine's own come after all of them:
//!
//! 1. `i_rwsem` (the VFS takes it for directories; `file`, `attr`, `fallocate` and `remap` for files, the
//!    last one of two, in the order of their addresses, then both `invalidate_lock`s in that order)
//! 2. the mapping's `invalidate_lock`
//! 3. folio locks
//! 4. an inode's commit lock (`inode::State::commit`)
//!    or the lock under which it gets places for data (`inode::State::in_place`)
//! 5. what an inode's dirty data holds of its owner's quota (`inode::State::held`)
//! 6. an inode's set of reserved blocks (`inode::State::reserved`): nothing is called under it
//!
//! Engine calls may sleep and do I/O, so none is made from interrupts, and none from the work
//! queues that other filesystems share. The engine never calls back.

mod acl;
mod attr;
mod context;
mod dio;
mod dir;
mod export;
mod fallocate;
mod file;
mod fileattr;
mod inode;
mod ioctl;
mod map;
mod namei;
mod new;
mod options;
mod quota;
mod quota_file;
mod read;
mod remap;
mod reserve;
mod superblock;
mod sysfs;
mod volume;
mod write;
mod writeback;
mod xattr;

pub(crate) use superblock::Registration;
