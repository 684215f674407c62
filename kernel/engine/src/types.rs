// SPDX-License-Identifier: GPL-2.0-only
//! What the facade takes and gives: plain values, no borrowed state.

mod health;

use aegisfs_platform::Vec;

pub use health::{
    BadBlock, BadCause, DeviceEvent, DeviceStats, ScrubDamage, ScrubState, ScrubStatus,
};

/// Bytes in a data block, the unit of allocation and of data checksums.
pub const BLOCK_SIZE: usize = 4096;
/// log2 of [`BLOCK_SIZE`].
pub const BLOCK_SHIFT: u32 = 12;
/// Inode number of the root directory of a subvolume.
pub const ROOT_INO: u64 = 1;
/// Inode numbers from here on are never given out.
pub const INO_END: u64 = 1 << 60;
/// Longest file name, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest symbolic link target, in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Largest file, in bytes: 2^63 - 1 rounded down to whole blocks.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64 & !(BLOCK_SIZE as u64 - 1);
/// Most hard links of one inode.
pub const LINK_MAX: u32 = 65_000;

/// A point in time: seconds since 1970 and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z, negative before.
    pub sec: i64,
    /// Nanoseconds, 0..10^9.
    pub nsec: u32,
}

impl Time {
    /// The host's clock now.
    #[must_use]
    pub fn now() -> Self {
        let (sec, nsec) = aegisfs_platform::now();
        Self { sec, nsec }
    }
}

/// `S_IFMT`: the bits of a mode that give the type of file.
pub const MODE_TYPE: u32 = 0o170_000;
/// `S_IFDIR`.
pub const MODE_DIR: u32 = 0o040_000;
/// `S_IFREG`.
pub const MODE_FILE: u32 = 0o100_000;
/// `S_IFLNK`.
pub const MODE_SYMLINK: u32 = 0o120_000;
/// `S_IFBLK`.
pub const MODE_BLOCK: u32 = 0o060_000;
/// `S_IFCHR`.
pub const MODE_CHAR: u32 = 0o020_000;
/// `S_IFIFO`.
pub const MODE_FIFO: u32 = 0o010_000;
/// `S_IFSOCK`.
pub const MODE_SOCKET: u32 = 0o140_000;

/// Type of file as in `d_type` of a directory entry: the type bits of the mode shifted down by 12.
#[must_use]
pub const fn file_type(mode: u32) -> u8 {
    ((mode & MODE_TYPE) >> 12) as u8
}

/// `FS_*_FL` flags of inodes.
pub mod flag {
    /// Changes are durable when the call returns.
    pub const SYNC: u32 = 0x8;
    /// Nothing can be changed.
    pub const IMMUTABLE: u32 = 0x10;
    /// Content and entries can only be added.
    pub const APPEND: u32 = 0x20;
    /// Backups leave it out.
    pub const NODUMP: u32 = 0x40;
    /// Reading does not set the access time.
    pub const NOATIME: u32 = 0x80;
    /// Directories: as [`SYNC`], for the entries.
    pub const DIRSYNC: u32 = 0x1_0000;
    /// Directories: what is made in it belongs to its project, and nothing of another comes in.
    pub const PROJECT_INHERIT: u32 = 0x2000_0000;
    /// Those that only directories have.
    pub const OF_DIRECTORIES: u32 = DIRSYNC | PROJECT_INHERIT;
    /// Those that can be set; others are refused, so that nobody relies on what does not happen.
    pub const SETTABLE: u32 = SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME | OF_DIRECTORIES;
    /// Those that new files and directories take from their directory.
    pub const INHERITED: u32 = SYNC | NODUMP | NOATIME | OF_DIRECTORIES;
}

/// Everything `stat` shows, and some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names (directories: 2 + subdirectories).
    pub nlink: u32,
    /// Device number of special files: `major << 32 | minor`.
    pub rdev: u64,
    /// Size in bytes. Directories: a number that grows with the entries.
    pub size: u64,
    /// Allocated data, in blocks of 4096 bytes (without metadata).
    pub blocks: u64,
    /// Last read.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
    /// `FS_*_FL` inode flags (immutable, append-only, nodump, ...).
    pub flags: u32,
    /// Project of the project quota.
    pub project: u32,
    /// Tells apart successive inodes of one number (file handles).
    pub generation: u32,
    /// Grows with every change: the change cookie.
    pub version: u64,
    /// Directories: the parent directory. Others: the directory of the first name.
    pub parent: u64,
    /// Number of entries of a directory, without `.` and `..`.
    pub entries: u64,
    /// The content is stored inline in the inode's records.
    pub inline: bool,
    /// The inode has extended attributes.
    pub has_xattrs: bool,
}

