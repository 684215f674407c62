// SPDX-License-Identifier: GPL-2.0-only
//! The journal's bytes: entries (one device write each, from the start of a block on) that hold
//! records (one operation each) that consist of steps (puts and deletes on trees, blocks taken and
//! given back).

use super::bytes::{
    get_array, get_u16, get_u32, get_u64, get_u8, put_bytes, put_u16, put_u32, put_u64, put_u8,
};
use super::key::Key;
use aegisfs_platform::crc32;

/// First bytes of every entry.
pub const JOURNAL_MAGIC: u32 = u32::from_le_bytes(*b"AGjl");
/// Bytes before the first record.
pub const ENTRY_HEADER: usize = 64;
/// Bytes before the steps of a record: u32 length of the steps.
pub const RECORD_HEADER: usize = 4;
/// Bytes of a step before its value.
pub const STEP_HEADER: usize = 24;
/// Longest entry, in bytes.
pub const ENTRY_MAX: usize = 1 << 20;
/// Longest record, in bytes: must fit an entry.
pub const RECORD_MAX: usize = ENTRY_MAX - ENTRY_HEADER - RECORD_HEADER;

/// Header of an entry.
///
/// ```text
/// 0 magic u32  4 crc u32 (bytes 8..length)  8 pool uuid [16]  24 epoch u64  32 sequence u64
/// 40 first record u64  48 records u32  52 length u32 (bytes, header included)
/// 56 flags u64: bit 0 ahead
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Number of the recovery that this entry follows; older entries in the ring have lower ones.
    pub epoch: u64,
    /// Number of the entry, one more than that of the entry before it.
    pub sequence: u64,
    /// Number of the first record in it.
    pub first_record: u64,
    /// Number of records.
    pub records: u32,
    /// Bytes, header included; what stands behind them in the last block does not count.
    pub length: u32,
    /// It was written without waiting for the data that its records make reachable. What a later entry
    /// follows is complete all the same; in the last one the data has to be looked at.
    pub ahead: bool,
}

impl EntryHeader {
    /// Writes the header in front of the records in `entry` (whose padding is not part of it).
    pub fn seal(&self, entry: &mut [u8], uuid: &[u8; 16]) {
        put_u32(entry, 0, JOURNAL_MAGIC);
        put_bytes(entry, 8, uuid);
        put_u64(entry, 24, self.epoch);
        put_u64(entry, 32, self.sequence);
        put_u64(entry, 40, self.first_record);
        put_u32(entry, 48, self.records);
        put_u32(entry, 52, self.length);
        put_u64(entry, 56, u64::from(self.ahead));
        let crc = Self::crc(entry, self.length);
        put_u32(entry, 4, crc);
    }

    fn crc(entry: &[u8], length: u32) -> u32 {
        crc32(0, entry.get(8..length as usize).unwrap_or(&[]))
    }

    /// Reads the header of what may be an entry; `None` if it cannot be one. The content is not
    /// checked: see [`EntryHeader::complete`].
    #[must_use]
    pub fn decode(block: &[u8], uuid: &[u8; 16]) -> Option<Self> {
        let h = Self {
            epoch: get_u64(block, 24),
            sequence: get_u64(block, 32),
            first_record: get_u64(block, 40),
            records: get_u32(block, 48),
            length: get_u32(block, 52),
            ahead: get_u64(block, 56) == 1,
        };
        let ok = get_u32(block, 0) == JOURNAL_MAGIC
            && get_array::<16>(block, 8) == *uuid
            && (ENTRY_HEADER..=ENTRY_MAX).contains(&(h.length as usize))
            && get_u64(block, 56) <= 1;
        ok.then_some(h)
    }

    /// The whole entry is there and its checksum is right.
    #[must_use]
    pub fn complete(&self, entry: &[u8]) -> bool {
        entry.len() >= self.length as usize && get_u32(entry, 4) == Self::crc(entry, self.length)
    }
}

/// One change. The order of steps in a record is the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The record under `key` of `tree` becomes `value`.
    Put {
        /// Tree identifier.
        tree: u64,
        /// Key.
        key: Key,
        /// Value.
        value: &'a [u8],
    },
    /// The record under `key` of `tree` goes.
    Delete {
        /// Tree identifier.
        tree: u64,
        /// Key.
        key: Key,
    },
    /// Blocks become data of a file.
    Allocate {
        /// First logical block.
        addr: u64,
        /// Length.
        blocks: u64,
    },
    /// Blocks of a file are dropped by `tree`.
    Free {
        /// Tree identifier.
        tree: u64,
        /// First logical block.
        addr: u64,
        /// Length.
        blocks: u64,
        /// Generation in which they were allocated.
        birth: u64,
    },
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const ALLOCATE: u8 = 3;
const FREE: u8 = 4;

impl<'a> Step<'a> {
    /// Encodes the part before the value:
    /// u8 operation, u8 kind, u16 value length, u32 tree, u64 object (address), u64 offset (blocks).
    #[must_use]
    pub fn header(&self) -> [u8; STEP_HEADER] {
        let (op, kind, len, tree, object, offset) = match self {
            Self::Put { tree, key, value } => {
                (PUT, key.kind, value.len(), *tree, key.object, key.offset)
            }
            Self::Delete { tree, key } => (DELETE, key.kind, 0, *tree, key.object, key.offset),
            Self::Allocate { addr, blocks } => (ALLOCATE, 0, 0, 0, *addr, *blocks),
            Self::Free {
                tree, addr, blocks, ..
            } => (FREE, 0, 8, *tree, *addr, *blocks),
        };
        let mut b = [0; STEP_HEADER];
        put_u8(&mut b, 0, op);
        put_u8(&mut b, 1, kind);
        put_u16(&mut b, 2, len as u16);
        put_u32(&mut b, 4, tree as u32);
        put_u64(&mut b, 8, object);
        put_u64(&mut b, 16, offset);
        b
    }

    /// Decodes the first step of `b`; gives the rest as well. `None` for bytes that are none.
    #[must_use]
    pub fn decode(b: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let len = usize::from(get_u16(b, 2));
        let value = b.get(STEP_HEADER..)?.get(..len)?;
        let rest = b.get(STEP_HEADER + len..)?;
        let tree = u64::from(get_u32(b, 4));
        let key = Key::new(get_u64(b, 8), get_u8(b, 1), get_u64(b, 16));
        let step = match get_u8(b, 0) {
            PUT => Self::Put { tree, key, value },
            DELETE if len == 0 => Self::Delete { tree, key },
            ALLOCATE if len == 0 => Self::Allocate {
                addr: key.object,
                blocks: key.offset,
            },
            FREE if len == 8 => Self::Free {
                tree,
                addr: key.object,
                blocks: key.offset,
                birth: get_u64(value, 0),
            },
            _ => return None,
        };
        Some((step, rest))
    }
}

/// Walks the steps of a record.
pub struct Steps<'a>(pub &'a [u8]);

impl<'a> Iterator for Steps<'a> {
    /// `Err` once, and then nothing, where the bytes are no step.
    type Item = Result<Step<'a>, ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        if let Some((step, rest)) = Step::decode(self.0) {
            self.0 = rest;
            Some(Ok(step))
        } else {
            self.0 = &[];
            Some(Err(()))
        }
    }
}

/// Splits the first record off the records part of an entry: its steps, and the rest.
#[must_use]
pub fn split_record(b: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = get_u32(b, 0) as usize;
    let body = b.get(RECORD_HEADER..)?;
    Some((body.get(..len)?, body.get(len..)?))
}
