// SPDX-License-Identifier: GPL-2.0-only
//! Writes an initramfs: a cpio archive in the "newc" format.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;

pub struct Archive<W: Write> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Archive {
            out,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a file at a path without a leading slash, and the directories that lead to it.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, REGULAR | (mode & 0o7777), content)
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK, target.as_bytes())
    }

    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(&format!("{path}/"))
    }

    /// Adds a directory and everything below it.
    pub fn tree(&mut self, path: &str, source: &Path) -> Result<()> {
        self.directory(path)?;
        let mut entries: Vec<_> = fs::read_dir(source)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .with_context(|| format!("read {}", source.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inside = format!("{path}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.tree(&inside, &entry.path())?;
            } else if kind.is_symlink() {
                self.symlink(&inside, &fs::read_link(entry.path())?.to_string_lossy())?;
            } else {
                self.copy(&inside, &entry.path())?;
            }
        }
        Ok(())
    }

    /// Adds a file of the host, with its permissions.
    pub fn copy(&mut self, path: &str, source: &Path) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        self.file(path, fs::metadata(source)?.permissions().mode(), &content)
    }

    pub fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            if self.directories.insert(path[..end].to_owned()) {
                self.entry(&path[..end], DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large"))?;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let name = path.len() as u32 + 1;
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0];
        let mut head = b"070701".to_vec();
        for field in fields {
            write!(head, "{field:08x}")?;
        }
        head.extend_from_slice(path.as_bytes());
        head.push(0);
        pad(&mut head);
        self.out.write_all(&head)?;
        self.out.write_all(content)?;
        self.out
            .write_all(&[0; 3][..content.len().wrapping_neg() % 4])?;
        Ok(())
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_have_parents() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/c", 0o755, b"12345").unwrap();
        archive.symlink("a/d", "b/c").unwrap();
        let bytes = archive.finish().unwrap();
        let mut at = 0;
        let mut names = Vec::new();
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + index * 8..][..8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name) = (field(6), field(11));
            names.push(String::from_utf8(bytes[at + 110..at + 110 + name - 1].to_vec()).unwrap());
            at = (at + 110 + name).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/d", "TRAILER!!!"]);
    }
}
