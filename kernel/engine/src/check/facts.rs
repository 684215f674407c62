// SPDX-License-Identifier: GPL-2.0-only
//! What is known of each kind of problem: code, severity, stage of its repair, object, words.

use super::problem::{Object, Problem, Severity, Stage};
use crate::format::key::POOL_TREE;
use crate::format::superblock::INCOMPAT_UNDO;
use crate::types::Owner;
use core::fmt;

use Severity::{Error, Note, Warning};

impl Problem {
    /// Code, severity, and when it is repaired, if it can be.
    #[allow(clippy::too_many_lines)] // a table
    const fn facts(&self) -> (&'static str, Severity, Option<Stage>) {
        use Stage::{Copies, Counters, Cut, Inodes, Names, Shared, Space};
        match self {
            Self::SuperblockCopy { clean: false, .. } => {
                ("superblock-copy-bad", Note, Some(Copies))
            }
            Self::SuperblockCopy { .. } => ("superblock-copy-bad", Warning, Some(Copies)),
            Self::SuperblockPair { .. } => ("superblock-pair-bad", Error, Some(Stage::Journal)),
            Self::SuperblockLost => ("superblock-lost", Error, None),
            Self::UnknownFeatures { .. } => ("unknown-features", Error, None),
            Self::DeviceShort { .. } => ("device-too-short", Error, None),
            Self::TableCopy { .. } => ("chunk-table-copy-bad", Warning, Some(Copies)),
            Self::TableLost { .. } => ("chunk-table-lost", Error, None),
            Self::TableStale => ("chunk-table-stale", Error, None),
            Self::ChunkInvalid { .. } => ("chunk-invalid", Error, None),
            Self::ChunkOverlap { .. } => ("chunk-overlap", Error, None),
            Self::JournalDamaged { .. } => ("journal-damaged", Error, Some(Stage::Journal)),
            Self::BitmapBad { .. } => ("free-map-bad", Error, Some(Space)),
            Self::FreeCount { .. } => ("free-count-chunk", Error, Some(Space)),
            Self::BlocksLeaked { .. } => ("blocks-leaked", Warning, Some(Space)),
            Self::BlocksUnmarked { .. } => ("blocks-unmarked", Error, Some(Space)),
            Self::FreeTotal { .. } => ("free-count-total", Warning, Some(Space)),
            Self::NodeCopy { .. } => ("node-copy-bad", Warning, Some(Copies)),
            Self::NodeLost { .. } => ("node-lost", Error, Some(Cut)),
            Self::NodeBounds { .. } => ("node-bounds", Error, None),
            Self::NodeBirth { .. } => ("node-birth", Error, None),
            Self::BlocksShared { .. } => ("blocks-shared", Error, None),
            Self::SharedRecord { .. } => ("shared-record", Error, Some(Shared)),
            // Too high a count only keeps space from being freed.
            Self::SharedCount { found, counted, .. } if *found > *counted => {
                ("shared-count", Warning, Some(Shared))
            }
            Self::SharedCount { .. } => ("shared-count", Error, Some(Shared)),
            Self::SharedUnused { .. } => ("shared-unused", Warning, Some(Shared)),
            Self::SharedFlag { .. } => ("shared-flag", Error, Some(Shared)),
            Self::RecordInvalid { .. } => ("record-invalid", Error, None),
            Self::RecordUnknown { .. } => ("record-unknown", Error, None),
            Self::QuotaRecord { .. } => ("quota-record", Error, Some(Counters)),
            Self::HealthRecord { .. } => ("health-record", Warning, Some(Counters)),
            Self::BadBlockRecord { .. } => ("bad-block-record", Warning, Some(Counters)),
            Self::BadBlockPlace { .. } => ("bad-block-place", Warning, Some(Counters)),
            Self::QuotaUsage { .. } => ("quota-usage", Warning, Some(Counters)),
            Self::InodeCount { .. } => ("inode-count", Warning, Some(Counters)),
            Self::NextInode { .. } => ("next-inode", Error, Some(Inodes)),
            Self::InodeMissing { .. } => ("inode-missing", Error, Some(Inodes)),
            Self::InodeMode { .. } => ("inode-mode", Error, None),
            Self::InodeOwner { .. } => ("inode-owner", Error, Some(Counters)),
            Self::LinkCount { .. } => ("link-count", Warning, Some(Counters)),
            Self::BlockCount { .. } => ("block-count", Warning, Some(Counters)),
            Self::DataBeyondEnd { .. } => ("data-beyond-end", Warning, Some(Counters)),
            Self::InlineContent { .. } => ("inline-content", Error, Some(Counters)),
            Self::InlineFlag { .. } => ("inline-flag", Error, Some(Counters)),
            Self::ExtentOverlap { .. } => ("extent-overlap", Error, None),
            Self::ExtentAddress { .. } => ("extent-address", Error, None),
            Self::ExtentBirth { .. } => ("extent-birth", Warning, Some(Counters)),
            Self::XattrCookie { .. } => ("xattr-cookie", Error, Some(Names)),
            Self::XattrBody { .. } => ("xattr-body", Error, Some(Names)),
            Self::XattrBodyUnused { .. } => ("xattr-body-unused", Warning, Some(Names)),
            Self::XattrFlag { .. } => ("xattr-flag", Error, Some(Counters)),
            Self::EntryCookie { .. } => ("entry-cookie", Error, Some(Names)),
            Self::EntryDuplicate { .. } => ("entry-duplicate", Error, Some(Names)),
            Self::EntryDangling { .. } => ("entry-dangling", Error, Some(Names)),
            Self::EntryKind { .. } => ("entry-kind", Warning, Some(Names)),
            Self::DirectoryLinked { .. } => ("directory-linked", Error, Some(Names)),
            Self::DirectoryEntries { .. } => ("directory-entries", Warning, Some(Counters)),
            Self::DirectorySize { .. } => ("directory-size", Warning, Some(Counters)),
            Self::DirectoryParent { .. } => ("directory-parent", Warning, Some(Counters)),
            Self::Unreachable { .. } => ("unreachable", Error, Some(Names)),
            Self::DirectoryLoop { .. } => ("directory-loop", Error, Some(Names)),
            Self::OrphanUseless { .. } => ("orphan-useless", Warning, Some(Names)),
            Self::Unfinished { .. } => ("unfinished-deletion", Note, Some(Counters)),
            Self::DataCopy { .. } => ("data-copy-bad", Warning, Some(Copies)),
            Self::DataLost { .. } => ("data-lost", Error, None),
        }
    }

