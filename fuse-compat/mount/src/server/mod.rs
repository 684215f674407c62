// SPDX-License-Identifier: GPL-2.0-only
//! The FUSE server: the kernel's requests, answered by the engine.
//!
//! [`Server`] implements fuser's `Filesystem`. Requests come on several threads at once; the engine
//! is thread-safe, and the server's own state is the table of inodes that the kernel holds
//! ([`inodes`]). Each method here only unpacks a request and packs the reply; the work is in
//! the sibling modules, as methods that return a [`Result`].
//!
//! The kernel checks permissions (`default_permissions`), access control lists included, so the
//! server does not; what the kernel leaves to FUSE servers it does: umask and inherited ACLs,
//! setgid directories, clearing of set-id bits, access times, immutable and append-only files.
//!
//! All changes come through this one connection, because the device is claimed exclusively. So the
//! kernel may cache names and attributes for as long as it likes ([`CACHE_TTL`]).

mod acl;
mod attr;
mod create;
mod data;
mod dirs;
mod fileattr;
mod guard;
mod inodes;
mod names;
mod refusal;
mod setattr;
mod xattr;

use crate::options::{Atime, Plan};
use aegisfs_engine::{Attr, Fs, Time};
use attr::{file_attr, time_from_system, time_or_now};
use create::Maker;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use inodes::Inodes;
use refusal::{Refusal, Result};
use setattr::Changes;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

/// How long the kernel may trust names and attributes without asking.
const CACHE_TTL: Duration = Duration::from_secs(24 * 3600);
/// Largest write request, in bytes.
const WRITE_MAX: u32 = 1 << 20;
/// Requests that the kernel may have under way in the background (read-ahead, direct I/O).
const BACKGROUND_MAX: u16 = 64;

/// What the kernel is asked to do, where it can.
const WANTED: [InitFlags; 10] = [
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_HAS_IOCTL_DIR,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
];

/// A mounted volume behind a FUSE connection.
pub struct Server {
    fs: Arc<Fs>,
    inodes: Inodes,
    postponed: Mutex<Vec<u64>>,
    notifier: Arc<OnceLock<Notifier>>,
    atime: Atime,
    nodiratime: bool,
    sync_directories: bool,
    read_only: bool,
}

impl Server {
    /// For a mounted volume.
    pub fn new(fs: Arc<Fs>, plan: &Plan) -> Self {
        Self {
            fs,
            inodes: Inodes::new(),
            postponed: Mutex::default(),
            notifier: Arc::new(OnceLock::new()),
            atime: plan.atime,
            nodiratime: plan.nodiratime,
            sync_directories: plan.sync_directories,
            read_only: plan.engine.read_only,
        }
    }

    /// Where to put the connection's notifier once there is a connection.
    pub fn notifier_slot(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.notifier)
    }

    /// Tells the kernel that the attributes it holds of an inode are out of date.
    fn forget_attributes(&self, ino: u64) {
        if let Some(notifier) = self.notifier.get() {
            // Fails when the kernel holds nothing of it: then there is nothing to forget.
            let _ = notifier.inval_inode(INodeNo(ino), -1, 0);
        }
    }

    /// The end of every change of a directory: durable now, if the mount says so.
    fn settle(&self) -> Result<()> {
        if self.sync_directories {
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
        let unwanted = attr.flags & fileattr::NOATIME != 0
            || (self.nodiratime
                && attr.mode & aegisfs_engine::MODE_TYPE == aegisfs_engine::MODE_DIR)
            || (self.atime == Atime::Relative && !old);
        if !unwanted {
            let set = aegisfs_engine::SetAttr {
                atime: Some(now),
                ctime: Some(attr.ctime),
                ..Default::default()
            };
            self.fs.setattr(ino, &set)?;
        }
        Ok(())
    }
}

/// Replies with a new reference of the kernel's to an inode: it is counted before it is sent.
fn reply_entry(server: &Server, result: Result<Attr>, reply: ReplyEntry) {
    match result {
        Ok(attr) => {
            server.inodes.remember(attr.ino);
            reply.entry(
                &CACHE_TTL,
                &file_attr(&attr),
                Generation(u64::from(attr.generation)),
            );
        }
        Err(refusal) => reply.error(refusal.into()),
    }
}

fn reply_attr(result: Result<Attr>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&CACHE_TTL, &file_attr(&attr)),
        Err(refusal) => reply.error(refusal.into()),
    }
}

fn reply_empty(result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(refusal.into()),
    }
}

fn reply_written(result: Result<u32>, reply: ReplyWrite) {
    match result {
        Ok(bytes) => reply.written(bytes),
        Err(refusal) => reply.error(refusal.into()),
    }
}

