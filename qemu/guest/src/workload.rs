// SPDX-License-Identifier: GPL-2.0-only
//! The power-cut workload: a writer that says what it has made durable, and its checker.
//!
//! The writer repeats numbered steps in one directory. Step `n`
//! - creates the file `files/<n / 100>/<n>` whose whole content follows from `n`;
//! - appends record `n` to `log`;
//!
//! and after each [`BATCH`] steps it fsyncs the batch's files, their directory and the log, then
//! replaces `current` by way of a temporary file, fsync and rename, and prints `synced <n>`.
//!
//! After a crash, with `synced` the last number that was printed:
//! - files up to `synced` and log records up to `synced` are there, byte for byte;
//! - files after that exist without a gap, and each holds a prefix of its content;
//! - the log is a prefix of what was appended;
//! - `current` holds one whole version, not older than `synced`.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};

/// Steps between two sync points.
pub const BATCH: u64 = 8;
/// Files in one directory.
const PER_DIRECTORY: u64 = 100;
/// Bytes in one record of the log: a number, its check value and a filling that follows from it.
const RECORD: usize = 64;
const MAX_FILE: u64 = 96 << 10;

/// Bytes that follow from a seed (SplitMix64: fast under emulation, and no run of zeros).
fn fill(seed: u64, out: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6165_6769_7366_7321;
    for chunk in out.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

/// The content of file `number`: its size spreads from empty over sub-block to many blocks.
pub fn content(number: u64) -> Vec<u8> {
    let mut word = [0u8; 8];
    fill(!number, &mut word);
    let random = u64::from_le_bytes(word);
    let limit = match number % 8 {
        0 => 1,
        1 | 2 => 512,
        3 | 4 => 8 << 10,
        5 | 6 => 24 << 10,
        _ => MAX_FILE,
    };
    let mut bytes = vec![0; (random % limit) as usize];
    fill(number, &mut bytes);
    bytes
}

fn record(number: u64) -> [u8; RECORD] {
    let mut bytes = [0u8; RECORD];
    fill(number ^ 0x6c6f_6700, &mut bytes);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn current(number: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; 6000];
    fill(number ^ 0x6375_7200, &mut bytes);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn directory_of(root: &Path, number: u64) -> PathBuf {
    root.join("files")
        .join((number / PER_DIRECTORY).to_string())
}

/// The path of a file within the workload's directory.
fn path_of(number: u64) -> String {
    format!("files/{}/{number}", number / PER_DIRECTORY)
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("fsync {}", path.display()))
}

/// Writes until `last` (or for ever), telling `synced` about every durable step.
pub fn write(root: &Path, last: Option<u64>, mut synced: impl FnMut(u64)) -> Result<()> {
    fs::create_dir_all(root.join("files")).context("create the workload's directory")?;
    let log_path = root.join("log");
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("open {}", log_path.display()))?;
    ensure!(
        log.metadata()?.len() == 0,
        "{} holds records already",
        log_path.display()
    );
    sync_directory(root)?;
    let mut batch: Vec<File> = Vec::new();
    let mut number = 0;
    while last != Some(number) {
        number += 1;
        let path = root.join(path_of(number));
        if number == 1 || number % PER_DIRECTORY == 0 {
            let directory = directory_of(root, number);
            fs::create_dir_all(&directory)
                .with_context(|| format!("create {}", directory.display()))?;
            sync_directory(&root.join("files"))?;
        }
        let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        file.write_all(&content(number))
            .with_context(|| format!("write {}", path.display()))?;
        batch.push(file);
        log.write_all(&record(number))
            .context("append to the log")?;
        if number % BATCH == 0 {
            for file in batch.drain(..) {
                file.sync_all()
                    .with_context(|| format!("fsync before {}", path.display()))?;
            }
            sync_directory(&directory_of(root, number + 1 - BATCH))?;
            sync_directory(&directory_of(root, number))?;
            log.sync_data().context("fdatasync the log")?;
            let temporary = root.join("current.tmp");
            let mut file = File::create(&temporary).context("create current.tmp")?;
            file.write_all(&current(number))
                .context("write current.tmp")?;
            file.sync_all().context("fsync current.tmp")?;
            fs::rename(&temporary, root.join("current")).context("rename over current")?;
            sync_directory(root)?;
            synced(number);
        }
    }
    Ok(())
}

/// What [`check`] found; all of it agrees with the contract.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Steps that were promised and are whole.
    pub synced: u64,
    /// Files after the last promised step.
    pub later: u64,
    pub records: u64,
    pub current: u64,
}

/// Where the workload's files are looked at; paths are relative to its directory.
pub trait Source {
    /// The content of a file, if there is one of this name.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>>;
    /// The names in a directory; none if it does not exist.
    fn names(&self, path: &str) -> Result<Vec<String>>;
}

/// A mounted directory.
struct Directory<'a>(&'a Path);

impl Source for Directory<'_> {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        found(fs::read(self.0.join(path))).with_context(|| format!("read {path}"))
    }

    fn names(&self, path: &str) -> Result<Vec<String>> {
        found(fs::read_dir(self.0.join(path)))
            .with_context(|| format!("read {path}"))?
            .into_iter()
            .flatten()
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }
}

