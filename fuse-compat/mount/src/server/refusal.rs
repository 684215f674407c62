// SPDX-License-Identifier: GPL-2.0-only
//! Why a request is answered with an error number.

use crate::wire::request::Malformed;
use aegisfs_engine::Error;
use std::fmt;

/// An error number for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(i32);

/// Result of answering a request.
pub type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub const NOT_PERMITTED: Self = Self(libc::EPERM);
    pub const INVALID: Self = Self(libc::EINVAL);
    pub const UNSUPPORTED: Self = Self(libc::EOPNOTSUPP);
    pub const NOT_A_TERMINAL: Self = Self(libc::ENOTTY);
    pub const BEYOND_END: Self = Self(libc::ENXIO);
    pub const NOT_FOUND: Self = Self(libc::ENOENT);

    pub const RANGE: Self = Self(libc::ERANGE);
    pub const UNKNOWN_REQUEST: Self = Self(libc::ENOSYS);

    /// The number, positive.
    pub fn errno(self) -> i32 {
        self.0
    }

    /// The name does not exist.
    pub fn is_not_found(self) -> bool {
        self == Self::NOT_FOUND
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Self(e.errno())
    }
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Self {
        Self::INVALID
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}