    /// The problem's name for scripts: never changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.facts().0
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.facts().1
    }

    /// When it is repaired; `None`: nothing proves what would be right.
    #[must_use]
    pub const fn stage(&self) -> Option<Stage> {
        self.facts().2
    }

    /// Repairing it gives up something that cannot be restored.
    #[must_use]
    pub const fn loses_data(&self) -> bool {
        matches!(
            self,
            Self::NodeLost { .. }
                | Self::XattrBody { .. }
                | Self::XattrBodyUnused { .. }
                | Self::EntryDangling { .. }
                | Self::InlineContent { .. }
                | Self::QuotaRecord { .. }
                | Self::JournalDamaged { .. }
                | Self::SuperblockPair { .. }
        )
    }

    /// What it is about.
    #[must_use]
    pub const fn object(&self) -> Object {
        match *self {
            Self::SuperblockCopy { offset, .. } | Self::SuperblockPair { offset } => {
                Object::Superblock { offset }
            }
            Self::SuperblockLost
            | Self::UnknownFeatures { .. }
            | Self::DeviceShort { .. }
            | Self::FreeTotal { .. }
            | Self::InodeCount { .. }
            | Self::NextInode { .. } => Object::Volume,
            Self::QuotaRecord { .. }
            | Self::HealthRecord { .. }
            | Self::BadBlockRecord { .. }
            | Self::BadBlockPlace { .. } => Object::Tree { tree: POOL_TREE },
            Self::QuotaUsage { of, id, .. } => Object::Quota { of, id },
            Self::TableCopy { .. } | Self::TableLost { .. } | Self::TableStale => {
                Object::ChunkTable
            }
            Self::ChunkInvalid { chunk }
            | Self::ChunkOverlap { chunk, .. }
            | Self::BitmapBad { chunk }
            | Self::FreeCount { chunk, .. } => Object::Chunk { chunk },
            Self::JournalDamaged { .. } => Object::Journal,
            Self::BlocksLeaked { block, .. }
            | Self::BlocksUnmarked { block, .. }
            | Self::BlocksShared { block, .. }
            | Self::SharedCount { block, .. }
            | Self::SharedUnused { block, .. } => Object::Blocks { block },
            Self::SharedRecord { .. } => Object::Tree {
                tree: crate::format::key::POOL_TREE,
            },
            Self::NodeCopy { tree, block, .. }
            | Self::NodeLost { tree, block, .. }
            | Self::NodeBounds { tree, block, .. }
            | Self::NodeBirth { tree, block, .. } => Object::Node { tree, block },
            Self::RecordInvalid { tree, .. } | Self::RecordUnknown { tree, .. } => {
                Object::Tree { tree }
            }
            Self::InodeMissing { ino, .. }
            | Self::InodeMode { ino, .. }
            | Self::InodeOwner { ino, .. }
            | Self::SharedFlag { ino, .. }
            | Self::LinkCount { ino, .. }
            | Self::BlockCount { ino, .. }
            | Self::DataBeyondEnd { ino, .. }
            | Self::InlineContent { ino, .. }
            | Self::InlineFlag { ino, .. }
            | Self::ExtentOverlap { ino, .. }
            | Self::ExtentAddress { ino, .. }
            | Self::ExtentBirth { ino, .. }
            | Self::XattrCookie { ino, .. }
            | Self::XattrBody { ino, .. }
            | Self::XattrBodyUnused { ino, .. }
            | Self::XattrFlag { ino }
            | Self::DirectoryEntries { ino, .. }
            | Self::DirectorySize { ino, .. }
            | Self::DirectoryParent { ino, .. }
            | Self::Unreachable { ino, .. }
            | Self::DirectoryLoop { ino, .. }
            | Self::OrphanUseless { ino }
            | Self::Unfinished { ino }
            | Self::DataCopy { ino, .. }
            | Self::DataLost { ino, .. } => Object::Inode { ino },
            Self::EntryCookie { dir, .. }
            | Self::EntryDuplicate { dir, .. }
            | Self::EntryDangling { dir, .. }
            | Self::EntryKind { dir, .. }
            | Self::DirectoryLinked { dir, .. } => Object::Inode { ino: dir },
        }
    }
}

