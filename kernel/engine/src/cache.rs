// SPDX-License-Identifier: GPL-2.0-only
//! Devices with the chunk map over them, and the cache of verified nodes.
//!
//! Invariants:
//! 1. Nothing enters the cache that [`node::verify`] has not accepted against the pointer that led
//!    to it, or that was not just written by a checkpoint.
//! 2. A cached node is immutable. A changed node lives with the trees until it is written.
//! 3. A lookup compares generation and CRC32 with the pointer, so a block that was freed and used
//!    again is never taken for what stood there before.
//! 4. The number of cached nodes is bounded, whatever is read.

mod counted;
mod heal;
mod pending;
mod suspect;

use crate::device::{BlockDevice, ReadOp, WriteOp};
use crate::error::{Error, Result};
use crate::format::bytes::{get_u32, CRC_AT};
use crate::format::key::Pointer;
use crate::format::node;
use crate::map::Map;
use crate::types::{DeviceEvent, DeviceStats, Location, BLOCK_SIZE};
use aegisfs_platform::{try_arc, AllocError, Arc, Box, LockClass, Mutex, Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use counted::Counted;
use heal::Reports;
use suspect::Suspects;

pub use heal::Copies;
pub use pending::{PendingWrite, PendingWrites};
pub use suspect::{Owner, Suspect, Trouble};

/// Where a chunk stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Index of the device.
    pub device: u32,
    /// Byte offset on it.
    pub offset: u64,
    /// Length in blocks.
    pub blocks: u32,
}

/// Counters of work. What goes wrong with a device is counted with it ([`Pool::note`]).
#[derive(Default)]
pub struct Stats {
    pub nodes_read: AtomicU64,
    pub nodes_written: AtomicU64,
    pub checkpoints: AtomicU64,
    pub journal_writes: AtomicU64,
}

/// Adds one to a counter.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// The devices of a mounted volume, addressed by logical blocks.
pub struct Pool {
    devices: Vec<Counted>,
    places: Vec<Place>,
    chunk_shift: u32,
    header_blocks: u64,
    uuid: [u8; 16],
    node_size: usize,
    cache: Cache,
    /// Bad copies may be rewritten.
    pub may_heal: AtomicBool,
    /// Bad copies stay for now: the host wants no writes.
    pub frozen: AtomicBool,
    pub stats: Stats,
    reports: Reports,
    suspects: Suspects,
    /// Data that is committed and not yet written.
    pub pending: PendingWrites,
}

/// A verified node.
pub struct Node(Vec<u8>);

impl core::ops::Deref for Node {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The numbers a [`Pool`] is built from.
pub struct Geometry {
    pub uuid: [u8; 16],
    pub node_size: usize,
    pub chunk_blocks: u32,
    pub chunk_header_blocks: u32,
    pub cache_bytes: usize,
}

impl Pool {
    /// A pool over `devices` whose chunks stand at `places`.
    pub fn new(
        devices: Vec<Box<dyn BlockDevice>>,
        places: Vec<Place>,
        geometry: &Geometry,
    ) -> Result<Self> {
        let mut counted = Vec::try_with_capacity(devices.len())?;
        let mut devices = devices;
        while let Some(device) = devices.pop() {
            counted.try_insert(0, Counted::new(device))?;
        }
        Ok(Self {
            devices: counted,
            places,
            chunk_shift: geometry.chunk_blocks.trailing_zeros(),
            header_blocks: u64::from(geometry.chunk_header_blocks),
            uuid: geometry.uuid,
            node_size: geometry.node_size,
            cache: Cache::new(geometry.cache_bytes / geometry.node_size.max(1))?,
            may_heal: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            stats: Stats::default(),
            reports: Reports::default(),
            suspects: Suspects::new()?,
            pending: PendingWrites::new()?,
        })
    }

    /// UUID of the pool.
    pub const fn uuid(&self) -> &[u8; 16] {
        &self.uuid
    }

    /// Bytes of a node.
    pub const fn node_size(&self) -> usize {
        self.node_size
    }

    /// The device with index `index`.
    pub fn device(&self, index: u32) -> Result<&dyn BlockDevice> {
        match self.devices.get(index as usize) {
            Some(d) => Ok(d),
            None => Err(Error::Corrupt),
        }
    }

    /// Number of devices.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Something went wrong, or was set right, at a block.
    pub fn note(&self, block: u64, event: DeviceEvent) {
        if let Ok(at) = self.locate(block, 1) {
            self.note_device(at.device, event);
        }
    }