fn found<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Compares the directory with the contract at the top of this file.
pub fn check(root: &Path, synced: u64) -> Result<Found> {
    check_source(&Directory(root), synced)
}

/// As [`check`], wherever the files are.
pub fn check_source(source: &dyn Source, synced: u64) -> Result<Found> {
    let mut number = 0;
    loop {
        number += 1;
        let Some(found) = source.read(&path_of(number))? else {
            ensure!(
                number > synced,
                "file {number}, fsynced, is missing (the promise goes to {synced})"
            );
            break;
        };
        let wanted = content(number);
        if number <= synced {
            ensure!(
                found == wanted,
                "file {number} was fsynced with {} bytes and {}",
                wanted.len(),
                difference(&found, &wanted)
            );
        } else {
            ensure!(
                wanted.starts_with(&found),
                "file {number}, not fsynced, holds what was never written: it {}",
                difference(&found, &wanted)
            );
        }
    }
    let later = number - 1 - synced;
    let mut stray = Vec::new();
    for directory in source.names("files")? {
        for name in source.names(&format!("files/{directory}"))? {
            match name.parse::<u64>() {
                Ok(found) if (1..number).contains(&found) => {}
                _ => stray.push(format!("{directory}/{name}")),
            }
        }
    }
    ensure!(
        stray.is_empty(),
        "file {number} is missing, yet later ones exist, or names that were never made: {}",
        stray.join(", ")
    );

    let Some(log) = source.read("log")? else {
        ensure!(synced == 0, "the log is missing");
        return Ok(Found {
            synced,
            later,
            records: 0,
            current: 0,
        });
    };
    let records = log.chunks_exact(RECORD);
    let tail = records.remainder();
    let mut whole = 0;
    for found in records {
        whole += 1;
        ensure!(
            found == record(whole),
            "record {whole} of the log ({synced} promised) is not what was appended"
        );
    }
    ensure!(
        record(whole + 1).starts_with(tail),
        "the log ends in bytes that were never written"
    );
    ensure!(
        whole >= synced,
        "the log has {whole} records, {synced} were promised"
    );

    let current_number = match source.read("current")? {
        Some(bytes) => {
            let Some((head, _)) = bytes.split_first_chunk::<8>() else {
                bail!("'current' is empty: a rename lost both versions");
            };
            let version = u64::from_le_bytes(*head);
            ensure!(
                bytes == current(version),
                "'current' is no version that was written"
            );
            ensure!(
                version >= synced,
                "'current' is version {version}, {synced} was promised"
            );
            version
        }
        None => {
            ensure!(synced == 0, "'current' is missing");
            0
        }
    };
    Ok(Found {
        synced,
        later,
        records: whole,
        current: current_number,
    })
}

fn difference(found: &[u8], wanted: &[u8]) -> String {
    match found.iter().zip(wanted).position(|(a, b)| a != b) {
        Some(at) => format!("differs at byte {at}"),
        None => format!("has {} of {} bytes", found.len(), wanted.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("aegis-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_finished_run_checks() {
        let root = scratch("finished");
        let mut last = 0;
        write(&root, Some(203), |number| last = number).unwrap();
        assert_eq!(last, 200);
        let found = check(&root, last).unwrap();
        assert_eq!(
            found,
            Found {
                synced: 200,
                later: 3,
                records: 203,
                current: 200
            }
        );
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn every_breach_of_the_promise_is_seen() {
        let root = scratch("breach");
        write(&root, Some(24), |_| ()).unwrap();
        type Damage = fn(&Path);
        let breaches: [(&str, Damage); 7] = [
            ("a lost file", |root| {
                fs::remove_file(root.join(path_of(7))).unwrap()
            }),
            ("a short file", |root| {
                File::options()
                    .write(true)
                    .open(root.join(path_of(7)))
                    .unwrap()
                    .set_len(3)
                    .unwrap();
            }),
            ("a gap after the promise", |root| {
                fs::remove_file(root.join(path_of(20))).unwrap()
            }),
            ("garbage after the promise", |root| {
                fs::write(root.join(path_of(23)), b"junk").unwrap()
            }),
            ("a short log", |root| {
                File::options()
                    .write(true)
                    .open(root.join("log"))
                    .unwrap()
                    .set_len(640)
                    .unwrap();
            }),
            ("an empty rename target", |root| {
                fs::write(root.join("current"), b"").unwrap()
            }),
            ("an old version", |root| {
                fs::write(root.join("current"), current(8)).unwrap()
            }),
        ];
        for (name, damage) in breaches {
            let _ = fs::remove_dir_all(&root);
            write(&root, Some(24), |_| ()).unwrap();
            check(&root, 16).unwrap();
            damage(&root);
            assert!(check(&root, 16).is_err(), "{name} was not seen");
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn nothing_promised_nothing_owed() {
        let root = scratch("nothing");
        fs::create_dir_all(&root).unwrap();
        let found = check(&root, 0).unwrap();
        assert_eq!(
            found,
            Found {
                synced: 0,
                later: 0,
                records: 0,
                current: 0
            }
        );
        fs::remove_dir_all(&root).unwrap();
    }
}
