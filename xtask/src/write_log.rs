// SPDX-License-Identifier: GPL-2.0-only
//! Reads QEMU's log of a virtual disk's writes and makes the images that a power cut can leave.
//!
//! The log (driver `blklogwrites`, format of device-mapper's log-writes target): a superblock in
//! the first sector, then for each request one sector with its header and, for a write, its data.
//! What was logged before a flush survives the cut. What came after the last flush may survive in
//! any selection, and a write of several sectors may be torn.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context, Result};

const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLAG_FLUSH: u64 = 1;
const FLAG_DISCARD: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Byte offset on the disk.
    offset: u64,
    length: u64,
    kind: Kind,
    /// Byte offset of the data in the log.
    data: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Flush,
    Discard,
}

impl Entry {
    /// Byte offset in the log of what follows.
    fn end(&self) -> u64 {
        self.data
            + if self.kind == Kind::Write {
                self.length
            } else {
                0
            }
    }
}

pub struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the log of a VM that has ended. The superblock's count of entries is only updated now
    /// and then, so the entries themselves are followed to their end.
    pub fn read(path: &Path) -> Result<WriteLog> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let length = file.metadata()?.len();
        let mut head = [0; 32];
        file.read_exact_at(&mut head, 0)
            .context("read the log's superblock")?;
        ensure!(
            word(&head, 0) == MAGIC,
            "{} is not a log of writes",
            path.display()
        );
        let mut entries = Vec::new();
        let mut at = SECTOR;
        while at + SECTOR <= length {
            file.read_exact_at(&mut head, at).context("read the log")?;
            let (sector, sectors, flags) = (word(&head, 0), word(&head, 1), word(&head, 2));
            if head.iter().all(|byte| *byte == 0) {
                break;
            }
            let kind = match flags {
                flags if flags & FLAG_DISCARD != 0 => Kind::Discard,
                flags if flags & FLAG_FLUSH != 0 => Kind::Flush,
                _ => Kind::Write,
            };
            let (offset, bytes) = (sector * SECTOR, sectors * SECTOR);
            let data = at + SECTOR;
            let entry = Entry {
                offset,
                length: bytes,
                kind,
                data,
            };
            at = entry.end();
            if at > length {
                break;
            }
            entries.push(entry);
        }
        Ok(WriteLog { file, entries })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where a cut can lose something: each flush from entry `first` on that writes follow, as the
    /// entry after it and the entry of the next flush.
    pub fn windows(&self, first: usize) -> Vec<(usize, usize)> {
        let mut windows = Vec::new();
        let mut start = None;
        for (index, entry) in self.entries.iter().enumerate().skip(first) {
            if entry.kind == Kind::Flush {
                windows.extend(start.map(|start| (start, index)));
                start = Some(index + 1);
            }
        }
        windows.extend(start.map(|start| (start, self.entries.len())));
        windows.retain(|(start, end)| start < end);
        windows
    }

    /// What happened, as lines for the simulator. `heard`: how long the log was when a step was reported
    /// as durable, and which one.
    pub fn lines(&self, mounted: usize, heard: &[(u64, u64)]) -> String {
        let mut lines = String::new();
        let mut heard = heard.iter().peekable();
        for (index, entry) in self.entries.iter().enumerate() {
            if index == mounted {
                lines.push_str("m\n");
            }
            // Heard when the log ended before this entry.
            let start = entry.data - SECTOR;
            while let Some((_, step)) = heard.next_if(|(length, _)| *length <= start) {
                lines.push_str(&format!("p {step}\n"));
            }
            let (offset, length) = (entry.offset, entry.length);
            lines.push_str(&match entry.kind {
                Kind::Write => format!("w {offset} {length} {}\n", entry.data),
                Kind::Discard => format!("d {offset} {length}\n"),
                Kind::Flush => "f\n".to_owned(),
            });
        }
        lines
    }

    /// How many bytes long the log was when it had this many entries.
    pub fn position(&self, entries: usize) -> u64 {
        self.entries[..entries].last().map_or(SECTOR, Entry::end)
    }

    /// Makes the image of a power cut: everything before `durable`, and of what follows up to
    /// `end` what `fate` lets through.
    pub fn replay(&self, image: &File, durable: usize, end: usize, fate: &mut Fate) -> Result<()> {
        for (index, entry) in self.entries[..end].iter().enumerate() {
            let length = match index < durable {
                true => entry.length,
                false => fate.of(entry.length / SECTOR) * SECTOR,
            };
            match entry.kind {
                Kind::Flush => {}
                Kind::Write => {
                    let mut data = vec![0; length as usize];
                    self.file
                        .read_exact_at(&mut data, entry.data)
                        .context("read the log")?;
                    image
                        .write_all_at(&data, entry.offset)
                        .context("write the image")?;
                }
                Kind::Discard => zero(image, entry.offset, length)?,
            }
        }
        Ok(())
    }
}

