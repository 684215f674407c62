// SPDX-License-Identifier: GPL-2.0-only
//! The FUSE server: the kernel's requests, answered by the engine.
//!
//! Requests come on several threads at once; the engine is thread-safe, and the server's own state
//! is the table of inodes that the kernel holds ([`inodes`]). [`dispatch`] takes requests apart
//! and packs replies; the work is in the sibling modules, as methods that return a [`Result`].
//!
//! The kernel checks permissions (`default_permissions`), access control lists included, so the
//! server does not; what the kernel leaves to FUSE servers it does: umask and inherited ACLs,
//! setgid directories, clearing of set-id bits, access times, immutable and append-only files.
//!
//! All changes come through this one connection, because the device is claimed exclusively. So the
//! kernel may cache names and attributes for as long as it likes.

mod acl;
mod attr;
mod control;
mod create;
mod data;
mod dirs;
mod dispatch;
mod fileattr;
mod guard;
mod inodes;
mod names;
mod quota;
mod refusal;
mod setattr;
mod xattr;

use crate::options::{Atime, Plan};
use crate::wire::abi::init;
use crate::wire::connection::Connection;
use aegisfs_engine::{flag, Fs, SetAttr, Time, MODE_DIR, MODE_TYPE};
use inodes::Inodes;
use refusal::Result;
use std::sync::Arc;

/// What the kernel is asked to do, where it can.
pub const WANTED: u64 = init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::CACHE_SYMLINKS
    | init::EXPORT_SUPPORT
    | init::IOCTL_DIR
    | init::HANDLE_KILLPRIV_V2
    | init::POSIX_ACL
    | init::DONT_MASK
    | init::SETXATTR_EXT;

/// A mounted volume behind a FUSE connection.
pub struct Server {
    fs: Arc<Fs>,
    connection: Connection,
    inodes: Inodes,
    atime: Atime,
    nodiratime: bool,
    sync_directories: bool,
    read_only: bool,
}

impl Server {
    /// For a mounted volume and a connection to the kernel.
    pub fn new(fs: Arc<Fs>, connection: Connection, plan: &Plan) -> Self {
        Self {
            fs,
            connection,
            inodes: Inodes::new(),
            atime: plan.atime,
            nodiratime: plan.nodiratime,
            sync_directories: plan.sync_directories,
            read_only: plan.engine.read_only,
        }
    }

    /// The connection has ended: who was unlinked but open is not open any more.
    pub fn finish(&self) {
        for ino in self.inodes.drain_orphans() {
            self.evict(ino);
        }
    }

    /// The end of every change of a directory with these flags: durable now, if they or the mount
    /// say so.
    fn settle(&self, dir_flags: u32) -> Result<()> {
        if self.sync_directories || dir_flags & (flag::DIRSYNC | flag::SYNC) != 0 {
            self.fs.sync()?;
        }
        Ok(())
    }

    /// The end of a change of an inode itself.
    fn settle_inode(&self, ino: u64) -> Result<()> {
        if self.fs.getattr(ino)?.flags & flag::SYNC != 0 {
            self.fs.sync()?;
        }
        Ok(())
    }

    /// Makes everything durable that was done before.
    fn sync(&self) -> Result<()> {
        Ok(self.fs.commit(self.fs.sequence())?)
    }

    /// Sets the access time of what was read, as the mount options want it.
    fn touch_atime(&self, ino: u64) {
        if self.read_only || self.atime == Atime::Never {
            return;
        }
        if self.atime == Atime::Relative && !self.inodes.atime_check_due(ino) {
            return;
        }
        // A read does not fail because its time cannot be noted.
        if let Err(refusal) = self.set_atime(ino) {
            tracing::debug!("access time of inode {ino}: {refusal}");
        }
    }

    fn set_atime(&self, ino: u64) -> Result<()> {
        const DAY: i64 = 24 * 3600;
        let attr = self.fs.getattr(ino)?;
        let now = Time::now();
        let old = attr.atime <= attr.mtime
            || attr.atime <= attr.ctime
            || now.sec.saturating_sub(attr.atime.sec) >= DAY;
        let unwanted = attr.flags & flag::NOATIME != 0
            || (self.nodiratime && attr.mode & MODE_TYPE == MODE_DIR)
            || (self.atime == Atime::Relative && !old);
        if !unwanted {
            let set = SetAttr {
                atime: Some(now),
                ctime: Some(attr.ctime),
                ..SetAttr::default()
            };
            self.fs.setattr(ino, &set)?;
        }
        Ok(())
    }
}
