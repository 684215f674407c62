// SPDX-License-Identifier: GPL-2.0-only
//! Makes a filesystem old: files of all sizes come and go until free space is in pieces.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const PER_DIRECTORY: usize = 500;
/// In every round one file of so many goes.
const GONE: u64 = 5;
const LARGEST: u64 = 4 << 20;
const SEED: u64 = 0x6167_6564;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Many small files, few large ones.
    fn size(&mut self) -> u64 {
        let limit = LARGEST >> self.below(12);
        1 + self.below(limit)
    }
}

/// Fills to `percent`, then `rounds` times removes files at random and fills again. The same
/// calls give the same files, as far as the filesystem's own overhead allows.
pub fn age(root: &Path, percent: u64, rounds: u64) -> Result<()> {
    let mut random = Random(SEED);
    let mut files: Vec<PathBuf> = Vec::new();
    let mut made = 0;
    for round in 0..=rounds {
        if round > 0 {
            let mut kept = Vec::new();
            for file in files.drain(..) {
                match random.below(GONE) {
                    0 => fs::remove_file(&file)
                        .with_context(|| format!("remove {}", file.display()))?,
                    _ => kept.push(file),
                }
            }
            files = kept;
        }
        while used_percent(root)? < percent {
            // Asking is slow on some filesystems, and free space lags behind.
            for _ in 0..50 {
                let directory = root.join(format!("old-{:04}", made / PER_DIRECTORY));
                fs::create_dir_all(&directory)?;
                let path = directory.join(format!("file-{made:06}"));
                let mut file = File::create_new(&path)?;
                file.write_all(&vec![made as u8; random.size() as usize])
                    .with_context(|| format!("write {}", path.display()))?;
                files.push(path);
                made += 1;
            }
        }
        rustix::fs::syncfs(File::open(root)?)?;
    }
    Ok(())
}

fn used_percent(root: &Path) -> Result<u64> {
    let state = rustix::fs::statvfs(root)?;
    Ok(100 - state.f_bavail * 100 / state.f_blocks)
}
