// SPDX-License-Identifier: GPL-2.0-only
//! The engine's errors, and the one place that maps them to errno.

use aegisfs_platform::AllocError;

/// Why an operation was refused or failed. Nothing was changed, unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No such name, inode or attribute of a volume.
    NotFound,
    /// The name is taken.
    Exists,
    /// A directory was needed.
    NotDirectory,
    /// A directory was not expected.
    IsDirectory,
    /// The directory still has entries.
    NotEmpty,
    /// The volume is full: the worst case of the operation does not fit.
    NoSpace,
    /// A limit of the owner's quota is reached.
    Quota,
    /// Memory was not to be had.
    NoMemory,
    /// A name, target or attribute is longer than the format allows.
    NameTooLong,
    /// Arguments that make no sense.
    Invalid,
    /// The volume, or the mount, is read-only.
    ReadOnly,
    /// The device failed.
    Io,
    /// Bytes failed verification and no good copy exists. The log names the place.
    Corrupt,
    /// The directory takes only what belongs to its project.
    OtherProject,
    /// The hard link limit of the inode is reached.
    TooManyLinks,
    /// The caller's buffer is too small.
    Range,
    /// No such extended attribute.
    NoData,
    /// Past the largest file that the format can hold.
    FileTooBig,
    /// The inode number names an inode that does not exist any more.
    Stale,
    /// The volume uses features, or the caller asks for an operation, that this version lacks.
    Unsupported,
    /// The object is in use.
    Busy,
    /// Not an AegisFS volume.
    NotAegis,
    /// The volume was shut down after an error that it cannot go on from.
    Shutdown,
}

/// Result of an engine call.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl Error {
    /// The Linux errno, positive.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => 2,
            Self::Io | Self::Shutdown => 5,
            Self::NoMemory => 12,
            Self::Busy => 16,
            Self::Exists => 17,
            // EXDEV: programs then copy, and the copy belongs to the right project.
            Self::OtherProject => 18,
            Self::NotDirectory => 20,
            Self::IsDirectory => 21,
            Self::Invalid | Self::NotAegis => 22,
            Self::FileTooBig => 27,
            Self::NoSpace => 28,
            Self::ReadOnly => 30,
            Self::TooManyLinks => 31,
            Self::Range => 34,
            Self::NameTooLong => 36,
            Self::NotEmpty => 39,
            Self::NoData => 61,
            Self::Unsupported => 95,
            Self::Stale => 116,
            Self::Corrupt => 117,
            Self::Quota => 122,
        }
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such object",
            Self::Exists => "the name exists already",
            Self::NotDirectory => "not a directory",
            Self::IsDirectory => "is a directory",
            Self::NotEmpty => "the directory is not empty",
            Self::NoSpace => "no space left on the volume",
            Self::Quota => "a quota limit is reached",
            Self::NoMemory => "out of memory",
            Self::NameTooLong => "name too long",
            Self::Invalid => "invalid argument",
            Self::ReadOnly => "the volume is read-only",
            Self::Io => "input/output error of the device",
            Self::Corrupt => "the volume is damaged there and holds no good copy",
            Self::OtherProject => "the directory is of another project",
            Self::TooManyLinks => "too many links",
            Self::Range => "the buffer is too small",
            Self::NoData => "no such attribute",
            Self::FileTooBig => "file too large",
            Self::Stale => "the inode is gone",
            Self::Unsupported => "not supported by this version",
            Self::Busy => "busy",
            Self::NotAegis => "not an AegisFS volume",
            Self::Shutdown => "the volume was shut down after an error",
        })
    }
}

impl core::error::Error for Error {}

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}