    /// The same, for a device as a whole.
    pub fn note_device(&self, index: u32, event: DeviceEvent) {
        if let Some(d) = self.devices.get(index as usize) {
            d.note(event);
        }
    }

    /// What was counted of a device since mount.
    pub fn device_stats(&self, index: u32) -> Option<DeviceStats> {
        Some(self.devices.get(index as usize)?.stats())
    }

    /// How often something happened since mount, on all devices.
    pub fn events(&self, event: DeviceEvent) -> u64 {
        let all = self.devices.iter().map(|d| d.stats().get(event));
        all.fold(0, u64::saturating_add)
    }

    /// Logical blocks per chunk, as a power of two.
    pub const fn chunk_shift(&self) -> u32 {
        self.chunk_shift
    }

    /// Where the run of `blocks` logical blocks from `block` on stands. It must lie within the
    /// usable part of one chunk: this is the one check between pointers and devices.
    pub fn locate(&self, block: u64, blocks: u64) -> Result<Location> {
        let chunk = usize::try_from(block >> self.chunk_shift).map_err(|_| Error::Corrupt)?;
        let within = block & ((1 << self.chunk_shift) - 1);
        let place = self.places.get(chunk).ok_or(Error::Corrupt)?;
        let end = within.checked_add(blocks).ok_or(Error::Corrupt)?;
        if within < self.header_blocks || end > u64::from(place.blocks) {
            return Err(Error::Corrupt);
        }
        Ok(Location {
            block,
            device: place.device,
            offset: place.offset + within * BLOCK_SIZE as u64,
        })
    }

    /// The logical block that stands at block `block` of a device; `None`: nothing can be put there.
    pub fn logical(&self, device: u32, block: u64) -> Option<u64> {
        let byte = block.checked_mul(BLOCK_SIZE as u64)?;
        self.places.iter().enumerate().find_map(|(chunk, p)| {
            let within = byte.checked_sub(p.offset)? / BLOCK_SIZE as u64;
            let inside = within >= self.header_blocks && within < u64::from(p.blocks);
            (p.device == device && inside).then_some((chunk as u64) << self.chunk_shift | within)
        })
    }

    /// The place of the chunk that a logical block belongs to.
    pub fn place(&self, block: u64) -> Option<Place> {
        let chunk = usize::try_from(block >> self.chunk_shift).ok()?;
        self.places.get(chunk).copied()
    }

    /// Reads logical blocks, unverified.
    pub fn read_raw(&self, block: u64, buf: &mut [u8]) -> Result<()> {
        let at = self.locate(block, (buf.len() / BLOCK_SIZE) as u64)?;
        self.device(at.device)?.read(at.offset, buf)
    }

    /// Fills the buffers of `(location, buffer)` pairs as far as that succeeds, batched by device.
    pub fn read_many<'a>(
        &self,
        parts: impl Iterator<Item = (Location, &'a mut [u8])>,
    ) -> Result<()> {
        let mut ops = Vec::new();
        let mut device = 0;
        for (at, buf) in parts {
            if at.device != device {
                self.device(device)?.read_many(&mut ops)?;
                ops.clear();
                device = at.device;
            }
            ops.try_push(ReadOp {
                offset: at.offset,
                buf,
            })?;
        }
        self.device(device)?.read_many(&mut ops)
    }

    /// Writes logical blocks.
    pub fn write_raw(&self, block: u64, data: &[u8]) -> Result<()> {
        let at = self.locate(block, (data.len() / BLOCK_SIZE) as u64)?;
        self.device(at.device)?.write(at.offset, data)
    }

    /// Flushes all devices.
    pub fn flush(&self) -> Result<()> {
        for d in &self.devices {
            d.flush()?;
        }
        Ok(())
    }

    /// Writes `(location, data)` pairs, batched by device.
    pub fn write_many(&self, parts: &[(Location, &[u8])]) -> Result<()> {
        for (index, device) in self.devices.iter().enumerate() {
            let mut ops = Vec::try_with_capacity(parts.len())?;
            for (at, data) in parts.iter().filter(|(at, _)| at.device as usize == index) {
                ops.try_push(WriteOp {
                    offset: at.offset,
                    data,
                })?;
            }
            device.write_many(&ops)?;
        }
        Ok(())
    }

