// SPDX-License-Identifier: GPL-2.0-only
//! Extended attributes. The kernel has checked the caller's rights to the namespace.

use super::acl::{self, Acl};
use super::guard;
use super::refusal::{Refusal, Result};
use super::Server;
use aegisfs_engine::{Attr, SetAttr, XattrChange, XattrMode};
use aegisfs_platform::Vec as EngineVec;

const SETGID: u32 = 0o2000;
const TRUSTED: &[u8] = b"trusted.";

/// The namespaces that exist; `system.` has only access control lists.
fn check_name(name: &[u8]) -> Result<()> {
    let free: [&[u8]; 3] = [b"user.", TRUSTED, b"security."];
    let known = free
        .iter()
        .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix))
        || name == acl::ACCESS
        || name == acl::DEFAULT;
    if known {
        Ok(())
    } else {
        Err(Refusal::UNSUPPORTED)
    }
}

impl Server {
    pub fn get_xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        check_name(name)?;
        let mut value = EngineVec::new();
        self.fs.getxattr(ino, name, &mut value)?;
        Ok(value.to_vec())
    }

    pub fn set_xattr(
        &self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_setgid: bool,
    ) -> Result<()> {
        check_name(name)?;
        let mode = match i32::try_from(flags) {
            Ok(0) => XattrMode::Any,
            Ok(libc::XATTR_CREATE) => XattrMode::Create,
            Ok(libc::XATTR_REPLACE) => XattrMode::Replace,
            _ => return Err(Refusal::INVALID),
        };
        let attr = self.fs.getattr(ino)?;
        guard::may_change(&attr)?;
        match name {
            acl::ACCESS => self.set_access_list(&attr, value, kill_setgid),
            acl::DEFAULT => match Acl::parse(value)? {
                Some(_) => Ok(self.fs.setxattr(ino, name, value, mode)?),
                None => self.remove_if_present(ino, name),
            },
            _ => Ok(self.fs.setxattr(ino, name, value, mode)?),
        }
    }

    /// The mode bits follow the list; a list that says no more than they do is not kept.
    fn set_access_list(&self, attr: &Attr, value: &[u8], kill_setgid: bool) -> Result<()> {
        let Some(list) = Acl::parse(value)? else {
            return self.remove_if_present(attr.ino, acl::ACCESS);
        };
        let mut mode = attr.mode & !0o777 | list.mode();
        if kill_setgid {
            mode &= !SETGID;
        }
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        let change = XattrChange {
            name: acl::ACCESS,
            value: (!list.is_plain()).then_some(value),
        };
        self.fs.setattr_with(attr.ino, &set, Some(&change))?;
        Ok(())
    }

    fn remove_if_present(&self, ino: u64, name: &[u8]) -> Result<()> {
        match self.fs.removexattr(ino, name) {
            Err(aegisfs_engine::Error::NoData) => Ok(()),
            other => Ok(other?),
        }
    }

    /// All names, each ended by a zero byte. `trusted.` ones are root's alone.
    pub fn list_xattrs(&self, caller: u32, ino: u64) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        self.fs.listxattr(ino, &mut |name| {
            if caller == 0 || !name.starts_with(TRUSTED) {
                names.extend_from_slice(name);
                names.push(0);
            }
        })?;
        Ok(names)
    }

    pub fn remove_xattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        check_name(name)?;
        guard::may_change(&self.fs.getattr(ino)?)?;
        if name == acl::ACCESS || name == acl::DEFAULT {
            // An empty list comes as a removal too: what is not there is not missed.
            return self.remove_if_present(ino, name);
        }
        Ok(self.fs.removexattr(ino, name)?)
    }
}
