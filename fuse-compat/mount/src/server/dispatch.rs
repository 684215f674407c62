// SPDX-License-Identifier: GPL-2.0-only
//! From requests to calls, from results to replies. The layouts are those of `linux/fuse.h`.

use super::attr::{decode_device, put_attr_reply, put_entry, put_statx};
use super::create::Maker;
use super::refusal::{Refusal, Result};
use super::setattr::Changes;
use super::Server;
use crate::wire::abi::{
    fattr, init, op, FOPEN_KEEP_CACHE, FOPEN_PARALLEL_DIRECT_WRITES, SETXATTR_ACL_KILL_SGID,
    WRITE_KILL_SUIDGID,
};
use crate::wire::connection::{Answer, Handler};
use crate::wire::payload::Payload;
use crate::wire::request::{Fields, Request};
use aegisfs_engine::{
    Attr, Time, BLOCK_SHIFT, MODE_DIR, MODE_FILE, MODE_SYMLINK, MODE_TYPE, NAME_MAX,
};

/// How files are opened: what the kernel has cached stays valid, and direct writes need not queue.
const OPEN_FILE: u32 = FOPEN_KEEP_CACHE | FOPEN_PARALLEL_DIRECT_WRITES;

impl Handler for Server {
    fn handle(&self, request: &Request<'_>, reply: &mut Payload) -> Answer {
        match self.answer(request, request.body, reply) {
            Ok(answer) => answer,
            Err(refusal) => Answer::Error(refusal.errno()),
        }
    }

    fn reference_refused(&self, ino: u64) {
        self.forget(ino, 1);
    }
}

impl Server {
    fn answer(&self, r: &Request<'_>, body: Fields<'_>, out: &mut Payload) -> Result<Answer> {
        match r.op {
            op::LOOKUP
            | op::FORGET
            | op::BATCH_FORGET
            | op::READLINK
            | op::SYMLINK
            | op::MKNOD
            | op::MKDIR
            | op::UNLINK
            | op::RMDIR
            | op::RENAME
            | op::RENAME2
            | op::LINK
            | op::CREATE
            | op::TMPFILE => self.answer_name(r, body, out),
            op::GETATTR
            | op::SETATTR
            | op::STATX
            | op::STATFS
            | op::SETXATTR
            | op::GETXATTR
            | op::LISTXATTR
            | op::REMOVEXATTR
            | op::IOCTL => self.answer_attribute(r, body, out),
            op::OPEN
            | op::READ
            | op::WRITE
            | op::FSYNC
            | op::FALLOCATE
            | op::LSEEK
            | op::COPY_FILE_RANGE
            | op::COPY_FILE_RANGE_64
            | op::SYNCFS => self.answer_content(r, body, out),
            op::READDIR | op::READDIRPLUS => self.answer_listing(r, body, out),
            op::OPENDIR => {
                put_open(out, 0);
                Ok(Answer::Reply)
            }
            op::FSYNCDIR => self.sync().map(|()| Answer::Reply),
            op::RELEASE | op::RELEASEDIR | op::DESTROY => Ok(Answer::Reply),
            // FLUSH among others: writes are not held back here. The kernel stops asking.
            _ => Err(Refusal::UNKNOWN_REQUEST),
        }
    }