    /// The node in the cache, if it is there.
    pub fn cached(&self, pointer: &Pointer) -> Option<Arc<Node>> {
        self.cache.get(pointer)
    }

    /// Whether the cache has the node; unlike [`Pool::cached`] that is no use of it.
    pub fn has(&self, pointer: &Pointer) -> bool {
        self.cache.has(pointer)
    }

    /// Puts a node that was just written into the cache; without memory it is left out.
    pub fn remember(&self, bytes: Vec<u8>) {
        if let Ok(node) = try_arc(Node(bytes)) {
            self.cache.insert(&node);
        }
    }

    /// Clean nodes in the cache.
    pub fn cached_nodes(&self) -> usize {
        self.cache.len()
    }

    /// Drops up to `nodes` clean nodes; returns how many went.
    pub fn shrink(&self, nodes: usize) -> usize {
        self.cache.shrink(nodes)
    }
}

const SHARDS: usize = 16;

struct Entry {
    node: Arc<Node>,
    used: bool,
}

impl Entry {
    /// It is what `pointer` leads to, and not what stood there before or after.
    fn is(&self, pointer: &Pointer) -> bool {
        node::generation(&self.node) == pointer.birth && get_u32(&self.node, CRC_AT) == pointer.crc
    }
}

struct Shard {
    nodes: Map<Entry>,
    /// Where the sweep for victims goes on (second chance).
    hand: usize,
}

struct Cache {
    shards: Vec<Mutex<Shard>>,
    per_shard: usize,
}

impl Cache {
    fn new(nodes: usize) -> Result<Self, AllocError> {
        let mut shards = Vec::try_with_capacity(SHARDS)?;
        for _ in 0..SHARDS {
            shards.try_push(Mutex::try_new(
                LockClass::Cache,
                Shard {
                    nodes: Map::new(),
                    hand: 0,
                },
            )?)?;
        }
        Ok(Self {
            shards,
            per_shard: (nodes / SHARDS).max(16),
        })
    }

    fn shard(&self, id: u64) -> Option<&Mutex<Shard>> {
        // Nodes are aligned, so the low bits of their addresses say little.
        self.shards
            .get((id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % SHARDS)
    }

    fn has(&self, pointer: &Pointer) -> bool {
        let shard = self.shard(pointer.id()).map(Mutex::lock);
        shard.is_some_and(|s| s.nodes.get(pointer.id()).is_some_and(|e| e.is(pointer)))
    }

    fn get(&self, pointer: &Pointer) -> Option<Arc<Node>> {
        let mut shard = self.shard(pointer.id())?.lock();
        let entry = shard.nodes.get_mut(pointer.id())?;
        if !entry.is(pointer) {
            return None;
        }
        entry.used = true;
        Some(entry.node.clone())
    }

    fn insert(&self, node: &Arc<Node>) {
        let id = node::addresses(node)[0];
        let Some(shard) = self.shard(id) else { return };
        let mut shard = shard.lock();
        if shard.nodes.len() >= self.per_shard {
            shard.evict(1);
        }
        let entry = Entry {
            node: node.clone(),
            used: true,
        };
        // Without memory for the table the node is simply not cached.
        let _ = shard.nodes.try_insert(id, entry);
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().nodes.len()).sum()
    }

    fn shrink(&self, nodes: usize) -> usize {
        let mut gone = 0;
        for shard in &self.shards {
            if gone >= nodes {
                break;
            }
            // Called by the host when memory is short, maybe from an allocation under this very
            // lock: never wait here.
            if let Some(mut shard) = shard.try_lock() {
                gone += shard.evict((nodes - gone).div_ceil(2).max(1));
            }
        }
        gone
    }
}

impl Shard {
    /// Drops up to `n` nodes that were not used since the last sweep.
    fn evict(&mut self, n: usize) -> usize {
        let positions = self.nodes.positions();
        let mut gone = 0;
        // Two rounds: the first may only clear the marks.
        for _ in 0..positions * 2 {
            if gone >= n {
                break;
            }
            self.hand = if self.hand + 1 >= positions {
                0
            } else {
                self.hand + 1
            };
            let victim = match self.nodes.at_mut(self.hand) {
                Some((_, entry)) if entry.used => {
                    entry.used = false;
                    None
                }
                Some((id, _)) => Some(id),
                None => None,
            };
            if let Some(id) = victim {
                self.nodes.remove(id);
                gone += 1;
            }
        }
        gone
    }
}
