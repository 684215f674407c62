// SPDX-License-Identifier: GPL-2.0-only
//! The undo file.
//!
//! ```text
//! head, 64 bytes:   0 "AGFSUNDO"  8 crc u32 (of bytes 12 to 64)  12 version u32  16 uuid [16]
//!                  32 device size u64  40 created i64  48 zero
//! then records:     0 kind [4]  4 crc u32 (of everything after it)  8 position u64 (of the record in the file)
//!                  16 batch u64 (position of its batch's first record)  24 offset u64 (on the device)
//!                  32 CRC32 of each sector of the block u32 [8]
//!   kind "AGu0": old content, 4096 bytes of it follow
//!   kind "AGu1": what was about to be written
//!   kind "AGux": the old content could not be read
//! ```
//!
//! All numbers are little-endian. Records of one batch were synced before the device was written to.
//!
//! Invariants:
//! 1. The device is written to only after everything about these writes is durable here. So each sector of a
//!    recorded block holds its old content or one that is recorded as written, whatever was interrupted,
//!    torn or lost; and a block without a record was not written.
//! 2. The first record of a block with old content precedes all writes to it.
//! 3. A bad record ends the log only if no valid record of a later batch follows: then nothing was written
//!    that depends on it.

use aegisfs_engine::BLOCK_SIZE;
use aegisfs_platform::crc32;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

const MAGIC: &[u8; 8] = b"AGFSUNDO";
const VERSION: u32 = 1;
/// Bytes of the file's head, and of a record without content. All positions are multiples of it.
const HEAD: usize = 64;
const SECTOR: usize = 512;
/// Sectors of a block.
pub const SECTORS: usize = BLOCK_SIZE / SECTOR;
const OLD: [u8; 4] = *b"AGu0";
const NEW: [u8; 4] = *b"AGu1";
const LOST: [u8; 4] = *b"AGux";

/// CRC32s of the sectors of a block.
pub type Sums = [u32; SECTORS];

/// CRC32 of each sector of a block.
pub fn sums(block: &[u8]) -> Sums {
    let mut sums = [0; SECTORS];
    for (sum, sector) in sums.iter_mut().zip(block.chunks(SECTOR)) {
        *sum = crc32(0, sector);
    }
    sums
}

/// Which volume a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// UUID of the volume.
    pub uuid: [u8; 16],
    /// Bytes of the volume.
    pub size: u64,
    /// When the file was begun, in seconds since 1970.
    pub created: i64,
}

/// What is known of a block.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Position of its old content in the file; `None`: it could not be read.
    pub old: Option<u64>,
    /// What its sectors may hold: the old content, and all that was to be written.
    pub may_hold: Vec<Sums>,
}

/// An undo file, open for more.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// The volume.
    pub identity: Identity,
    /// What is known of each block, by its offset on the device.
    pub blocks: BTreeMap<u64, Block>,
    end: u64,
    batch: Vec<u8>,
}

