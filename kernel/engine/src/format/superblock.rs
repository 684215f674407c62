// SPDX-License-Identifier: GPL-2.0-only
//! The superblock: identity, geometry, and the roots of one checkpoint.
//!
//! Four copies: two slots at the head of the first device and two at its tail. Checkpoint n writes
//! the slot that does not hold checkpoint n - 1, at both ends; whatever happens during the write,
//! a valid superblock with its complete checkpoint remains.

use super::bytes::{
    get_array, get_u16, get_u32, get_u64, get_u8, put_bytes, put_u32, put_u64, put_u8, seal, sealed,
};
use super::chunk::{bitmap_slot_blocks, ENTRIES};
use super::key::Pointer;
use super::node::{LEVEL_MAX, NODE_MAX, NODE_MIN};
use crate::types::BLOCK_SIZE;

/// First bytes of a superblock.
pub const SUPER_MAGIC: [u8; 4] = *b"AGFS";
/// Version of the format that this code writes.
pub const FORMAT_VERSION: u32 = 1;
/// Byte offsets of the two head slots. They never move.
pub const HEAD_SLOTS: [u64; 2] = [64 << 10, 128 << 10];
/// Byte distances of the two tail slots from the device's end.
pub const TAIL_SLOTS: [u64; 2] = [128 << 10, 64 << 10];
/// Where the chunk table begins.
pub const TABLE_OFFSET: u64 = 1 << 20;
/// Bytes at the device's end that hold no chunks, besides the tail copy of the chunk table.
pub const TAIL_BYTES: u64 = 256 << 10;
/// Smallest device, in bytes.
pub const DEVICE_MIN: u64 = 32 << 20;
/// Longest label, in bytes.
pub const LABEL_MAX: usize = 63;
/// Smallest and largest chunk, in blocks: 4 MiB and 1 GiB.
pub const CHUNK_BLOCKS: core::ops::RangeInclusive<u32> = 1024..=262_144;
/// Most chunks: bounds the table in memory (2^21 chunks of 1 GiB are 2 PiB).
pub const CHUNKS_MAX: u32 = 1 << 21;

/// Compatible feature: there are records of health (scrub job, counters of devices).
pub const COMPAT_HEALTH: u64 = 1;
/// Compatible feature: blocks that are bad are listed.
pub const COMPAT_BAD_BLOCKS: u64 = 2;
/// Incompatible feature: extents can be shared (SHARED records, the flag of extents).
pub const INCOMPAT_SHARED: u64 = 1;
/// Incompatible feature: moves of extents that take several operations (SHIFT records).
pub const INCOMPAT_SHIFT: u64 = 2;
/// Incompatible feature: inodes have 128 bytes instead of 176. All volumes that are new have it.
pub const INCOMPAT_COMPACT: u64 = 4;
/// Incompatible feature: the last journal entry can be there without the data that it refers to
/// ([`EntryHeader::ahead`](super::journal::EntryHeader::ahead)). All volumes that are new have it.
pub const INCOMPAT_AHEAD: u64 = 8;
/// Incompatible feature that nobody knows: repairs are being undone, and the volume is no volume until that is
/// finished. Set and removed by `fsck.aegisfs --undo-apply` alone.
pub const INCOMPAT_UNDO: u64 = 1 << 63;
/// Incompatible features that this code knows.
pub const INCOMPAT_KNOWN: u64 =
    INCOMPAT_SHARED | INCOMPAT_SHIFT | INCOMPAT_COMPACT | INCOMPAT_AHEAD;
/// Usage is counted for each user, group and project: every writer must keep it.
pub const RO_COMPAT_QUOTA: u64 = 1;
/// Features that a writer must know.
pub const RO_COMPAT_KNOWN: u64 = RO_COMPAT_QUOTA;

