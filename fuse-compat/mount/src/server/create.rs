// SPDX-License-Identifier: GPL-2.0-only
//! New inodes: owner, group, mode and access control lists, as POSIX has them inherited.

use super::acl::{self, Acl};
use super::refusal::Result;
use super::Server;
use crate::wire::request::Request;
use aegisfs_engine::{Attr, Error, NewInode, Owner, MODE_DIR, MODE_SYMLINK, MODE_TYPE};
use aegisfs_platform::Vec as EngineVec;

const SETGID: u32 = 0o2000;

/// What is to be made, and by whom.
#[derive(Debug)]
pub struct Maker<'a> {
    uid: u32,
    gid: u32,
    mode: u32,
    umask: u32,
    rdev: u64,
    target: &'a [u8],
}

impl<'a> Maker<'a> {
    /// An inode with a mode, from which `umask` is still to be taken.
    pub fn new(req: &Request<'_>, mode: u32, umask: u32) -> Self {
        Self {
            uid: req.uid,
            gid: req.gid,
            mode,
            umask,
            rdev: 0,
            target: &[],
        }
    }

    /// Makes it a symbolic link to `target`.
    pub fn target(self, target: &'a [u8]) -> Self {
        Self { target, ..self }
    }

    /// Makes it a device.
    pub fn device(self, rdev: u64) -> Self {
        Self { rdev, ..self }
    }

    fn is(&self, type_bits: u32) -> bool {
        self.mode & MODE_TYPE == type_bits
    }
}

impl Server {
    /// Makes a new inode under a new name.
    pub fn make(&self, dir: u64, name: &[u8], maker: &Maker<'_>) -> Result<Attr> {
        let made = self.inherit(dir, maker, |new| self.fs.create(dir, name, new))?;
        self.settle(made.dir.flags)?;
        Ok(made.attr)
    }

    /// Makes a new file without a name, which goes with its last user unless it is given one.
    pub fn make_unnamed(&self, dir: u64, maker: &Maker<'_>) -> Result<Attr> {
        self.inherit(dir, maker, |new| self.fs.create_unnamed(dir, new))
    }

    /// Calls `create` with everything that a new inode in `dir` takes from there.
    fn inherit<T>(
        &self,
        dir: u64,
        maker: &Maker<'_>,
        create: impl Fn(&NewInode<'_>) -> aegisfs_engine::Result<T>,
    ) -> Result<T> {
        let parent = self.may_add_to(dir)?;
        let mut new = NewInode {
            mode: maker.mode,
            uid: maker.uid,
            rdev: maker.rdev,
            target: maker.target,
            project: parent.project_of_new(),
            ..NewInode::default()
        };
        new.gid = Self::group_in(&parent, maker.gid);
        if parent.mode & SETGID != 0 && maker.is(MODE_DIR) {
            new.mode |= SETGID;
        }
        let owner = Owner {
            uid: new.uid,
            gid: new.gid,
            project: parent.project_of_new(),
        };
        let create =
            |new: &NewInode<'_>| self.within_quota(maker.uid, &owner, 0, 1, || create(new));
        let inherited = if maker.is(MODE_SYMLINK) {
            None
        } else {
            self.default_acl(&parent)?
        };
        let Some(default) = inherited else {
            new.mode &= !(maker.umask & 0o777);
            return Ok(create(&new)?);
        };
        let mut access = default.clone();
        let mode = access.restrict_to_mode(new.mode);
        let access_bytes = access.to_bytes();
        let default_bytes = default.to_bytes();
        let mut xattrs: Vec<(&[u8], &[u8])> = Vec::with_capacity(2);
        if !access.is_plain() {
            xattrs.push((acl::ACCESS, &access_bytes));
        }
        if maker.is(MODE_DIR) {
            xattrs.push((acl::DEFAULT, &default_bytes));
        }
        let new = NewInode {
            mode,
            xattrs: &xattrs,
            ..new
        };
        Ok(create(&new)?)
    }

    /// Group of what somebody of group `own` makes in a directory.
    pub fn group_in(dir: &Attr, own: u32) -> u32 {
        if dir.mode & SETGID != 0 {
            dir.gid
        } else {
            own
        }
    }

    /// The list that a directory passes on, if it has one.
    fn default_acl(&self, dir: &Attr) -> Result<Option<Acl>> {
        if !dir.has_xattrs {
            return Ok(None);
        }
        let mut value = EngineVec::new();
        match self.fs.getxattr(dir.ino, acl::DEFAULT, &mut value) {
            Ok(()) => Acl::parse(&value),
            Err(Error::NoData) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
