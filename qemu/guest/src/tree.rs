// SPDX-License-Identifier: GPL-2.0-only
//! Verifies a file tree against a list of SHA-256 sums, on several threads.
//!
//! The list is in the format of `sha256sum`: 64 hexadecimal digits, two spaces, path relative to
//! the root of the tree. Symbolic links stand in it with the sum of their target.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Mutex;

use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};

const READ_SIZE: usize = 256 << 10;
/// Differences that are reported one by one; the rest is only counted.
const MAX_REPORTED: usize = 20;

#[derive(Debug, Default)]
pub struct Outcome {
    pub files: u64,
    pub bytes: u64,
    pub wrong: u64,
    pub reports: Vec<String>,
}

/// SHA-256 of a regular file, or of the target text of a symbolic link.
pub fn digest(path: &Path, buffer: &mut [u8]) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut size = 0u64;
    if fs::symlink_metadata(path)?.is_symlink() {
        let target = fs::read_link(path)?;
        hash.update(target.as_os_str().as_encoded_bytes());
    } else {
        let mut file = File::open(path)?;
        loop {
            let count = file.read(buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            size += count as u64;
        }
    }
    Ok((hex(&hash.finalize()), size))
}

pub fn read_buffer() -> Vec<u8> {
    vec![0; READ_SIZE]
}

/// Compares every entry of `list` with the tree at `root`, and counts entries of the tree that
/// the list does not know.
pub fn verify(list: &str, root: &Path, threads: usize) -> Result<Outcome> {
    let entries: Vec<(&str, &str)> = list
        .lines()
        .enumerate()
        .map(|(index, line)| {
            line.split_once("  ")
                .filter(|(sum, path)| sum.len() == 64 && !path.is_empty())
                .with_context(|| format!("line {} of the list is not 'SHA256  PATH'", index + 1))
        })
        .collect::<Result<_>>()?;
    let next = AtomicUsize::new(0);
    let bytes = AtomicU64::new(0);
    let wrong = AtomicU64::new(0);
    let reports = Mutex::new(Vec::new());
    let report = |text: String| {
        wrong.fetch_add(1, Ordering::Relaxed);
        let mut reports = reports.lock().expect("no thread panics while it reports");
        if reports.len() < MAX_REPORTED {
            reports.push(text);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut buffer = read_buffer();
                while let Some((sum, path)) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match digest(&root.join(path), &mut buffer) {
                        Ok((found, size)) => {
                            bytes.fetch_add(size, Ordering::Relaxed);
                            if found != *sum {
                                report(format!("{path}: SHA-256 is {found}, not {sum}"));
                            }
                        }
                        Err(error) => report(format!("{path}: {error}")),
                    }
                }
            });
        }
    });
    let present = count_files(root)?;
    let mut outcome = Outcome {
        files: entries.len() as u64,
        bytes: bytes.into_inner(),
        wrong: wrong.into_inner(),
        reports: reports.into_inner().expect("no thread panicked"),
    };
    if present > outcome.files {
        let extra = present - outcome.files;
        outcome.wrong += extra;
        outcome
            .reports
            .push(format!("{extra} files that the list does not name"));
    }
    Ok(outcome)
}

/// Every entry below `root` that is not a directory, as sorted relative paths.
pub fn list_files(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    walk(root, &mut |path| {
        let relative = path.strip_prefix(root).expect("walk stays below its root");
        match relative.to_str() {
            Some(text) if !text.contains('\n') => {
                found.push(text.to_owned());
                Ok(())
            }
            _ => bail!("{}: a name that a line cannot hold", path.display()),
        }
    })?;
    found.sort_unstable();
    Ok(found)
}

fn count_files(root: &Path) -> Result<u64> {
    let mut count = 0;
    walk(root, &mut |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", directory.display()))?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                visit(&entry.path())?;
            }
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_changed_missing_and_extra_files() {
        let root = std::env::temp_dir().join(format!("aegis-tree-{}", std::process::id()));
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(root.join("a"), b"alpha").unwrap();
        fs::write(root.join("d/b"), b"beta").unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        let paths = list_files(&root).unwrap();
        assert_eq!(paths, ["a", "d/b", "link"]);
        let mut list = String::new();
        for path in &paths {
            let (sum, _) = digest(&root.join(path), &mut read_buffer()).unwrap();
            writeln!(list, "{sum}  {path}").unwrap();
        }
        let good = verify(&list, &root, 2).unwrap();
        assert_eq!((good.files, good.bytes, good.wrong), (3, 9, 0));

        fs::write(root.join("a"), b"alphA").unwrap();
        fs::remove_file(root.join("d/b")).unwrap();
        fs::write(root.join("x"), b"").unwrap();
        fs::write(root.join("y"), b"").unwrap();
        let bad = verify(&list, &root, 2).unwrap();
        assert_eq!(bad.wrong, 3, "{:?}", bad.reports);
        fs::remove_dir_all(&root).unwrap();
    }
}