/// Replies to a request for a value, or for its size, of which the caller takes `size` bytes.
fn reply_sized(result: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
        Err(refusal) => reply.error(refusal.into()),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in WANTED {
            if config.add_capabilities(flag).is_err() {
                tracing::info!("the kernel's FUSE lacks {flag:?}");
            }
        }
        // Each setter gives back the nearest value it takes when it refuses one.
        if let Err(most) = config.set_max_write(WRITE_MAX) {
            let _ = config.set_max_write(most);
        }
        if let Err(most) = config.set_max_readahead(WRITE_MAX) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    /// The connection has ended: who was unlinked but open is not open any more.
    fn destroy(&mut self) {
        let postponed = std::mem::take(&mut *self.postponed());
        for ino in self.inodes.drain_orphans().into_iter().chain(postponed) {
            self.evict(ino);
        }
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.lookup_name(parent.0, name.as_bytes()) {
            Err(refusal) if refusal.is_not_found() => {
                // Inode 0: the name does not exist, and the kernel may remember that.
                let absent = Attr::default();
                reply.entry(&CACHE_TTL, &file_attr(&absent), Generation(0));
            }
            result => reply_entry(self, result, reply),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        if self.inodes.forget(ino.0, nlookup) {
            self.evict(ino.0);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr(self.fs.getattr(ino.0).map_err(Refusal::from), reply);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes {
            mode,
            uid,
            gid,
            size,
            times_given: matches!(atime, Some(TimeOrNow::SpecificTime(_)))
                || matches!(mtime, Some(TimeOrNow::SpecificTime(_))),
            atime: atime.map(time_or_now),
            mtime: mtime.map(time_or_now),
            ctime: ctime.map(time_from_system),
        };
        reply_attr(self.change(req.uid(), ino.0, &changes), reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.link_target(ino.0) {
            Ok(target) => reply.data(&target),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let maker = Maker::new(req, mode, umask).device(attr::decode_device(rdev));
        reply_entry(self, self.make(parent.0, name.as_bytes(), &maker), reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = mode & !aegisfs_engine::MODE_TYPE | aegisfs_engine::MODE_DIR;
        let maker = Maker::new(req, mode, umask);
        reply_entry(self, self.make(parent.0, name.as_bytes(), &maker), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.remove_file(parent.0, name.as_bytes()), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.remove_directory(parent.0, name.as_bytes()), reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let maker = Maker::symlink(req, target.as_os_str().as_bytes());
        reply_entry(self, self.make(parent.0, name.as_bytes(), &maker), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = (parent.0, name.as_bytes());
        let to = (newparent.0, newname.as_bytes());
        reply_empty(self.rename_entry(from, to, flags), reply);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let result = self.add_link(ino.0, newparent.0, newname.as_bytes());
        reply_entry(self, result, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(ino.0, flags) {
            Ok(()) => reply.opened(FileHandle(0), OPEN_FILE),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_file(ino.0, offset, size, reply);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        reply_written(self.write_file(ino.0, offset, data, kill), reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Writes are not held back here, so there is nothing to flush: the kernel stops asking.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(self.sync(), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(self.sync(), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.list(ino.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.list_plus(ino.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let s = self.fs.statfs();
        let block = 1 << aegisfs_engine::BLOCK_SHIFT;
        // There is no table of inodes: as many more can be made as there are free blocks.
        let inodes = s.inodes.saturating_add(s.available);
        let name_max = u32::try_from(aegisfs_engine::NAME_MAX).unwrap_or(u32::MAX);
        reply.statfs(
            s.total,
            s.free,
            s.available,
            inodes,
            s.available,
            block,
            name_max,
            block,
        );
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply_empty(
            self.set_xattr(req, ino.0, name.as_bytes(), value, flags),
            reply,
        );
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_sized(self.get_xattr(ino.0, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_sized(self.list_xattrs(req.uid(), ino.0), size, reply);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.remove_xattr(ino.0, name.as_bytes()), reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mode = mode & !aegisfs_engine::MODE_TYPE | aegisfs_engine::MODE_FILE;
        match self.make(parent.0, name.as_bytes(), &Maker::new(req, mode, umask)) {
            Ok(attr) => {
                self.inodes.remember(attr.ino);
                let generation = Generation(u64::from(attr.generation));
                reply.created(
                    &CACHE_TTL,
                    &file_attr(&attr),
                    generation,
                    FileHandle(0),
                    OPEN_FILE,
                );
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        match self.control(ino.0, cmd, in_data) {
            Ok(out) => reply.ioctl(0, &out),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        reply_empty(self.allocate(req.uid(), ino.0, offset, length, mode), reply);
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.seek(ino.0, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let result = self.copy(
            req.uid(),
            (ino_in.0, offset_in),
            (ino_out.0, offset_out),
            len,
        );
        reply_written(result, reply);
    }
}

/// How files are opened: what the kernel has cached stays valid, and direct writes need not queue.
const OPEN_FILE: FopenFlags =
    FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