impl Attr {
    /// Whose quota it counts for.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        Owner {
            uid: self.uid,
            gid: self.gid,
            project: self.project,
        }
    }

    /// Project of what is made in this directory, unless its maker says otherwise.
    #[must_use]
    pub const fn project_of_new(&self) -> u32 {
        if self.flags & flag::PROJECT_INHERIT != 0 {
            self.project
        } else {
            0
        }
    }

    /// What it counts for a quota of space, in bytes.
    #[must_use]
    pub fn space(&self) -> u64 {
        self.sectors().saturating_mul(512)
    }

    /// What `st_blocks` shows, in units of 512 bytes. Inline content takes up no block, but a file
    /// that seems to have none at all is taken for one large hole by tar and others, which then do
    /// not read it.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        let allocated = self.blocks.saturating_mul(BLOCK_SIZE as u64 / 512);
        if self.inline && self.mode & MODE_TYPE == MODE_FILE {
            allocated.max(self.size.div_ceil(512))
        } else {
            allocated
        }
    }
}

/// What an operation on one name left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// What has, or had, the name.
    pub attr: Attr,
    /// Its directory.
    pub dir: Attr,
}

/// What a rename left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The directory of the old name.
    pub from: Attr,
    /// The directory of the new name, if that is another one.
    pub to: Option<Attr>,
    /// What had the old name.
    pub moved: Attr,
    /// What had the new name, if it was not the same.
    pub target: Option<Attr>,
}

/// Attributes to change; `None` leaves as is. `ctime` is set to now unless given.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits; the type bits are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last read.
    pub atime: Option<Time>,
    /// Last change of the content.
    pub mtime: Option<Time>,
    /// Last change of anything.
    pub ctime: Option<Time>,
    /// Creation.
    pub btime: Option<Time>,
    /// `FS_*_FL` inode flags (see [`flag`]).
    pub flags: Option<u32>,
    /// Project.
    pub project: Option<u32>,
    /// The change cookie, which never becomes less.
    pub version: Option<u64>,
}

/// Times and change cookie as a host has them whose own inode changes with each write. `mtime`: `None`
/// leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Last read.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Option<Time>,
    /// Last change of anything.
    pub ctime: Time,
    /// The change cookie.
    pub version: u64,
}

impl Stamp {
    /// `attr` with them.
    #[must_use]
    pub(crate) fn on(&self, attr: &Attr) -> Attr {
        Attr {
            atime: self.atime,
            mtime: self.mtime.unwrap_or(attr.mtime),
            ctime: self.ctime,
            // The engine's own may be ahead.
            version: self.version.max(attr.version),
            ..*attr
        }
    }
}

/// An extended attribute to set, whether it exists or not, or to remove if it does.
#[derive(Clone, Copy, Debug)]
pub struct XattrChange<'a> {
    /// Full name.
    pub name: &'a [u8],
    /// `None`: remove it.
    pub value: Option<&'a [u8]>,
}

/// A new inode to create.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewInode<'a> {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of special files: `major << 32 | minor`.
    pub rdev: u64,
    /// Project, unless the directory passes its own on.
    pub project: u32,
    /// Target of a symbolic link, 1 to [`SYMLINK_MAX`] bytes; empty for others.
    pub target: &'a [u8],
    /// Extended attributes to create with it: full names (`security.selinux`), values.
    pub xattrs: &'a [(&'a [u8], &'a [u8])],
}

/// One directory entry, as `readdir` hands it out.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// Type as in [`file_type`].
    pub kind: u8,
    /// Cookie of this entry: stays valid and unique while the entry lives, in (2, 2^63).
    pub cookie: u64,
    /// Cookie to go on after this entry.
    pub next: u64,
}

/// What stands in a range of a file.
#[derive(Debug)]
pub enum Mapping {
    /// Nothing: reads as zeros. Length in blocks (as far as asked for, or to the next extent).
    Hole {
        /// Blocks.
        blocks: u64,
    },
    /// The whole content is inline (only ever at block 0, one block long).
    Inline,
    /// Space allocated, never written: reads as zeros.
    Unwritten {
        /// Where.
        at: Location,
        /// Blocks.
        blocks: u64,
    },
    /// Data.
    Data {
        /// Where the first replica stands.
        at: Location,
        /// Blocks.
        blocks: u64,
    },
}

