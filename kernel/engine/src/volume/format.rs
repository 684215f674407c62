// SPDX-License-Identifier: GPL-2.0-only
//! mkfs: an empty volume is the first checkpoint of a tree that holds a root directory.

use super::layout::Layout;
use super::mount::{assemble, Parts};
use crate::btree::Root;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::chunk::{seal_page, ChunkEntry, ENTRIES};
use crate::format::key::{Pointer, FIRST_SUBVOLUME, POOL_TREE};
use crate::format::record::Subvolume;
use crate::format::superblock::{
    Superblock, COMPAT_BAD_BLOCKS, HEAD_SLOTS, INCOMPAT_AHEAD, INCOMPAT_COMPACT, LABEL_MAX,
    RO_COMPAT_QUOTA, TABLE_OFFSET,
};
use crate::format::{bytes, node};
use crate::space::TablePage;
use crate::txn::{Class, Fs};
use crate::types::{
    Attr, BadCause, FormatOptions, MountOptions, Time, BLOCK_SIZE, MODE_DIR, ROOT_INO,
};
use aegisfs_platform::{log, random_bytes, try_box, Box, LogLevel, Vec};
use core::sync::atomic::Ordering::Relaxed;

impl FormatOptions {
    /// The defaults: random UUID, no label, nodes of 16 KiB, metadata twice, data once.
    #[must_use]
    pub fn new() -> Self {
        let mut uuid = [0; 16];
        random_bytes(&mut uuid);
        // RFC 9562: version 4, variant 1.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self {
            label: Vec::new(),
            uuid,
            node_size: 16384,
            metadata_replicas: 2,
            data_replicas: 1,
            uid: 0,
            gid: 0,
            quota: false,
            bad_blocks: Vec::new(),
        }
    }

    fn check(&self) -> Result<()> {
        let node = self.node_size as usize;
        let ok = self.label.len() <= LABEL_MAX
            && !self.label.contains(&0)
            && node.is_power_of_two()
            && (node::NODE_MIN..=node::NODE_MAX).contains(&node)
            && (1..=2).contains(&self.metadata_replicas)
            && (1..=2).contains(&self.data_replicas)
            && self.uuid != [0; 16];
        if ok {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }
}

impl Default for FormatOptions {
    fn default() -> Self {
        Self::new()
    }
}

fn random_u64() -> u64 {
    let mut b = [0; 8];
    random_bytes(&mut b);
    u64::from_le_bytes(b)
}

/// Makes an empty volume on one device. Everything that was on it is lost.
///
/// # Errors
/// `Invalid` for options or sizes that cannot be, `Unsupported` for other than one device, device
/// errors.
pub fn format(devices: Vec<Box<dyn BlockDevice>>, options: &FormatOptions) -> Result<()> {
    options.check()?;
    let [device] = &devices[..] else {
        return Err(Error::Unsupported);
    };
    let layout = Layout::new(device.size())?;
    let superblock = new_superblock(&layout, options)?;
    // The old volume goes first: a crash in the middle leaves none, rather than a mixture.
    let zero = Vec::try_filled(BLOCK_SIZE, 0)?;
    for slot in [0, 1] {
        for offset in Superblock::slot_offsets(layout.device_size, slot) {
            device.write(offset, &zero)?;
        }
    }
    device.flush()?;
    let (entries, pages) = write_table(&**device, &layout, &superblock)?;
    let mut subvolume_uuid = [0; 16];
    random_bytes(&mut subvolume_uuid);
    let subvolume = Subvolume {
        next_ino: ROOT_INO + 1,
        uuid: subvolume_uuid,
        ..Subvolume::default()
    };
    let fs = assemble(Parts {
        devices,
        entries,
        pages,
        superblock,
        // The first checkpoint goes to slot 0.
        slot: 1,
        options: &MountOptions::default(),
        generation: 1,
    })?;
    {
        let mut state = fs.state.write();
        for tree in [POOL_TREE, FIRST_SUBVOLUME] {
            state.trees.add_root(Root {
                tree,
                pointer: Pointer::default(),
                level: 0,
            })?;
        }
        state.subvolume = subvolume;
        state.quota.on = options.quota;
    }
    fs.pool.may_heal.store(true, Relaxed);
    let bad = leave_out(&fs, &options.bad_blocks)?;
    let mut tx = fs.begin(Class::Grow)?;
    let time = Time::now();
    tx.put_inode(&Attr {
        ino: ROOT_INO,
        mode: MODE_DIR | 0o755,
        uid: options.uid,
        gid: options.gid,
        nlink: 2,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        version: 1,
        parent: ROOT_INO,
        ..Attr::default()
    })?;
    tx.commit()?;
    if !bad.is_empty() {
        fs.checkpointer.lock().superblock.compat |= COMPAT_BAD_BLOCKS;
    }
    for addr in &bad {
        fs.list_bad_block(*addr, BadCause::Given)?;
    }
    fs.checkpoint_with(true)
}

