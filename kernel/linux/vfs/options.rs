// SPDX-License-Identifier: GPL-2.0-only
//! Mount options: parsing, and showing them so that they parse to the same.

use aegisfs_engine::{ErrorPolicy, MountOptions, QuotaType, QuotaTypes};

const COMMIT_SECS_MAX: u32 = 3600;

/// Options of a mount that are not the VFS's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) errors: ErrorPolicy,
    pub(super) commit_secs: u32,
    pub(super) discard: bool,
    pub(super) no_recovery: bool,
    /// Types of quota to enforce.
    pub(super) quota: QuotaTypes,
}

/// Why an option was refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    /// Not an option of this filesystem: the VFS says so.
    Unknown,
    /// What is wrong with it.
    Invalid(&'static str),
}

impl Default for Options {
    fn default() -> Self {
        let defaults = MountOptions::default();
        Self {
            errors: defaults.errors,
            commit_secs: defaults.commit_secs,
            discard: defaults.discard,
            no_recovery: defaults.no_recovery,
            quota: 0,
        }
    }
}

impl Options {
    /// Applies `key` or `key=value`.
    pub(super) fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Refusal> {
        let flag = |text| match value {
            None => Ok(()),
            Some(_) => Err(Refusal::Invalid(text)),
        };
        match key {
            b"errors" => {
                self.errors = match value {
                    Some(b"remount-ro") => ErrorPolicy::RemountReadOnly,
                    Some(b"continue") => ErrorPolicy::Continue,
                    Some(b"panic") => ErrorPolicy::Panic,
                    _ => {
                        return Err(Refusal::Invalid(
                            "errors= takes remount-ro, continue or panic",
                        ))
                    }
                }
            }
            b"commit" => {
                self.commit_secs = value
                    .and_then(|v| core::str::from_utf8(v).ok())
                    .and_then(|v| v.parse().ok())
                    .filter(|secs| (1..=COMMIT_SECS_MAX).contains(secs))
                    .ok_or(Refusal::Invalid("commit= takes 1 to 3600 seconds"))?;
            }
            b"discard" => {
                flag("discard takes no value")?;
                self.discard = true;
            }
            b"nodiscard" => {
                flag("nodiscard takes no value")?;
                self.discard = false;
            }
            b"norecovery" | b"noload" => {
                flag("norecovery takes no value")?;
                self.no_recovery = true;
            }
            b"usrquota" | b"uquota" | b"quota" => {
                flag("usrquota takes no value")?;
                self.quota |= QuotaType::User.bit();
            }
            b"grpquota" | b"gquota" => {
                flag("grpquota takes no value")?;
                self.quota |= QuotaType::Group.bit();
            }
            b"prjquota" | b"pquota" => {
                flag("prjquota takes no value")?;
                self.quota |= QuotaType::Project.bit();
            }
            b"noquota" => {
                flag("noquota takes no value")?;
                self.quota = 0;
            }
            _ => return Err(Refusal::Unknown),
        }
        Ok(())
    }

    /// For the engine.
    pub(super) fn engine(&self, read_only: bool, cache_bytes: usize) -> MountOptions {
        MountOptions {
            read_only,
            no_recovery: self.no_recovery,
            commit_secs: self.commit_secs,
            discard: self.discard,
            cache_bytes,
            errors: self.errors,
            quota: self.quota != 0,
            journal_prefix: false,
        }
    }

    /// The value of `errors=`.
    pub(super) fn errors_name(&self) -> &'static core::ffi::CStr {
        match self.errors {
            ErrorPolicy::RemountReadOnly => c"remount-ro",
            ErrorPolicy::Continue => c"continue",
            ErrorPolicy::Panic => c"panic",
        }
    }
}
