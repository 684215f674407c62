// SPDX-License-Identifier: GPL-2.0-only
//! Everything that a check can find, as values: one variant for each invariant of the format.
//!
//! A problem says what is wrong with which object, how bad that is, and whether redundancy proves
//! what is right. Its code never changes: scripts rely on it. Each variant has a test that makes
//! exactly this damage (`tests/`).

use crate::format::key::{Key, Pointer};
use crate::format::node::NodeFault;
use crate::format::superblock::SuperFault;
use crate::types::{Owner, QuotaType, NAME_MAX};
use core::fmt;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// What a crash leaves behind and the next mount cleans up; not counted as damage.
    Note,
    /// Redundancy, space or a counter suffers; everything can be read.
    Warning,
    /// Something cannot be read, or will be overwritten.
    Error,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// When a repair has its turn: later ones build on earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The journal is replayed up to where it is damaged, from the superblock that is left: a mount with
    /// [`journal_prefix`](crate::MountOptions::journal_prefix) does that, and then all is checked anew.
    Journal,
    /// Bad copies are rewritten from good ones.
    Copies,
    /// Free-space maps take in what is in use, before anything is allocated.
    Space,
    /// Unreadable nodes are cut out; everything after that needs a new check.
    Cut,
    /// Counts of shared blocks, before anything is dropped.
    Shared,
    /// Inodes that are missing are made anew.
    Inodes,
    /// Names.
    Names,
    /// Counters and flags of inodes.
    Counters,
}

/// A file name, held in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    len: u8,
    bytes: [u8; NAME_MAX],
}

impl Name {
    /// From bytes, of which at most 255 are taken.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; NAME_MAX];
        crate::format::bytes::copy(&mut bytes, name);
        Self {
            len: name.len().min(NAME_MAX) as u8,
            bytes,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match core::str::from_utf8(self.as_bytes()) {
            Ok(s) if !s.chars().any(char::is_control) => f.write_str(s),
            _ => write!(f, "{}", self.as_bytes().escape_ascii()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What is wrong with one copy of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperCopyFault {
    /// The device cannot read it.
    Unreadable,
    /// It is no valid superblock.
    Invalid(SuperFault),
    /// It is valid, but not what the other copies say.
    Differs,
}

impl fmt::Display for SuperCopyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("cannot be read"),
            Self::Invalid(SuperFault::Magic) => f.write_str("has a wrong magic number"),
            Self::Invalid(SuperFault::Checksum) => f.write_str("has a wrong checksum"),
            Self::Invalid(SuperFault::Geometry) => f.write_str("has values that cannot be"),
            Self::Invalid(SuperFault::Version(v)) => write!(f, "has the unknown version {v}"),
            Self::Differs => f.write_str("differs from its twin"),
        }
    }
}

/// What is wrong with one copy of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeCopyFault {
    /// The device cannot read it.
    Unreadable,
    /// The address lies outside of all chunks.
    Outside,
    /// The bytes are not those of the node.
    Invalid(NodeFault),
}

impl fmt::Display for NodeCopyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "cannot be read",
            Self::Outside => "lies outside of all chunks",
            Self::Invalid(fault) => fault.as_str(),
        })
    }
}

