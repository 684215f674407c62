// SPDX-License-Identifier: GPL-2.0-only
//! Changes of attributes, and the clearing of set-id bits that goes with changes of owner or content.

use super::acl::{self, Acl};
use super::guard;
use super::quota::exempt;
use super::refusal::Result;
use super::Server;
use aegisfs_engine::{Attr, Error, SetAttr, Time, XattrChange, MODE_FILE, MODE_TYPE};
use aegisfs_platform::Vec as EngineVec;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// What a request wants changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
    pub ctime: Option<Time>,
    /// A time other than now is asked for.
    pub times_given: bool,
}

/// The mode without set-user-ID, and without set-group-ID where that bit gives rights (without the
/// execute bit it once meant mandatory locking).
fn without_set_id(mode: u32) -> u32 {
    if mode & MODE_TYPE != MODE_FILE {
        return mode;
    }
    let setgid = if mode & GROUP_EXECUTE != 0 { SETGID } else { 0 };
    mode & !(SETUID | setgid)
}

impl Server {
    /// Changes attributes. `kill`: who changes the size may not keep set-id bits.
    pub fn change(&self, caller: u32, kill: bool, ino: u64, changes: &Changes) -> Result<Attr> {
        let before = self.fs.getattr(ino)?;
        let owner_or_mode =
            changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some();
        if owner_or_mode || changes.size.is_some() || changes.times_given {
            guard::may_change(&before)?;
        }
        let mut set = SetAttr {
            mode: changes.mode,
            uid: changes.uid,
            gid: changes.gid,
            atime: changes.atime,
            mtime: changes.mtime,
            ctime: changes.ctime,
            ..SetAttr::default()
        };
        // Nobody keeps rights of an owner who has changed.
        let owner_changed = changes.uid.is_some() || changes.gid.is_some();
        if owner_changed || (changes.size.is_some() && kill) {
            let mode = changes
                .mode
                .map_or(before.mode, |m| before.mode & MODE_TYPE | m & 0o7777);
            let cleared = without_set_id(mode);
            if cleared != mode {
                set.mode = Some(cleared);
            }
        }
        let mut attr = before;
        if let Some(size) = changes.size {
            attr = self.growing(caller, ino, 0..0, size, || self.fs.truncate(ino, size))?;
            self.inodes.written(ino);
        }
        let list = match changes.mode {
            Some(mode) => self.list_after_chmod(&before, mode)?,
            None => None,
        };
        let list = list.as_ref().map(|value| XattrChange {
            name: acl::ACCESS,
            value: Some(value),
        });
        if owner_or_mode
            || set.mode.is_some()
            || set.atime.is_some()
            || set.mtime.is_some()
            || set.ctime.is_some()
        {
            let exempt = exempt(caller);
            attr = self
                .fs
                .setattr_within_quota(ino, &set, list.as_ref(), exempt)?;
        }
        Ok(attr)
    }

    /// The access list of an inode, if it has one, as a chmod leaves it.
    fn list_after_chmod(&self, attr: &Attr, mode: u32) -> Result<Option<Vec<u8>>> {
        if !attr.has_xattrs {
            return Ok(None);
        }
        let mut value = EngineVec::new();
        match self.fs.getxattr(attr.ino, acl::ACCESS, &mut value) {
            Ok(()) => {}
            Err(Error::NoData) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        Ok(Acl::parse(&value)?.map(|mut list| {
            list.set_mode(mode);
            list.to_bytes()
        }))
    }

    /// The content has been changed by somebody who may not keep the set-id bits.
    pub fn clear_set_id(&self, ino: u64) -> Result<()> {
        let attr = self.fs.getattr(ino)?;
        let cleared = without_set_id(attr.mode);
        if cleared != attr.mode {
            let set = SetAttr {
                mode: Some(cleared),
                ..SetAttr::default()
            };
            self.fs.setattr(ino, &set)?;
            // The kernel does not know, and would honour the bit at the next exec.
            self.connection.forget_attributes(ino);
        }
        Ok(())
    }
}