/// A decoded and checked superblock.
///
/// ```text
/// 0 magic [4]  4 crc u32  8 version u32  12 block size u32  16 pool uuid [16]  32 label [64]
/// 96 compat u64  104 ro_compat u64  112 incompat u64  120 generation u64
/// 128 node size u32  132 chunk blocks u32  136 chunks u32  140 table digest u32
/// 144 device size u64  152 tail table offset u64  160 journal offset u64  168 journal blocks u32
/// 172 metadata replicas u8  173 data replicas u8  174 state u8 (1: cleanly unmounted)  175 slot u8
/// 176 journal epoch u64  184 journal head u32 (block)  188 journal device u32
/// 192 journal sequence u64  200 replay from u64 (record)  208 pool root [40]  248 pool level u8, zero [7]
/// 256 hash seed u64  264 created i64  272 written i64  280 mounts u64  288 devices u32  292 device index u32
/// 296 device uuid [16]  312 free blocks u64  320 zero ...
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Pool UUID.
    pub uuid: [u8; 16],
    /// Label, padded with zeros.
    pub label: [u8; LABEL_MAX + 1],
    /// Features that do not matter to who does not know them.
    pub compat: u64,
    /// Features that forbid writing to who does not know them.
    pub ro_compat: u64,
    /// Features that forbid everything to who does not know them.
    pub incompat: u64,
    /// Number of the checkpoint.
    pub generation: u64,
    /// Bytes of a metadata node.
    pub node_size: u32,
    /// Blocks of a chunk (the last one may be shorter).
    pub chunk_blocks: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// CRC32 over the CRC32s of all valid chunk table pages.
    pub table_digest: u32,
    /// Bytes of the first device.
    pub device_size: u64,
    /// Byte offset of the tail copy of the chunk table.
    pub tail_table: u64,
    /// Byte offset of the journal.
    pub journal_offset: u64,
    /// Length of the journal in blocks.
    pub journal_blocks: u32,
    /// Replicas of metadata.
    pub metadata_replicas: u8,
    /// Replicas of data.
    pub data_replicas: u8,
    /// Unmounted in order: the journal holds nothing.
    pub clean: bool,
    /// Recoveries so far; journal entries of others do not count.
    pub journal_epoch: u64,
    /// Block of the ring where the first entry to replay stands.
    pub journal_head: u32,
    /// Number of that entry.
    pub journal_sequence: u64,
    /// Number of the first record that the checkpoint does not hold.
    pub replay_from: u64,
    /// Root of the pool tree.
    pub pool_root: Pointer,
    /// Level of that root.
    pub pool_level: u8,
    /// Seed of the hash of names.
    pub hash_seed: u64,
    /// Creation, in seconds since 1970.
    pub created: u64,
    /// Last checkpoint, in seconds since 1970.
    pub written: u64,
    /// Number of mounts.
    pub mounts: u64,
    /// Number of devices in the pool.
    pub devices: u32,
    /// Index of the device that bears this superblock.
    pub device_index: u32,
    /// UUID of that device.
    pub device_uuid: [u8; 16],
    /// Free blocks at the checkpoint.
    pub free_blocks: u64,
    /// Writable mounts since the checkpoint that have not come to a checkpoint of their own.
    pub attempts: u64,
}

/// Why bytes are no usable superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperFault {
    /// The magic number is missing: another filesystem, or none.
    Magic,
    /// Damaged.
    Checksum,
    /// Checksum right, but values that cannot be.
    Geometry,
    /// A format version that this code does not know.
    Version(u32),
}

impl Superblock {
    /// Decodes and checks everything that can be checked without other blocks.
    ///
    /// # Errors
    /// The first thing that is wrong. Feature bits are left to the caller.
    pub fn decode(b: &[u8]) -> Result<Self, SuperFault> {
        if b.len() < BLOCK_SIZE || get_array::<4>(b, 0) != SUPER_MAGIC {
            return Err(SuperFault::Magic);
        }
        if !sealed(b.get(..BLOCK_SIZE).unwrap_or(b)) {
            return Err(SuperFault::Checksum);
        }
        if get_u32(b, 8) != FORMAT_VERSION {
            return Err(SuperFault::Version(get_u32(b, 8)));
        }
        let s = Self {
            uuid: get_array(b, 16),
            label: get_array(b, 32),
            compat: get_u64(b, 96),
            ro_compat: get_u64(b, 104),
            incompat: get_u64(b, 112),
            generation: get_u64(b, 120),
            node_size: get_u32(b, 128),
            chunk_blocks: get_u32(b, 132),
            chunks: get_u32(b, 136),
            table_digest: get_u32(b, 140),
            device_size: get_u64(b, 144),
            tail_table: get_u64(b, 152),
            journal_offset: get_u64(b, 160),
            journal_blocks: get_u32(b, 168),
            metadata_replicas: get_u8(b, 172),
            data_replicas: get_u8(b, 173),
            clean: get_u8(b, 174) == 1,
            journal_epoch: get_u64(b, 176),
            journal_head: get_u32(b, 184),
            journal_sequence: get_u64(b, 192),
            replay_from: get_u64(b, 200),
            pool_root: Pointer::decode(b.get(208..).unwrap_or(&[])),
            pool_level: get_u8(b, 248),
            hash_seed: get_u64(b, 256),
            created: get_u64(b, 264),
            written: get_u64(b, 272),
            mounts: get_u64(b, 280),
            devices: get_u32(b, 288),
            device_index: get_u32(b, 292),
            device_uuid: get_array(b, 296),
            free_blocks: get_u64(b, 312),
            attempts: get_u64(b, 320),
        };
        let sane = get_u32(b, 12) as usize == BLOCK_SIZE
            && get_u16(b, 174) <= 1
            && get_u32(b, 188) == 0
            && s.geometry_is_sane();
        if sane {
            Ok(s)
        } else {
            Err(SuperFault::Geometry)
        }
    }