/// Keeps blocks that are known to be bad from being used; gives their addresses.
fn leave_out(fs: &Fs, blocks: &[u64]) -> Result<Vec<u64>> {
    let mut bad = Vec::try_with_capacity(blocks.len())?;
    for block in blocks {
        // What stands in front of the volume is never used.
        if block.saturating_mul(BLOCK_SIZE as u64) < HEAD_SLOTS[0] {
            continue;
        }
        let Some(addr) = fs.pool.logical(0, *block) else {
            log(
                LogLevel::Error,
                format_args!("block {block} is bad, and the volume cannot do without it"),
            );
            return Err(Error::Invalid);
        };
        let mut space = fs.space.lock();
        space.reserve_bad()?;
        space.add_bad(addr, false);
        bad.try_push(addr)?;
    }
    Ok(bad)
}

/// The superblock of a volume that has no checkpoint yet.
#[inline(never)]
fn new_superblock(layout: &Layout, options: &FormatOptions) -> Result<Box<Superblock>> {
    let now = Time::now().sec.max(0) as u64;
    let mut label = [0; LABEL_MAX + 1];
    bytes::copy(&mut label, &options.label);
    let mut device_uuid = [0; 16];
    random_bytes(&mut device_uuid);
    Ok(try_box(Superblock {
        uuid: options.uuid,
        label,
        compat: 0,
        ro_compat: if options.quota { RO_COMPAT_QUOTA } else { 0 },
        incompat: INCOMPAT_COMPACT | INCOMPAT_AHEAD,
        generation: 0,
        node_size: options.node_size,
        chunk_blocks: layout.chunk_blocks,
        chunks: layout.chunks,
        table_digest: 0,
        device_size: layout.device_size,
        tail_table: layout.tail_table,
        journal_offset: layout.journal_offset,
        journal_blocks: layout.journal_blocks,
        metadata_replicas: options.metadata_replicas,
        data_replicas: options.data_replicas,
        clean: false,
        // Entries of an older volume with the same UUID must not be taken for ours.
        journal_epoch: random_u64() >> 16,
        journal_head: 0,
        journal_sequence: 1,
        replay_from: 0,
        pool_root: Pointer::default(),
        pool_level: 0,
        hash_seed: random_u64(),
        created: now,
        written: now,
        mounts: 0,
        devices: 1,
        device_index: 0,
        device_uuid,
        free_blocks: 0,
        attempts: 0,
    })?)
}

/// Writes the first version of the chunk table: all chunks empty, no bitmap written yet.
fn write_table(
    device: &dyn BlockDevice,
    layout: &Layout,
    sb: &Superblock,
) -> Result<(Vec<ChunkEntry>, Vec<TablePage>)> {
    let mut entries = Vec::try_with_capacity(layout.chunks as usize)?;
    let mut pages = Vec::new();
    let mut page = Vec::try_filled(BLOCK_SIZE, 0)?;
    let zero = Vec::try_filled(BLOCK_SIZE, 0)?;
    for index in 0..sb.table_pages() {
        page.fill(0);
        for i in 0..ENTRIES as u32 {
            let chunk = index * ENTRIES as u32 + i;
            if chunk >= layout.chunks {
                break;
            }
            let blocks = if chunk + 1 == layout.chunks {
                layout.last_chunk_blocks
            } else {
                layout.chunk_blocks
            };
            let entry = ChunkEntry {
                device: 0,
                blocks,
                offset: layout.first_chunk
                    + u64::from(chunk) * u64::from(layout.chunk_blocks) * BLOCK_SIZE as u64,
                free: blocks.saturating_sub(sb.chunk_header_blocks()),
                ..ChunkEntry::default()
            };
            entry.encode(&mut page, i as usize);
            entries.try_push(entry)?;
        }
        let crc = seal_page(&mut page, &sb.uuid, 0, index);
        pages.try_push(TablePage {
            slot: 0,
            crc,
            stale: false,
        })?;
        for table in [TABLE_OFFSET, sb.tail_table] {
            let at = table + u64::from(index) * 2 * BLOCK_SIZE as u64;
            device.write(at, &page)?;
            device.write(at + BLOCK_SIZE as u64, &zero)?;
        }
    }
    Ok((entries, pages))
}
