// SPDX-License-Identifier: GPL-2.0-only
//! A volume's structures read straight from the device, by the format alone: it works on volumes
//! that are damaged, and on mounted ones (which may change while they are read).

use aegisfs_engine::format::chunk::{check_page, ChunkEntry, ENTRIES};
use aegisfs_engine::format::key::Pointer;
use aegisfs_engine::format::node::{self, Expected, NodeFault};
use aegisfs_engine::format::superblock::{Superblock, TABLE_OFFSET};
use aegisfs_engine::BLOCK_SIZE;
use aegisfs_tools::{report, superblock, Access, Failure, FileDevice};
use std::path::Path;

/// Bytes of a block, for offsets.
pub const BLOCK: u64 = BLOCK_SIZE as u64;

/// A device with the newest superblock on it.
pub struct Reader {
    device: FileDevice,
    /// That superblock.
    pub superblock: Superblock,
}

/// The chunk table, as far as it can be read.
pub struct Table {
    /// The entries; `None` where a page or an entry is damaged.
    pub entries: Vec<Option<ChunkEntry>>,
}

impl Reader {
    /// Opens a device for a look, whoever else uses it.
    ///
    /// # Errors
    /// When it cannot be read, or no superblock on it is valid.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let device = FileDevice::open(path, Access::Peek)?;
        let superblock = superblock::newest(&device).ok_or_else(|| {
            report::engine(
                format!("cannot inspect {}", path.display()),
                aegisfs_engine::Error::NotAegis,
            )
        })?;
        Ok(Self { device, superblock })
    }

    /// Reads bytes; `None` if the device fails or ends before.
    pub fn read(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.device.read_bytes(offset, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Reads the chunk table: of each page the newest version that is not newer than the superblock.
    pub fn table(&self) -> Table {
        let sb = &self.superblock;
        let mut entries = Vec::new();
        for index in 0..sb.table_pages() {
            let page = self.newest_page(index);
            for i in 0..ENTRIES {
                if entries.len() < sb.chunks as usize {
                    entries.push(page.as_ref().and_then(|p| ChunkEntry::decode(p, i)));
                }
            }
        }
        Table { entries }
    }

    fn newest_page(&self, index: u32) -> Option<Vec<u8>> {
        let sb = &self.superblock;
        let places = [TABLE_OFFSET, sb.tail_table]
            .into_iter()
            .flat_map(|table| [0, 1].map(|slot| table + (u64::from(index) * 2 + slot) * BLOCK));
        places
            .filter_map(|offset| {
                let page = self.read(offset, BLOCK_SIZE)?;
                let (generation, _) = check_page(&page, &sb.uuid, index)?;
                (generation <= sb.generation).then_some((generation, page))
            })
            .max_by_key(|(generation, _)| *generation)
            .map(|(_, page)| page)
    }

    /// Reads and verifies the node behind a pointer, all replicas of it.
    ///
    /// # Errors
    /// If none is good, what is wrong with the first one that could be read; none: none could be.
    pub fn node(&self, table: &Table, expected: &Expected) -> Result<Good, Option<NodeFault>> {
        let mut fault = None;
        let mut bad_replicas = 0;
        let mut good = None;
        for address in expected.pointer.replicas() {
            let bytes = self
                .place(table, address)
                .and_then(|offset| self.read(offset, self.superblock.node_size as usize));
            match bytes.map(|b| node::verify(&b, expected).map(|()| b)) {
                Some(Ok(bytes)) => good = good.or(Some(bytes)),
                Some(Err(e)) => {
                    bad_replicas += 1;
                    fault = fault.or(Some(e));
                }
                None => bad_replicas += 1,
            }
        }
        good.map(|bytes| Good {
            bytes,
            bad_replicas,
        })
        .ok_or(fault)
    }

    /// Byte offset on the device of a logical block.
    pub fn place(&self, table: &Table, block: u64) -> Option<u64> {
        let per_chunk = u64::from(self.superblock.chunk_blocks);
        let index = usize::try_from(block / per_chunk).ok()?;
        let entry = table.entries.get(index)?.as_ref()?;
        let within = block % per_chunk;
        (within < u64::from(entry.blocks)).then(|| entry.offset.checked_add(within * BLOCK))?
    }

    /// What the node behind `pointer` must be.
    pub fn expected(&self, pointer: Pointer, tree: u64, level: u8) -> Expected {
        Expected {
            pool: self.superblock.uuid,
            pointer,
            tree,
            level,
        }
    }
}

/// A verified node.
pub struct Good {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Other replicas that are bad.
    pub bad_replicas: u64,
}