    fn geometry_is_sane(&self) -> bool {
        const HUGE: u64 = 1 << 62;
        let node = self.node_size as usize;
        let block = BLOCK_SIZE as u64;
        let node_ok = node.is_power_of_two() && (NODE_MIN..=NODE_MAX).contains(&node);
        let chunk_ok = self.chunk_blocks.is_power_of_two()
            && CHUNK_BLOCKS.contains(&self.chunk_blocks)
            && (1..=CHUNKS_MAX).contains(&self.chunks);
        let device_ok = (DEVICE_MIN..HUGE).contains(&self.device_size)
            && self.device_size % block == 0
            && self.devices == 1
            && self.device_index == 0;
        let table = u64::from(self.table_pages()) * 2 * block;
        let journal = u64::from(self.journal_blocks) * block;
        node_ok
            && chunk_ok
            && device_ok
            && self.tail_table % block == 0
            && self.tail_table <= self.device_size
            && self.device_size - self.tail_table >= table
            && self.journal_offset % block == 0
            && self.journal_offset >= TABLE_OFFSET + table
            && self.journal_offset <= self.device_size
            && self.device_size - self.journal_offset >= journal
            && self.journal_blocks >= 512
            && self.journal_head < self.journal_blocks
            && (1..=2).contains(&self.metadata_replicas)
            && (1..=2).contains(&self.data_replicas)
            && self.pool_level <= LEVEL_MAX
            && self.generation > 0
            && self.generation < HUGE
            && self.attempts < HUGE
            && self.replay_from < HUGE
            && self.journal_sequence < HUGE
            && self.journal_epoch < HUGE
            && self.label[LABEL_MAX] == 0
    }

    /// Encodes into a block of 4096 bytes and seals it.
    pub fn encode(&self, b: &mut [u8]) {
        b.fill(0);
        put_bytes(b, 0, &SUPER_MAGIC);
        put_u32(b, 8, FORMAT_VERSION);
        put_u32(b, 12, BLOCK_SIZE as u32);
        put_bytes(b, 16, &self.uuid);
        put_bytes(b, 32, &self.label);
        put_u64(b, 96, self.compat);
        put_u64(b, 104, self.ro_compat);
        put_u64(b, 112, self.incompat);
        put_u64(b, 120, self.generation);
        put_u32(b, 128, self.node_size);
        put_u32(b, 132, self.chunk_blocks);
        put_u32(b, 136, self.chunks);
        put_u32(b, 140, self.table_digest);
        put_u64(b, 144, self.device_size);
        put_u64(b, 152, self.tail_table);
        put_u64(b, 160, self.journal_offset);
        put_u32(b, 168, self.journal_blocks);
        put_u8(b, 172, self.metadata_replicas);
        put_u8(b, 173, self.data_replicas);
        put_u8(b, 174, u8::from(self.clean));
        put_u64(b, 176, self.journal_epoch);
        put_u32(b, 184, self.journal_head);
        put_u64(b, 192, self.journal_sequence);
        put_u64(b, 200, self.replay_from);
        put_bytes(b, 208, &self.pool_root.encode());
        put_u8(b, 248, self.pool_level);
        put_u64(b, 256, self.hash_seed);
        put_u64(b, 264, self.created);
        put_u64(b, 272, self.written);
        put_u64(b, 280, self.mounts);
        put_u32(b, 288, self.devices);
        put_u32(b, 292, self.device_index);
        put_bytes(b, 296, &self.device_uuid);
        put_u64(b, 312, self.free_blocks);
        put_u64(b, 320, self.attempts);
        seal(b);
    }

    /// What decides between two valid superblocks: the greater one counts.
    #[must_use]
    pub const fn age(&self) -> (u64, u64) {
        (self.generation, self.attempts)
    }

    /// Pages of the chunk table.
    #[must_use]
    pub const fn table_pages(&self) -> u32 {
        self.chunks.div_ceil(ENTRIES as u32)
    }

    /// Blocks at the start of each chunk that its two bitmap slots take.
    #[must_use]
    pub const fn chunk_header_blocks(&self) -> u32 {
        2 * bitmap_slot_blocks(self.chunk_blocks)
    }

    /// Blocks of a metadata node.
    #[must_use]
    pub const fn node_blocks(&self) -> u32 {
        self.node_size / BLOCK_SIZE as u32
    }

    /// Byte offset of slot `slot` (0 or 1) of the superblock at the head and at the tail.
    #[must_use]
    pub fn slot_offsets(device_size: u64, slot: u8) -> [u64; 2] {
        let i = usize::from(slot & 1);
        [HEAD_SLOTS[i], device_size.saturating_sub(TAIL_SLOTS[i])]
    }
}