/// Type of file in words.
const fn kind_name(kind: u8) -> &'static str {
    match kind {
        0o04 => "directory",
        0o10 => "file",
        0o12 => "symbolic link",
        0o06 => "block device",
        0o02 => "character device",
        0o01 => "pipe",
        0o14 => "socket",
        _ => "object of unknown type",
    }
}

impl fmt::Display for Problem {
    #[allow(clippy::too_many_lines)] // a table
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SuperblockCopy { fault, .. } => write!(f, "this copy {fault}"),
            Self::SuperblockPair { .. } => f.write_str(
                "both copies of it are bad, and it may have been the newest: what only it knew can only be \
                 given up",
            ),
            Self::SuperblockLost => f.write_str("no copy of the superblock is usable"),
            Self::UnknownFeatures { incompat, .. } if incompat & INCOMPAT_UNDO != 0 => {
                f.write_str("repairs were being undone: run fsck.aegisfs --undo-apply again")
            }
            Self::UnknownFeatures {
                compat,
                ro_compat,
                incompat,
            } => write!(
                f,
                "unknown features: compatible {compat:#x}, read-only compatible {ro_compat:#x}, \
                 incompatible {incompat:#x}; use a newer version of the tools"
            ),
            Self::DeviceShort { device, volume } => {
                write!(f, "the device has {device} bytes, the volume {volume}")
            }
            Self::TableCopy { copy, page, offset } => {
                let end = if copy == 0 { "head" } else { "tail" };
                write!(f, "the {end} copy of page {page} (at byte {offset}) is bad")
            }
            Self::TableLost { page } => write!(f, "page {page} has no good copy"),
            Self::TableStale => f.write_str("its pages are not those of the last checkpoint"),
            Self::ChunkInvalid { .. } => f.write_str("its table entry holds impossible values"),
            Self::ChunkOverlap { other, .. } => {
                write!(f, "it stands at the same place as chunk {other}")
            }
            Self::JournalDamaged { sequence } => {
                write!(
                    f,
                    "entry {sequence} is damaged, though later ones are valid: what they hold was durable and \
                     can only be given up"
                )
            }
            Self::BitmapBad { .. } => f.write_str("its free-space map is damaged"),
            Self::FreeCount { found, counted, .. } => {
                write!(f, "{found} free blocks noted, {counted} in its map")
            }
            Self::BlocksLeaked { blocks, .. } => {
                write!(f, "{blocks} blocks from here on are marked as used, but nothing uses them")
            }
            Self::BlocksUnmarked { blocks, .. } => {
                write!(f, "{blocks} blocks from here on are in use, but marked as free")
            }
            Self::FreeTotal { found, counted } => {
                write!(f, "{found} free blocks noted, {counted} in the chunk table")
            }
            Self::NodeCopy { level, fault, .. } => {
                write!(f, "bad copy (level {level}): {fault}; another copy is good")
            }
            Self::NodeLost {
                level,
                fault,
                from,
                to,
                ..
            } => write!(
                f,
                "no good copy (level {level}): {fault}; records of inodes {} to {} are lost",
                from.object,
                if to.object == u64::MAX { from.object } else { to.object }
            ),
            Self::NodeBounds { level, .. } => {
                write!(f, "keys outside of its place in the tree (level {level})")
            }
            Self::NodeBirth { level, birth, .. } => {
                write!(f, "born in generation {birth}, after what leads to it (level {level})")
            }
            Self::BlocksShared {
                blocks,
                tree,
                object,
                ..
            } => write!(
                f,
                "{blocks} blocks from here on are used a second time, by inode {object} of tree {tree}"
            ),
            Self::SharedRecord { key } => write!(
                f,
                "the record of shared blocks at {} cannot be decoded or overlaps another",
                key.offset
            ),
            Self::SharedCount {
                blocks,
                found,
                counted,
                ..
            } => write!(
                f,
                "{blocks} blocks from here on: {found} references noted, {counted} found"
            ),
            Self::SharedUnused { blocks, .. } => {
                write!(f, "{blocks} blocks from here on are noted as shared, but nothing uses them")
            }
            Self::SharedFlag { block, .. } => {
                write!(f, "the extent at block {block} is shared, but not noted so")
            }
            Self::RecordInvalid { key, .. } => write!(
                f,
                "the record ({}, {}, {}) cannot be decoded",
                key.object, key.kind, key.offset
            ),
            Self::RecordUnknown { key, .. } => write!(
                f,
                "the record ({}, {}, {}) does not belong there",
                key.object, key.kind, key.offset
            ),
            Self::HealthRecord { key } => write!(
                f,
                "the record of the scrub job or of counters of a device ({}, kind {}, {}) is damaged",
                key.object, key.kind, key.offset
            ),
            Self::BadBlockRecord { key } => write!(
                f,
                "the record of bad block {} of device {} is damaged",
                key.offset, key.object
            ),
            Self::BadBlockPlace { key } => write!(
                f,
                "block {} of device {} is listed as bad, but nothing can be put there",
                key.offset, key.object
            ),
            Self::QuotaRecord { key } => write!(
                f,
                "the record ({}, {}, {}) cannot be decoded: its limits are lost",
                key.object, key.kind, key.offset
            ),
            Self::QuotaUsage { space, inodes, .. } => write!(
                f,
                "{} bytes and {} inodes noted, {} and {} found",
                space.0, inodes.0, space.1, inodes.1
            ),
            Self::InodeCount { found, counted } => {
                write!(f, "{found} inodes noted, {counted} found")
            }
            Self::NextInode { found, needed } => {
                write!(f, "the next inode number is {found}, but {needed} is the first free one")
            }
            Self::InodeMissing { kind, .. } => {
                write!(f, "the inode of a {} is missing; other records of it exist", kind_name(kind))
            }
            Self::InodeMode { mode, .. } => write!(f, "mode {mode:#o} is of no known type"),
            Self::InodeOwner { owner, .. } => write!(
                f,
                "user {}, group {}, project {}: nobody has the number {}",
                owner.uid,
                owner.gid,
                owner.project,
                Owner::NOBODY
            ),
            Self::LinkCount { found, counted, .. } => {
                write!(f, "link count {found}, but {counted} links found")
            }
            Self::BlockCount { found, counted, .. } => {
                write!(f, "{found} blocks noted, {counted} found")
            }
            Self::DataBeyondEnd { size, end, .. } => {
                write!(f, "size {size}, but data up to byte {end}")
            }
            Self::InlineContent { size, found, .. } => {
                write!(f, "size {size}, but {found} bytes of inline content")
            }
            Self::InlineFlag { found: true, .. } => {
                f.write_str("noted as inline, but its content is not")
            }
            Self::InlineFlag { found: false, .. } => {
                f.write_str("its content is inline, but not noted so")
            }
            Self::ExtentOverlap { block, .. } => {
                write!(f, "the extent at block {block} overlaps the one before")
            }
            Self::ExtentAddress { block, addr, .. } => {
                write!(f, "the extent at block {block} leads to {addr}, outside of all chunks")
            }
            Self::ExtentBirth { block, birth, .. } => {
                write!(f, "the extent at block {block} is of the future generation {birth}")
            }
            Self::XattrCookie { name, .. } => {
                write!(f, "the attribute \"{name}\" stands at the wrong place")
            }
            Self::XattrBody {
                body, found, len, ..
            } => write!(f, "an attribute's value ({body}) has {found} of {len} bytes"),
            Self::XattrBodyUnused { body, .. } => {
                write!(f, "value {body} belongs to no attribute")
            }
            Self::XattrFlag { .. } => f.write_str("it has attributes, but does not know it"),
            Self::EntryCookie { name, .. } => {
                write!(f, "the name \"{name}\" stands at the wrong place: it cannot be looked up")
            }
            Self::EntryDuplicate { name, .. } => write!(f, "the name \"{name}\" is there twice"),
            Self::EntryDangling { ino, name, .. } => {
                write!(f, "the name \"{name}\" leads to inode {ino}, which does not exist")
            }
            Self::EntryKind {
                ino,
                found,
                expected,
                name,
                ..
            } => write!(
                f,
                "the name \"{name}\" says {}, but inode {ino} is a {}",
                kind_name(found),
                kind_name(expected)
            ),
            Self::DirectoryLinked { ino, name, .. } => {
                write!(f, "the name \"{name}\" is a second one of directory {ino}")
            }
            Self::DirectoryEntries { found, counted, .. } => {
                write!(f, "{found} entries noted, {counted} found")
            }
            Self::DirectorySize { found, counted, .. } => {
                write!(f, "size {found} noted, {counted} found")
            }
            Self::DirectoryParent {
                found, expected, ..
            } => write!(f, "parent {found} noted, but it is in directory {expected}"),
            Self::Unreachable { kind, .. } => {
                write!(f, "no name leads to this {}", kind_name(kind))
            }
            Self::DirectoryLoop { dir, .. } => {
                write!(f, "it is in directory {dir}, which is further down in itself")
            }
            Self::OrphanUseless { .. } => {
                f.write_str("noted as being deleted, without a reason")
            }
            Self::Unfinished { .. } => {
                f.write_str("its deletion, truncation or move was interrupted; mounting finishes it")
            }
            Self::DataCopy { block, addr, .. } => {
                write!(f, "block {block}: the copy at {addr} is bad; another copy is good")
            }
            Self::DataLost { block, addr, .. } => {
                write!(f, "block {block}: no good copy (at {addr}); this data is lost")
            }
        }
    }
}
