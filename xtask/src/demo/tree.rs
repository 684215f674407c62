// SPDX-License-Identifier: GPL-2.0-only
//! The source trees that the demo unpacks, and their SHA-256 lists: made once, on the host.
//!
//! Both are cut out of the source package of the very kernel that is booted. They are kept as
//! plain archives, so that what is measured in the VM is the filesystem, not xz.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use aegisfs_guest::tree;
use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::kernel::{self, Kernel};
use crate::toolchain::Toolchain;
use crate::{cmd, paths, ui};

/// Fewer files than this would not be a real source tree.
const MIN_FILES: usize = 40_000;
/// Two thirds of the source's bytes are drivers: without them the tree fits the 3 GB disk with
/// room for the writer, and the demo's time.
const LEFT_OUT: &str = "drivers";
/// The part that is unpacked again and again to compare filesystems.
const PART: &[&str] = &["fs", "include", "lib", "mm"];
/// Part of the cache key: raise it when the selection changes.
const RECIPE: u32 = 1;

#[derive(Debug, Clone)]
pub struct Trees {
    directory: PathBuf,
    pub counts: Counts,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Counts {
    pub files: usize,
    pub bytes: u64,
    pub part_files: usize,
    pub part_bytes: u64,
}

impl Trees {
    /// The archive of the whole tree.
    pub fn archive(&self) -> PathBuf {
        self.directory.join("tree.tar")
    }

    /// The archive of the part for comparisons.
    pub fn part(&self) -> PathBuf {
        self.directory.join("part.tar")
    }

    /// An archive that holds the list of sums, `tree.sha256`.
    pub fn lists(&self) -> PathBuf {
        self.directory.join("lists.tar")
    }

    /// The trees, made first where they are missing.
    pub fn ensure(kernel: &Kernel, toolchain: &Toolchain) -> Result<Trees> {
        let source = kernel.source_archive()?;
        let directory = kernel.directory().join(format!("demo-{RECIPE}"));
        let record = directory.join("counts.json");
        if let Some(counts) = kernel::read_record(&record)? {
            return Ok(Trees { directory, counts });
        }
        let _lock = paths::Lock::take(&paths::cache()?.join("lock"), "demo tree")?;
        if let Some(counts) = kernel::read_record(&record)? {
            return Ok(Trees { directory, counts });
        }
        paths::remove_tree(&directory)?;
        fs::create_dir_all(&directory)?;
        let counts = make(&source, &directory, toolchain)?;
        paths::write_atomically(&record, &serde_json::to_vec_pretty(&counts)?)?;
        Ok(Trees { directory, counts })
    }
}

fn make(source: &Path, directory: &Path, toolchain: &Toolchain) -> Result<Counts> {
    ui::step(format!(
        "unpacking {} for the demo (once)",
        source.display()
    ));
    let root = directory.join("unpacked");
    fs::create_dir_all(&root)?;
    let mut unpack = toolchain.command(directory, "tar")?;
    unpack
        .arg("-xf")
        .arg(source)
        .arg("-C")
        .arg(&root)
        .arg("--strip-components=1");
    unpack
        .arg(format!("--exclude=*/{LEFT_OUT}/*"))
        .arg("--no-wildcards-match-slash");
    cmd::run(&mut unpack).context("unpack the kernel source")?;
    paths::remove_tree(&root.join(LEFT_OUT))?;

    let files = tree::list_files(&root)?;
    ensure!(
        files.len() >= MIN_FILES,
        "the source tree has {} files, {MIN_FILES} are wanted",
        files.len()
    );
    ui::step(format!("summing {} files", files.len()));
    let (list, bytes) = sums(&root, &files)?;
    fs::write(directory.join("tree.sha256"), list)?;
    let in_part = |file: &&String| {
        PART.iter()
            .any(|part| file.starts_with(&format!("{part}/")))
    };
    let part: Vec<&String> = files.iter().filter(in_part).collect();
    let part_files = part.len();
    let part_bytes = part
        .iter()
        .map(|file| Ok(fs::symlink_metadata(root.join(file))?.len()))
        .sum::<Result<u64>>()?;

    let pack = |name: &str, from: &Path, what: &[&str]| -> Result<()> {
        let mut tar = Command::new("tar");
        tar.args([
            "--create",
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
        ]);
        tar.arg("--file")
            .arg(directory.join(name))
            .arg("-C")
            .arg(from)
            .args(what);
        cmd::run(&mut tar).with_context(|| format!("pack {name}"))
    };
    pack("tree.tar", &root, &["."])?;
    pack("part.tar", &root, PART)?;
    pack("lists.tar", directory, &["tree.sha256"])?;
    paths::remove_tree(&root)?;
    Ok(Counts {
        files: files.len(),
        bytes,
        part_files,
        part_bytes,
    })
}

/// The list of sums in the format of sha256sum, and the number of bytes.
fn sums(root: &Path, files: &[String]) -> Result<(Vec<u8>, u64)> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(files.len()));
    std::thread::scope(|scope| -> Result<()> {
        let worker = || -> Result<()> {
            let mut buffer = tree::read_buffer();
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let path = root.join(file);
                let (sum, size) = tree::digest(&path, &mut buffer)
                    .with_context(|| format!("read {}", path.display()))?;
                results
                    .lock()
                    .expect("no thread panicked")
                    .push((file, sum, size));
            }
            Ok(())
        };
        let workers: Vec<_> = (0..kernel::jobs()).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no thread panicked"))
    })?;
    let mut results = results.into_inner().expect("no thread panicked");
    results.sort_unstable();
    let mut list = Vec::new();
    let mut bytes = 0;
    for (file, sum, size) in results {
        writeln!(list, "{sum}  {file}")?;
        bytes += size;
    }
    Ok((list, bytes))
}

/// Archives are attached as disks: their length must be whole sectors.
pub fn check_disk(path: &Path) -> Result<()> {
    let length = File::open(path)?.metadata()?.len();
    ensure!(
        length % 512 == 0,
        "{} is not a whole number of sectors",
        path.display()
    );
    Ok(())
}
