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
use std::os::unix::fs::FileExt;
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

fn path_of(root: &Path, number: u64) -> PathBuf {
    directory_of(root, number).join(number.to_string())
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
        let path = path_of(root, number);
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

/// Compares the directory with the contract at the top of this file.
pub fn check(root: &Path, synced: u64) -> Result<Found> {
    let mut number = 0;
    loop {
        number += 1;
        let path = path_of(root, number);
        let found = match fs::read(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound && number > synced => break,
            Err(error) => {
                bail!("file {number}, fsynced (the promise goes to {synced}): {error}")
            }
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
    for directory in read_names(&root.join("files"))? {
        for name in read_names(&root.join("files").join(&directory))? {
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

    let log = match File::open(root.join("log")) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound && synced == 0 => {
            return Ok(Found {
                synced,
                later,
                records: 0,
                current: 0,
            });
        }
        Err(error) => bail!("the log is missing: {error}"),
    };
    let length = log.metadata()?.len();
    let whole = length / RECORD as u64;
    for index in 0..whole {
        let mut found = [0u8; RECORD];
        log.read_exact_at(&mut found, index * RECORD as u64)
            .context("read the log")?;
        ensure!(
            found == record(index + 1),
            "record {} of the log (of {whole}, {synced} promised) is not what was appended",
            index + 1
        );
    }
    let mut tail = vec![0u8; (length % RECORD as u64) as usize];
    log.read_exact_at(&mut tail, whole * RECORD as u64)
        .context("read the log")?;
    ensure!(
        record(whole + 1).starts_with(&tail),
        "the log ends in bytes that were never written"
    );
    ensure!(
        whole >= synced,
        "the log has {whole} records, {synced} were promised"
    );

    let current_number = match fs::read(root.join("current")) {
        Ok(bytes) => {
            ensure!(
                bytes.len() >= 8,
                "'current' is empty: a rename lost both versions"
            );
            let (head, _) = bytes.split_first_chunk::<8>().expect("8 bytes are there");
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
        Err(error) if error.kind() == ErrorKind::NotFound && synced == 0 => 0,
        Err(error) => bail!("'current' is missing: {error}"),
    };
    Ok(Found {
        synced,
        later,
        records: whole,
        current: current_number,
    })
}

fn read_names(directory: &Path) -> Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()
            .with_context(|| format!("read {}", directory.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => bail!("read {}: {error}", directory.display()),
    }
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
                fs::remove_file(path_of(root, 7)).unwrap()
            }),
            ("a short file", |root| {
                File::options()
                    .write(true)
                    .open(path_of(root, 7))
                    .unwrap()
                    .set_len(3)
                    .unwrap();
            }),
            ("a gap after the promise", |root| {
                fs::remove_file(path_of(root, 20)).unwrap()
            }),
            ("garbage after the promise", |root| {
                fs::write(path_of(root, 23), b"junk").unwrap()
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