/// Something that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields' names say what they are, `Display` puts them into words
pub enum Problem {
    /// One of the four copies of the superblock is bad. `clean`: no crash explains it.
    SuperblockCopy {
        offset: u64,
        fault: SuperCopyFault,
        clean: bool,
    },
    /// Both copies of one of the two superblocks are bad: it may have been the newer one.
    SuperblockPair { offset: u64 },
    /// No copy of the superblock is usable.
    SuperblockLost,
    /// The volume has features that this version does not know.
    UnknownFeatures {
        compat: u64,
        ro_compat: u64,
        incompat: u64,
    },
    /// The device is shorter than the volume.
    DeviceShort { device: u64, volume: u64 },
    /// A copy of a page of the chunk table is bad.
    TableCopy { copy: u8, page: u32, offset: u64 },
    /// A page of the chunk table has no good copy.
    TableLost { page: u32 },
    /// The pages of the chunk table are not those of the superblock's checkpoint.
    TableStale,
    /// An entry of the chunk table holds values that cannot be.
    ChunkInvalid { chunk: u32 },
    /// Two chunks stand at the same place.
    ChunkOverlap { chunk: u32, other: u32 },
    /// The journal is damaged before its end.
    JournalDamaged { sequence: u64 },
    /// The free-space map of a chunk is unreadable or not the one that the table names.
    BitmapBad { chunk: u32 },
    /// The chunk table's count of free blocks is not that of the map.
    FreeCount {
        chunk: u32,
        found: u32,
        counted: u32,
    },
    /// Blocks are marked as used, and nothing uses them.
    BlocksLeaked { block: u64, blocks: u32 },
    /// Blocks are in use and marked as free: they would be overwritten.
    BlocksUnmarked { block: u64, blocks: u32 },
    /// The superblock's count of free blocks is not that of the chunk table.
    FreeTotal { found: u64, counted: u64 },
    /// One copy of a node is bad, another is good.
    NodeCopy {
        tree: u64,
        level: u8,
        pointer: Pointer,
        block: u64,
        fault: NodeCopyFault,
    },
    /// No copy of a node is good: all records from key to key are lost.
    NodeLost {
        tree: u64,
        level: u8,
        block: u64,
        fault: NodeCopyFault,
        from: Key,
        to: Key,
    },
    /// A node holds keys that do not belong under the slot that leads to it.
    NodeBounds { tree: u64, level: u8, block: u64 },
    /// A node is younger than its parent, or than the volume.
    NodeBirth {
        tree: u64,
        level: u8,
        block: u64,
        birth: u64,
    },
    /// Blocks are used twice.
    BlocksShared {
        block: u64,
        blocks: u32,
        tree: u64,
        object: u64,
    },
    /// A record of shared blocks cannot be decoded, or overlaps another.
    SharedRecord { key: Key },
    /// The number of references to blocks is not the one that their record says.
    SharedCount {
        block: u64,
        blocks: u64,
        found: u32,
        counted: u32,
    },
    /// A record of shared blocks that no extent leads to.
    SharedUnused { block: u64, blocks: u64 },
    /// An extent does not know that its blocks may be shared: dropping it would free them.
    SharedFlag { ino: u64, block: u64 },
    /// A record cannot be decoded.
    RecordInvalid { tree: u64, key: Key },
    /// A record stands where no record of its kind can.
    RecordUnknown { tree: u64, key: Key },
    /// A record of quota cannot be decoded.
    QuotaRecord { key: Key },
    /// A record of the scrub job or of counters of devices cannot be decoded.
    HealthRecord { key: Key },
    /// A record of a bad block cannot be decoded.
    BadBlockRecord { key: Key },
    /// A block is listed as bad that nothing could be put on.
    BadBlockPlace { key: Key },
    /// Usage of an identifier is wrong: found, counted.
    QuotaUsage {
        of: QuotaType,
        id: u32,
        space: (u64, u64),
        inodes: (u64, u64),
    },
    /// The volume's number of inodes is wrong.
    InodeCount { found: u64, counted: u64 },
    /// The next inode number would be given a second time.
    NextInode { found: u64, needed: u64 },
    /// There are records of an inode, and no inode. `kind`: what its records say it was.
    InodeMissing { ino: u64, kind: u8 },
    /// An inode has no known type.
    InodeMode { ino: u64, mode: u32 },
    /// An inode belongs to [`Owner::NOBODY`]: the VFS lets nobody in, root included.
    InodeOwner { ino: u64, owner: Owner },
    /// The number of names is wrong.
    LinkCount { ino: u64, found: u32, counted: u32 },
    /// The number of allocated blocks is wrong.
    BlockCount { ino: u64, found: u64, counted: u64 },
    /// A file has data behind its end.
    DataBeyondEnd { ino: u64, size: u64, end: u64 },
    /// Inline content is not as long as the file.
    InlineContent { ino: u64, size: u64, found: u64 },
    /// The inode does not say what kind of content it has.
    InlineFlag { ino: u64, found: bool },
    /// Two extents of a file overlap.
    ExtentOverlap { ino: u64, block: u64 },
    /// An extent leads outside of all chunks.
    ExtentAddress { ino: u64, block: u64, addr: u64 },
    /// An extent is younger than the volume.
    ExtentBirth { ino: u64, block: u64, birth: u64 },
    /// An attribute stands under a cookie that is not its name's.
    XattrCookie { ino: u64, cookie: u64, name: Name },
    /// The value of an attribute is incomplete.
    XattrBody {
        ino: u64,
        cookie: u64,
        body: u32,
        found: u64,
        len: u32,
    },
    /// A value belongs to no attribute.
    XattrBodyUnused { ino: u64, body: u32 },
    /// The inode does not know of its attributes.
    XattrFlag { ino: u64 },
    /// A name stands under a cookie that is not its own: lookups miss it.
    EntryCookie { dir: u64, cookie: u64, name: Name },
    /// A directory has a name twice.
    EntryDuplicate { dir: u64, cookie: u64, name: Name },
    /// A name leads to an inode that does not exist.
    EntryDangling {
        dir: u64,
        cookie: u64,
        ino: u64,
        name: Name,
    },
    /// A name says another type than the inode.
    EntryKind {
        dir: u64,
        cookie: u64,
        ino: u64,
        found: u8,
        expected: u8,
        name: Name,
    },
    /// A directory has a second name.
    DirectoryLinked {
        dir: u64,
        cookie: u64,
        ino: u64,
        name: Name,
    },
    /// A directory's number of entries is wrong.
    DirectoryEntries { ino: u64, found: u64, counted: u64 },
    /// A directory's size is wrong.
    DirectorySize { ino: u64, found: u64, counted: u64 },
    /// A directory does not know which directory it is in.
    DirectoryParent { ino: u64, found: u64, expected: u64 },
    /// An inode has no name that leads to it from the root.
    Unreachable { ino: u64, kind: u8 },
    /// A directory is, further down, in itself.
    DirectoryLoop { ino: u64, dir: u64 },
    /// A record of an unfinished deletion that there is no reason for.
    OrphanUseless { ino: u64 },
    /// An inode whose deletion, truncation or move a crash interrupted; the next mount finishes it.
    Unfinished { ino: u64 },
    /// One copy of a block of data is bad, another is good.
    DataCopy { ino: u64, block: u64, addr: u64 },
    /// No copy of a block of data is good.
    DataLost { ino: u64, block: u64, addr: u64 },
}

/// What a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Object {
    Volume,
    Superblock { offset: u64 },
    ChunkTable,
    Chunk { chunk: u32 },
    Journal,
    Blocks { block: u64 },
    Node { tree: u64, block: u64 },
    Tree { tree: u64 },
    Inode { ino: u64 },
    Quota { of: QuotaType, id: u32 },
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume => f.write_str("volume"),
            Self::Superblock { offset } => write!(f, "superblock at byte {offset}"),
            Self::ChunkTable => f.write_str("chunk table"),
            Self::Chunk { chunk } => write!(f, "chunk {chunk}"),
            Self::Journal => f.write_str("journal"),
            Self::Blocks { block } => write!(f, "block {block}"),
            Self::Node { tree, block } => write!(f, "tree {tree}, node at block {block}"),
            Self::Tree { tree } => write!(f, "tree {tree}"),
            Self::Inode { ino } => write!(f, "inode {ino}"),
            Self::Quota { of, id } => write!(f, "quota of {} {id}", of.as_str()),
        }
    }
}