/// A block's place: logical (what pointers hold) and physical (what devices understand).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Logical block address: stays when the chunk moves.
    pub block: u64,
    /// Index of the device in the pool.
    pub device: u32,
    /// Byte offset on that device.
    pub offset: u64,
}

/// Space for file data, allocated and not yet part of a file. Give it back with `commit_data` or
/// `abort_data`.
#[derive(Debug)]
pub struct DataRun {
    /// Place of the first block of each replica; as many as the volume's data policy asks for.
    pub at: Vec<Location>,
    /// Length in blocks, contiguous in each replica.
    pub blocks: u32,
    /// Space that the file already owned (preallocated): aborting gives nothing back.
    pub preallocated: bool,
}

/// How a rename treats a name that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RenameMode {
    /// Replace it.
    #[default]
    Replace,
    /// Fail with `Exists` (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap the two (`RENAME_EXCHANGE`).
    Exchange,
    /// Replace it, and leave a whiteout (character device 0:0) at the source (`RENAME_WHITEOUT`).
    Whiteout {
        /// Owner of the whiteout.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// How setxattr treats an attribute that exists or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Create or replace.
    #[default]
    Any,
    /// Fail with `Exists` if it exists.
    Create,
    /// Fail with `NoData` if it does not.
    Replace,
}

/// Space and inode figures, in blocks of 4096 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Blocks that can hold data or metadata.
    pub total: u64,
    /// Free blocks, the hard reserve included.
    pub free: u64,
    /// Blocks that a user can still fill.
    pub available: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// Counters since mount, for sysfs and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Journal writes (each serves all waiters).
    pub journal_writes: u64,
    /// Operations (transactions) applied.
    pub operations: u64,
    /// Metadata nodes read from a device.
    pub nodes_read: u64,
    /// Metadata nodes written, per replica.
    pub nodes_written: u64,
    /// Copies (metadata or data) that failed verification.
    pub checksum_errors: u64,
    /// Bad copies rewritten from a good one.
    pub healed: u64,
    /// Reads or writes that a device failed.
    pub io_errors: u64,
    /// Clean nodes in the cache.
    pub cached_nodes: u64,
    /// Changed nodes that no checkpoint holds yet.
    pub dirty_nodes: u64,
}

/// What a quota is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum QuotaType {
    /// The owner of a file.
    User = 0,
    /// Its group.
    Group = 1,
    /// Its project.
    Project = 2,
}

impl QuotaType {
    /// Number of types.
    pub const COUNT: usize = 3;
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [Self::User, Self::Group, Self::Project];

    /// The type with a number, as `quotactl(2)` counts them.
    #[must_use]
    pub const fn from_number(n: u64) -> Option<Self> {
        match n {
            0 => Some(Self::User),
            1 => Some(Self::Group),
            2 => Some(Self::Project),
            _ => None,
        }
    }

    /// The bit that stands for it in a [`QuotaTypes`].
    #[must_use]
    pub const fn bit(self) -> QuotaTypes {
        1 << self as u8
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Project => "project",
        }
    }
}

/// A set of [`QuotaType`]s, one bit each.
pub type QuotaTypes = u8;

/// Usage and limits of a user, group or project. A limit of 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes in use, as `st_blocks` counts them.
    pub space: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Bytes that are never exceeded.
    pub space_hard: u64,
    /// Bytes that are exceeded for a time.
    pub space_soft: u64,
    /// Inodes that are never exceeded.
    pub inodes_hard: u64,
    /// Inodes that are exceeded for a time.
    pub inodes_soft: u64,
    /// When the soft limit of space becomes a hard one, in seconds since 1970; 0: it is not exceeded.
    pub space_deadline: i64,
    /// The same for inodes.
    pub inodes_deadline: i64,
}

impl Quota {
    /// Some limit is set.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        (self.space_hard | self.space_soft | self.inodes_hard | self.inodes_soft) != 0
    }
}

/// What to change of a [`Quota`]; `None` leaves as is.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // the fields are those of `Quota`
pub struct SetQuota {
    pub space_hard: Option<u64>,
    pub space_soft: Option<u64>,
    pub inodes_hard: Option<u64>,
    pub inodes_soft: Option<u64>,
    pub space_deadline: Option<i64>,
    pub inodes_deadline: Option<i64>,
}

