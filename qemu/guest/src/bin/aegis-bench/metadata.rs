// SPDX-License-Identifier: GPL-2.0-only
//! Many files, in one directory or spread evenly over several.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, CWD};

/// Coprime to every number of files that a script asks for (they have no prime factors but 2, 5):
/// steps of this size visit all of them, in an order that is none on the disk.
const STRIDE: u64 = 7_368_787;
/// The system call `getdents64` fills a buffer of this size in one go.
const LISTING: usize = 32 << 10;

pub struct Files {
    directories: Vec<PathBuf>,
    count: u64,
}

impl Files {
    pub fn new(root: &Path, count: u64, directories: u64) -> Self {
        let directories = match directories {
            0 | 1 => vec![root.to_owned()],
            many => (0..many)
                .map(|number| root.join(format!("directory-{number:05}")))
                .collect(),
        };
        Files { directories, count }
    }

    /// A file's path as a system call takes it. Files of one directory have neighbouring numbers.
    fn path(&self, prefix: &str, number: u64) -> Result<CString> {
        let many = self.directories.len() as u64;
        let directory = &self.directories[(number * many / self.count) as usize];
        let path = directory.join(format!("{prefix}-{number:08}"));
        Ok(CString::new(path.as_os_str().as_bytes())?)
    }

    pub fn create(&self, bytes: u64) -> Result<()> {
        let content = vec![b'a'; bytes as usize];
        for directory in &self.directories {
            fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        for number in 0..self.count {
            let path = self.path("file", number)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644))
                .with_context(|| format!("create {path:?}"))?;
            if bytes > 0 {
                File::from(file).write_all(&content)?;
            }
        }
        Ok(())
    }

    pub fn stat(&self) -> Result<()> {
        for step in 0..self.count {
            let path = self.path("file", step * STRIDE % self.count)?;
            rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)
                .with_context(|| format!("stat {path:?}"))?;
        }
        Ok(())
    }

    pub fn list(&self) -> Result<()> {
        let mut buffer = Vec::with_capacity(LISTING);
        let mut found = 0;
        for directory in &self.directories {
            let directory = File::open(directory)?;
            let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                found += u64::from(entry?.file_name().to_bytes().starts_with(b"file-"));
            }
        }
        ensure!(
            found == self.count,
            "{found} of {} files listed",
            self.count
        );
        Ok(())
    }

    pub fn rename(&self) -> Result<()> {
        for number in 0..self.count {
            let (from, to) = (self.path("file", number)?, self.path("renamed", number)?);
            rustix::fs::rename(&from, &to).with_context(|| format!("rename {from:?}"))?;
        }
        Ok(())
    }

    pub fn unlink(&self) -> Result<()> {
        for number in 0..self.count {
            let path = self.path("renamed", number)?;
            rustix::fs::unlink(&path).with_context(|| format!("unlink {path:?}"))?;
        }
        Ok(())
    }
}