impl Log {
    /// Makes the file, which must not exist, and the directory that it is to be in.
    pub fn create(path: &Path, identity: Identity) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            // It holds content of files.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&identity.uuid);
        head.extend_from_slice(&identity.size.to_le_bytes());
        head.extend_from_slice(&identity.created.to_le_bytes());
        head.resize(HEAD - 12, 0);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32(0, &head).to_le_bytes());
        bytes.extend_from_slice(&head);
        (&file).write_all(&bytes)?;
        file.sync_all()?;
        // The name must survive, too.
        let directory = path.parent().filter(|d| !d.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(Self {
            file,
            identity,
            blocks: BTreeMap::new(),
            end: HEAD as u64,
            batch: Vec::new(),
        })
    }

    /// Reads a file that anybody may have made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0)
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => invalid("it is no undo file"),
                _ => e,
            })?;
        if head[..8] != *MAGIC {
            return Err(invalid("it is no undo file"));
        }
        if word32(&head, 8) != crc32(0, &head[12..]) {
            return Err(invalid("its head is damaged"));
        }
        if word32(&head, 12) != VERSION {
            return Err(invalid("it is of a version that is not known"));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&head[16..32]);
        let mut log = Self {
            file,
            identity: Identity {
                uuid,
                size: word64(&head, 32),
                created: i64::from_le_bytes(word64(&head, 40).to_le_bytes()),
            },
            blocks: BTreeMap::new(),
            end: HEAD as u64,
            batch: Vec::new(),
        };
        log.read_records()?;
        Ok(log)
    }

    fn read_records(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        while let Some(record) = self.record(self.end, length)? {
            self.learn(self.end, &record)?;
            self.end += record.len() as u64;
        }
        // A batch that was being written is torn. A later one proves that it was complete once.
        let mut at = self.end;
        while at < length {
            if let Some(record) = self.record(at, length)? {
                if word64(&record, 16) > self.end {
                    return Err(invalid(&format!("it is damaged at byte {}", self.end)));
                }
            }
            at += HEAD as u64;
        }
        self.file.set_len(self.end)
    }

    /// The valid record at `at`.
    fn record(&self, at: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
        let mut record = vec![0; HEAD];
        if length.saturating_sub(at) < HEAD as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut record, at)?;
        match record.first_chunk::<4>().copied() {
            Some(OLD) if length - at >= (HEAD + BLOCK_SIZE) as u64 => {
                record.resize(HEAD + BLOCK_SIZE, 0);
                self.file
                    .read_exact_at(&mut record[HEAD..], at + HEAD as u64)?;
            }
            Some(NEW | LOST) => {}
            _ => return Ok(None),
        }
        let good = word32(&record, 4) == crc32(0, &record[8..]) && word64(&record, 8) == at;
        Ok(good.then_some(record))
    }

    fn learn(&mut self, at: u64, record: &[u8]) -> io::Result<()> {
        let offset = word64(record, 24);
        let inside = offset
            .checked_add(BLOCK_SIZE as u64)
            .is_some_and(|end| end <= self.identity.size);
        if !inside || offset % BLOCK_SIZE as u64 != 0 {
            return Err(invalid("it names a place outside of the volume"));
        }
        let mut sums = [0; SECTORS];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = word32(record, 32 + 4 * i);
        }
        let known = self.blocks.contains_key(&offset);
        let is_new = record.starts_with(&NEW);
        if known != is_new {
            return Err(invalid("its records contradict each other"));
        }
        let block = self.blocks.entry(offset).or_default();
        if record.starts_with(&OLD) {
            block.old = Some(at + HEAD as u64);
        }
        // Of what could not be read nothing is known.
        if !record.starts_with(&LOST) && !block.may_hold.contains(&sums) {
            block.may_hold.push(sums);
        }
        Ok(())
    }

    /// Notes that a block is about to be written, and what it holds now if that is not known yet. Counts
    /// after [`Log::sync`].
    pub fn note(
        &mut self,
        offset: u64,
        new: &[u8],
        read: impl FnOnce(&mut [u8]) -> bool,
    ) -> io::Result<()> {
        self.save(offset, read)?;
        self.add(NEW, offset, sums(new), &[])
    }

    /// Notes what a block holds, if that is not known yet.
    pub fn save(&mut self, offset: u64, read: impl FnOnce(&mut [u8]) -> bool) -> io::Result<()> {
        if self.blocks.contains_key(&offset) {
            return Ok(());
        }
        let mut old = [0; BLOCK_SIZE];
        if read(&mut old) {
            self.add(OLD, offset, sums(&old), &old)
        } else {
            self.add(LOST, offset, [0; SECTORS], &[])
        }
    }

    fn add(&mut self, kind: [u8; 4], offset: u64, sums: Sums, content: &[u8]) -> io::Result<()> {
        let at = self.end + self.batch.len() as u64;
        let mut tail = Vec::with_capacity(HEAD + content.len());
        tail.extend_from_slice(&at.to_le_bytes());
        tail.extend_from_slice(&self.end.to_le_bytes());
        tail.extend_from_slice(&offset.to_le_bytes());
        for sum in sums {
            tail.extend_from_slice(&sum.to_le_bytes());
        }
        tail.extend_from_slice(content);
        let from = self.batch.len();
        self.batch.extend_from_slice(&kind);
        self.batch.extend_from_slice(&crc32(0, &tail).to_le_bytes());
        self.batch.extend_from_slice(&tail);
        let record = self.batch[from..].to_vec();
        self.learn(at, &record)
    }

    /// Makes everything durable that was noted.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.batch, self.end)?;
        self.end += self.batch.len() as u64;
        self.batch.clear();
        self.file.sync_data()
    }

    /// The old content of a block.
    pub fn read_old(&self, position: u64, block: &mut [u8; BLOCK_SIZE]) -> io::Result<()> {
        self.file.read_exact_at(block, position)
    }
}

impl Block {
    /// Whether all sectors of what stands there came from the repair, or were there before it.
    pub fn may_be(&self, found: &Sums) -> bool {
        self.old.is_none()
            || found
                .iter()
                .enumerate()
                .all(|(i, sum)| self.may_hold.iter().any(|s| s[i] == *sum))
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn word32(b: &[u8], at: usize) -> u32 {
    b.get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u32::from_le_bytes(*b))
}

fn word64(b: &[u8], at: usize) -> u64 {
    b.get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u64::from_le_bytes(*b))
}