/// For how long soft limits may be exceeded, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// Space.
    pub space: u32,
    /// Inodes.
    pub inodes: u32,
}

impl Default for Grace {
    fn default() -> Self {
        const WEEK: u32 = 7 * 24 * 3600;
        Self {
            space: WEEK,
            inodes: WEEK,
        }
    }
}

/// Whose quota an inode counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Project.
    pub project: u32,
}

impl Owner {
    /// The identifier that no user, group or project has: to `chown(2)` it means "leave as it is".
    pub const NOBODY: u32 = u32::MAX;

    /// The identifier of one type.
    #[must_use]
    pub const fn id(&self, of: QuotaType) -> u32 {
        match of {
            QuotaType::User => self.uid,
            QuotaType::Group => self.gid,
            QuotaType::Project => self.project,
        }
    }

    /// The types for which two owners differ.
    #[must_use]
    pub fn differs(&self, other: &Self) -> QuotaTypes {
        let differ = QuotaType::ALL
            .into_iter()
            .filter(|t| self.id(*t) != other.id(*t));
        differ.fold(0, |set, t| set | t.bit())
    }
}

/// State of quota on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaState {
    /// Usage is counted.
    pub counted: bool,
    /// Types whose limits are enforced.
    pub enforced: QuotaTypes,
    /// Grace times by type.
    pub grace: [Grace; QuotaType::COUNT],
    /// Quotas in memory.
    pub cached: u32,
}

/// What the host does on an error that the volume cannot go on from with certainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ErrorPolicy {
    /// Become read-only.
    #[default]
    RemountReadOnly,
    /// Go on; the failing operation returns an error.
    Continue,
    /// Panic the machine (the host does it; the engine only reports).
    Panic,
}

/// Options of a mount.
#[derive(Clone, Copy, Debug)]
pub struct MountOptions {
    /// No change at all reaches the device, journal replay included (it is replayed in memory).
    pub read_only: bool,
    /// Ignore the journal: the state of the last checkpoint (needs `read_only`).
    pub no_recovery: bool,
    /// A journal that is damaged before its end is replayed up to the damage, and what follows is given up;
    /// so is what a superblock held that is damaged in both copies. Operations that were durable are lost.
    pub journal_prefix: bool,
    /// Seconds after which changes are durable without a sync.
    pub commit_secs: u32,
    /// Tell the device about freed space after each checkpoint.
    pub discard: bool,
    /// Bytes of clean metadata to keep in memory at most.
    pub cache_bytes: usize,
    /// What to do on errors.
    pub errors: ErrorPolicy,
    /// Count usage from now on, if the volume does not do so yet.
    pub quota: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            no_recovery: false,
            journal_prefix: false,
            commit_secs: 5,
            discard: false,
            cache_bytes: 64 << 20,
            errors: ErrorPolicy::default(),
            quota: false,
        }
    }
}

/// Options of mkfs.
#[derive(Debug)]
pub struct FormatOptions {
    /// Volume label, at most 63 bytes of UTF-8.
    pub label: Vec<u8>,
    /// Pool UUID.
    pub uuid: [u8; 16],
    /// Bytes in a metadata node: a power of two, 4096 to 65536.
    pub node_size: u32,
    /// Replicas of metadata (1 or 2).
    pub metadata_replicas: u8,
    /// Replicas of data (1 or 2).
    pub data_replicas: u8,
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
    /// Count usage for quota.
    pub quota: bool,
    /// Blocks of the device that are known to be bad.
    pub bad_blocks: Vec<u64>,
}

/// Identity and geometry of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Pool UUID.
    pub uuid: [u8; 16],
    /// Label, padded with zeros.
    pub label: [u8; 64],
    /// Number of the last checkpoint.
    pub generation: u64,
    /// Bytes of a metadata node.
    pub node_size: u32,
    /// Blocks of a chunk.
    pub chunk_blocks: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// Bytes of the device that the volume uses.
    pub device_size: u64,
    /// Blocks of the journal.
    pub journal_blocks: u32,
    /// Replicas of metadata.
    pub metadata_replicas: u8,
    /// Replicas of data.
    pub data_replicas: u8,
    /// Number of writable mounts.
    pub mounts: u64,
    /// Creation, in seconds since 1970.
    pub created: u64,
    /// Feature bits: compatible, read-only compatible, incompatible.
    pub features: [u64; 3],
}