    fn answer_name(&self, r: &Request<'_>, mut b: Fields<'_>, out: &mut Payload) -> Result<Answer> {
        match r.op {
            op::LOOKUP => match self.lookup_name(r.node, b.name()?) {
                Err(refusal) if refusal.is_not_found() => {
                    // Inode 0: the name does not exist, and the kernel may remember that.
                    put_entry(out, &Attr::default());
                    Ok(Answer::Reply)
                }
                found => Ok(self.refer(&found?, out)),
            },
            op::FORGET => {
                self.forget(r.node, b.u64()?);
                Ok(Answer::Nothing)
            }
            op::BATCH_FORGET => {
                let count = b.u32()?;
                b.skip(4)?;
                for _ in 0..count {
                    let (ino, lookups) = (b.u64()?, b.u64()?);
                    self.forget(ino, lookups);
                }
                Ok(Answer::Nothing)
            }
            op::READLINK => {
                out.put(&self.link_target(r.node)?);
                Ok(Answer::Reply)
            }
            op::SYMLINK => {
                let (name, target) = (b.name()?, b.name()?);
                let maker = Maker::new(r, MODE_SYMLINK | 0o777, 0).target(target);
                Ok(self.refer(&self.make(r.node, name, &maker)?, out))
            }
            op::MKNOD => {
                let (mode, rdev, umask) = (b.u32()?, b.u32()?, b.u32()?);
                b.skip(4)?;
                let maker = Maker::new(r, mode, umask).device(decode_device(rdev));
                Ok(self.refer(&self.make(r.node, b.name()?, &maker)?, out))
            }
            op::MKDIR => {
                let (mode, umask) = (b.u32()?, b.u32()?);
                let maker = Maker::new(r, mode & !MODE_TYPE | MODE_DIR, umask);
                Ok(self.refer(&self.make(r.node, b.name()?, &maker)?, out))
            }
            op::UNLINK => self.remove_file(r.node, b.name()?).map(|()| Answer::Reply),
            op::RMDIR => self
                .remove_directory(r.node, b.name()?)
                .map(|()| Answer::Reply),
            op::RENAME | op::RENAME2 => {
                let directory = b.u64()?;
                let mut flags = 0;
                if r.op == op::RENAME2 {
                    flags = b.u32()?;
                    b.skip(4)?;
                }
                let (old, new) = (b.name()?, b.name()?);
                self.rename_entry((r.uid, r.gid), (r.node, old), (directory, new), flags)?;
                Ok(Answer::Reply)
            }
            op::LINK => {
                let ino = b.u64()?;
                Ok(self.refer(&self.add_link(ino, r.node, b.name()?)?, out))
            }
            op::CREATE | op::TMPFILE => {
                b.skip(4)?;
                let (mode, umask) = (b.u32()?, b.u32()?);
                b.skip(4)?;
                let maker = Maker::new(r, mode & !MODE_TYPE | MODE_FILE, umask);
                let attr = if r.op == op::TMPFILE {
                    self.make_unnamed(r.node, &maker)?
                } else {
                    self.make(r.node, b.name()?, &maker)?
                };
                let answer = self.refer(&attr, out);
                if attr.nlink == 0 {
                    // Held by the reference that was just counted, so it is not to be evicted yet.
                    let _ = self.inodes.orphan(attr.ino);
                }
                put_open(out, OPEN_FILE);
                Ok(answer)
            }
            _ => Err(Refusal::UNKNOWN_REQUEST),
        }
    }

    fn answer_attribute(
        &self,
        r: &Request<'_>,
        mut b: Fields<'_>,
        out: &mut Payload,
    ) -> Result<Answer> {
        match r.op {
            op::GETATTR => put_attr_reply(out, &self.fs.getattr(r.node)?),
            op::STATX => put_statx(out, &self.fs.getattr(r.node)?),
            op::SETATTR => {
                let (changes, kill) = read_changes(&mut b)?;
                put_attr_reply(out, &self.change(r.uid, kill, r.node, &changes)?);
                self.settle_inode(r.node)?;
            }
            op::STATFS => self.put_statfs(out),
            op::SETXATTR => {
                let (size, flags) = (b.u32()?, b.u32()?);
                let mut kill_setgid = false;
                if self.connection.agreed(init::SETXATTR_EXT) {
                    kill_setgid = b.u32()? & SETXATTR_ACL_KILL_SGID != 0;
                    b.skip(4)?;
                }
                let name = b.name()?;
                let value = b.data(size)?;
                self.set_xattr(r.node, name, value, flags, kill_setgid)?;
                self.settle_inode(r.node)?;
            }
            op::GETXATTR => {
                let size = b.u32()?;
                b.skip(4)?;
                put_sized(out, &self.get_xattr(r.node, b.name()?)?, size)?;
            }
            op::LISTXATTR => put_sized(out, &self.list_xattrs(r.uid, r.node)?, b.u32()?)?,
            op::REMOVEXATTR => {
                self.remove_xattr(r.node, b.name()?)?;
                self.settle_inode(r.node)?;
            }
            op::IOCTL => {
                b.skip(12)?;
                let command = b.u32()?;
                b.skip(8)?;
                let (in_size, out_size) = (b.u32()?, b.u32()?);
                let result = self.control(r.uid, r.node, command, b.data(in_size)?)?;
                // Result 0, no flags, no vectors.
                out.zeros(16);
                out.put(result.get(..out_size as usize).unwrap_or(&result));
            }
            _ => return Err(Refusal::UNKNOWN_REQUEST),
        }
        Ok(Answer::Reply)
    }