/// A discarded range reads as zeros; zeros that are already there stay a hole.
fn zero(image: &File, offset: u64, length: u64) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let zeros = vec![0; PIECE];
    let mut buffer = vec![0; PIECE];
    let end = (offset + length).min(image.metadata()?.len());
    let mut at = offset;
    while at < end {
        let piece = PIECE.min((end - at) as usize);
        image.read_exact_at(&mut buffer[..piece], at)?;
        if buffer[..piece] != zeros[..piece] {
            image.write_all_at(&zeros[..piece], at)?;
        }
        at += piece as u64;
    }
    Ok(())
}

/// Decides, from a seed, what becomes of writes that no flush had made durable.
#[derive(Debug, Clone)]
pub struct Fate {
    state: u64,
    /// In 256ths: how many of the writes survive.
    survival: u64,
}

impl Fate {
    pub fn new(seed: u64, survival: u64) -> Fate {
        Fate {
            state: seed,
            survival,
        }
    }

    /// How many of a request's sectors reach the disk.
    fn of(&mut self, sectors: u64) -> u64 {
        let roll = self.next();
        if roll % 256 >= self.survival {
            return 0;
        }
        match roll >> 8 & 7 {
            // Torn: a part from the front.
            0 if sectors > 1 => self.next() % sectors,
            _ => sectors,
        }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let bytes = bytes[index * 8..index * 8 + 8].try_into().expect("8 bytes");
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn log(requests: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR as usize];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        for (sector, data, flags) in requests {
            let mut head = vec![0; SECTOR as usize];
            let sectors = data.len() as u64 / SECTOR;
            for (index, field) in [*sector, sectors, *flags, 0].into_iter().enumerate() {
                head[index * 8..index * 8 + 8].copy_from_slice(&field.to_le_bytes());
            }
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(data);
        }
        bytes
    }

    #[test]
    fn what_no_flush_covers_may_be_lost() {
        let directory = std::env::temp_dir().join(format!("aegis-log-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("log");
        let (ones, twos) = ([1u8; 512], [2u8; 1024]);
        let mut bytes = log(&[(1, &ones, 0), (0, &[], FLAG_FLUSH), (2, &twos, 0)]);
        // QEMU lengthens the file in advance.
        bytes.extend_from_slice(&[0; 2048]);
        fs::write(&path, bytes).unwrap();
        let log = WriteLog::read(&path).unwrap();
        assert_eq!(log.len(), 3);
        assert_eq!(log.windows(0), [(2, 3)]);
        assert_eq!(log.position(0), 512);
        assert_eq!(log.position(2), 512 * 4);

        for (survival, kept) in [(0, false), (256, true)] {
            let path = directory.join("image");
            let image = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
                .unwrap();
            image.set_len(4096).unwrap();
            // This seed does not tear.
            log.replay(&image, 2, 3, &mut Fate::new(1, survival))
                .unwrap();
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes[512..1024], ones);
            assert_eq!(bytes[1024..2048] == twos, kept);
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