    fn answer_content(
        &self,
        r: &Request<'_>,
        mut b: Fields<'_>,
        out: &mut Payload,
    ) -> Result<Answer> {
        match r.op {
            op::OPEN => {
                self.open_file(r.node, b.i32()?)?;
                put_open(out, OPEN_FILE);
            }
            op::READ => {
                b.skip(8)?;
                let (offset, size) = (b.u64()?, b.u32()?);
                self.read_file(r.node, offset, size, out)?;
            }
            op::WRITE => {
                b.skip(8)?;
                let (offset, size, flags) = (b.u64()?, b.u32()?, b.u32()?);
                b.skip(16)?;
                let kill = flags & WRITE_KILL_SUIDGID != 0;
                let written = self.write_file(r.uid, r.node, offset, b.data(size)?, kill)?;
                self.settle_inode(r.node)?;
                put_written(out, written)?;
            }
            op::FSYNC | op::SYNCFS => self.sync()?,
            op::FALLOCATE => {
                b.skip(8)?;
                let (offset, len, mode) = (b.u64()?, b.u64()?, b.i32()?);
                self.allocate(r.uid, r.node, offset, len, mode)?;
                self.settle_inode(r.node)?;
            }
            op::LSEEK => {
                b.skip(8)?;
                let (offset, whence) = (b.i64()?, b.i32()?);
                out.i64(self.seek(r.node, offset, whence)?);
            }
            op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 => {
                b.skip(8)?;
                let (offset_in, target) = (b.u64()?, b.u64()?);
                b.skip(8)?;
                let (offset_out, len) = (b.u64()?, b.u64()?);
                let copied = self.copy(r.uid, (r.node, offset_in), (target, offset_out), len)?;
                if r.op == op::COPY_FILE_RANGE_64 {
                    out.u64(copied as u64);
                } else {
                    put_written(out, copied)?;
                }
            }
            _ => return Err(Refusal::UNKNOWN_REQUEST),
        }
        Ok(Answer::Reply)
    }

    fn answer_listing(
        &self,
        r: &Request<'_>,
        mut b: Fields<'_>,
        out: &mut Payload,
    ) -> Result<Answer> {
        b.skip(8)?;
        let (offset, size) = (b.u64()?, b.u32()?);
        if r.op == op::READDIRPLUS {
            self.list_plus(r.node, offset, size as usize, out)?;
        } else {
            self.list(r.node, offset, size as usize, out)?;
        }
        Ok(Answer::Reply)
    }

    /// Gives the kernel a reference to an inode: counted before it is sent.
    fn refer(&self, attr: &Attr, out: &mut Payload) -> Answer {
        self.inodes.remember(attr.ino);
        put_entry(out, attr);
        Answer::Reference(attr.ino)
    }

    /// The kernel gives references back.
    fn forget(&self, ino: u64, lookups: u64) {
        if self.inodes.forget(ino, lookups) {
            self.evict(ino);
        }
    }

    fn put_statfs(&self, out: &mut Payload) {
        let s = self.fs.statfs();
        // There is no table of inodes: as many more can be made as there are free blocks.
        let inodes = s.inodes.saturating_add(s.available);
        for number in [s.total, s.free, s.available, inodes, s.available] {
            out.u64(number);
        }
        out.u32(1 << BLOCK_SHIFT);
        out.u32(u32::try_from(NAME_MAX).unwrap_or(u32::MAX));
        out.u32(1 << BLOCK_SHIFT);
        out.zeros(28);
    }
}

/// A file is open. No handle: everything needed is in the inode number of each request.
fn put_open(out: &mut Payload, flags: u32) {
    out.u64(0);
    out.u32(flags);
    out.u32(0);
}

fn put_written(out: &mut Payload, bytes: usize) -> Result<()> {
    out.u32(u32::try_from(bytes).map_err(|_| Refusal::INVALID)?);
    out.u32(0);
    Ok(())
}

/// A value, or its size if the caller takes 0 bytes.
fn put_sized(out: &mut Payload, value: &[u8], size: u32) -> Result<()> {
    let len = u32::try_from(value.len()).map_err(|_| Refusal::RANGE)?;
    if size == 0 {
        out.u32(len);
        out.u32(0);
    } else if len <= size {
        out.put(value);
    } else {
        return Err(Refusal::RANGE);
    }
    Ok(())
}

/// The changes that a SETATTR request wants, and whether set-id bits go because of a change of size.
fn read_changes(b: &mut Fields<'_>) -> Result<(Changes, bool)> {
    let valid = b.u32()?;
    b.skip(12)?;
    let size = b.u64()?;
    b.skip(8)?;
    let seconds = [b.i64()?, b.i64()?, b.i64()?];
    let nanoseconds = [b.u32()?, b.u32()?, b.u32()?];
    let mode = b.u32()?;
    b.skip(4)?;
    let (uid, gid) = (b.u32()?, b.u32()?);
    let has = |bit| valid & bit != 0;
    let time = |i: usize| Time {
        sec: seconds[i],
        nsec: nanoseconds[i].min(999_999_999),
    };
    let time_or_now = |bit, now, i| match (has(bit), has(now)) {
        (true, true) => Some(Time::now()),
        (true, false) => Some(time(i)),
        (false, _) => None,
    };
    let changes = Changes {
        mode: has(fattr::MODE).then_some(mode),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time_or_now(fattr::ATIME, fattr::ATIME_NOW, 0),
        mtime: time_or_now(fattr::MTIME, fattr::MTIME_NOW, 1),
        ctime: has(fattr::CTIME).then(|| time(2)),
        times_given: (has(fattr::ATIME) && !has(fattr::ATIME_NOW))
            || (has(fattr::MTIME) && !has(fattr::MTIME_NOW)),
    };
    Ok((changes, has(fattr::KILL_SUIDGID)))
}
