// SPDX-License-Identifier: GPL-2.0-only
//! What an operation costs on volumes of 10^4, 10^5 and 10^6 files: instructions, as callgrind
//! counts them, and nodes read and written. Exact, on whatever busy machine.
//!
//! `cargo run --release -p aegisfs_sim --example op_cost -- [FILES...]` (needs valgrind)
//!
//! Each figure is the difference between a run of some and a run of twice as many operations, by
//! their number: what mounting takes falls out, checkpoints are in it. Nothing of the volume is in
//! memory at first, so most operations read the leaf that they need.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use aegisfs_engine::{
    format_volume, FormatOptions, Fs, MountOptions, NewInode, RenameMode, MODE_DIR, MODE_FILE,
    ROOT_INO,
};
use aegisfs_sim::disk::{Image, PageMap, SimDisk, PAGE};
use aegisfs_sim::volume::Simulated;
use anyhow::{ensure, Context, Result};

const DISK: u64 = 4 << 30;
/// What the simulated disk makes of discarded pages: they need not be kept.
const DISCARDED: [u8; PAGE] = [0xdd; PAGE];
const PER_DIRECTORY: u64 = 1000;
/// Operations of the shorter run.
const COUNT: u64 = 500;
/// Of the file that is written to.
const BLOCKS: u64 = 4096;
/// A prime above all numbers of files: steps of this size meet every file, in no order.
const STRIDE: u64 = 7_368_787;
const OPERATIONS: [&str; 7] = [
    "create",
    "lookup",
    "lookup, hot",
    "rename",
    "unlink",
    "4 KiB written and synced",
    "readdir of 1000 names",
];

fn new(mode: u32) -> NewInode<'static> {
    NewInode {
        mode,
        ..NewInode::default()
    }
}

fn directory(number: u64) -> Vec<u8> {
    format!("directory-{number:04}").into_bytes()
}

fn name(number: u64) -> Vec<u8> {
    format!("file-{number:07}").into_bytes()
}

fn engine<T>(result: aegisfs_engine::Result<T>) -> Result<T> {
    result.map_err(|e| anyhow::anyhow!("{e:?}"))
}

fn fill(fs: &Fs, files: u64) -> aegisfs_engine::Result<()> {
    for number in 0..files / PER_DIRECTORY {
        let dir = fs
            .create(ROOT_INO, &directory(number), &new(MODE_DIR | 0o755))?
            .attr
            .ino;
        for file in number * PER_DIRECTORY..(number + 1) * PER_DIRECTORY {
            fs.create(dir, &name(file), &new(MODE_FILE | 0o644))?;
        }
    }
    let data = fs
        .create(ROOT_INO, b"data", &new(MODE_FILE | 0o644))?
        .attr
        .ino;
    for block in 0..BLOCKS {
        fs.write(data, block * PAGE as u64, &[7; PAGE])?;
    }
    fs.unmount()
}

/// Writes a volume of so many files to `path`: the number and the content of each page.
fn make(path: &Path, files: u64) -> Result<()> {
    let _simulated = Simulated::begin(1);
    let disk = SimDisk::new(DISK);
    engine(format_volume(disk.devices(), &FormatOptions::new()))?;
    let options = MountOptions {
        discard: true,
        ..MountOptions::default()
    };
    let fs = engine(Fs::mount(disk.devices(), options))?;
    engine(fill(&fs, files))?;
    let image = disk.image();
    let mut out = BufWriter::new(File::create(path)?);
    for number in image.written() {
        let page = image.page(number).context("a page that is there")?;
        if page[..] == DISCARDED {
            continue;
        }
        out.write_all(&number.to_le_bytes())?;
        out.write_all(&page[..])?;
    }
    Ok(out.flush()?)
}

fn load(path: &Path) -> Result<SimDisk> {
    let mut image = Image::new(DISK);
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut number = [0; 4];
    while file.read_exact(&mut number).is_ok() {
        let mut page = [0; PAGE];
        file.read_exact(&mut page)?;
        image.set(u32::from_le_bytes(number), Arc::new(page));
    }
    Ok(SimDisk::over(Arc::new(image), PageMap::default()))
}

fn operation(fs: &Fs, what: &str, n: u64, files: u64) -> aegisfs_engine::Result<()> {
    // The hot ones take turns among a few.
    let turn = if what == "lookup, hot" { n % 10 } else { n };
    let file = turn * STRIDE % files;
    let at = file / PER_DIRECTORY;
    let dir = || fs.lookup(ROOT_INO, &directory(at));
    match what {
        "create" => fs
            .create(
                dir()?.ino,
                format!("new-{n}").as_bytes(),
                &new(MODE_FILE | 0o644),
            )
            .map(|_| ()),
        "rename" => {
            let dir = dir()?.ino;
            let to = format!("renamed-{n}");
            fs.rename(dir, &name(file), dir, to.as_bytes(), RenameMode::Replace)
                .map(|_| ())
        }
        "unlink" => {
            let gone = fs.unlink(dir()?.ino, &name(file))?.attr;
            fs.evict(gone.ino)
        }
        "4 KiB written and synced" => {
            let data = fs.lookup(ROOT_INO, b"data")?.ino;
            fs.write(data, n * 7919 % BLOCKS * PAGE as u64, &[8; PAGE])?;
            fs.sync()
        }
        "readdir of 1000 names" => fs.readdir(dir()?.ino, 0, &mut |_| true),
        _ => fs.lookup(dir()?.ino, &name(file)).map(|_| ()),
    }
}

/// Does the work of one run and prints the nodes that it read and wrote.
fn work(path: &Path, what: &str, count: u64, files: u64) -> Result<()> {
    let disk = load(path)?;
    let _simulated = Simulated::begin(2);
    let fs = engine(Fs::mount(disk.devices(), MountOptions::default()))?;
    for n in 0..count {
        engine(operation(&fs, what, n, files)).with_context(|| format!("{what} {n}"))?;
    }
    engine(fs.checkpoint())?;
    let counters = fs.counters();
    println!("{} {}", counters.nodes_read, counters.nodes_written);
    Ok(())
}

/// Instructions, nodes read, nodes written of a run of its own.
fn counted(path: &Path, what: &str, count: u64, files: u64) -> Result<[u64; 3]> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .arg("--work")
        .arg(path)
        .args([what, &count.to_string(), &files.to_string()])
        .output()
        .context("start valgrind: apt-get install valgrind")?;
    let (said, nodes) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    ensure!(output.status.success(), "{what}: {said}");
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .context("what callgrind collected")?;
    let mut numbers = [collected.1]
        .into_iter()
        .chain(nodes.split_whitespace())
        .map(|text| text.trim().parse());
    let mut next = || numbers.next().context("a number")?.context("a number");
    Ok([next()?, next()?, next()?])
}

/// The image, for as long as it is needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, path, what, count, files] = &arguments[..] {
        if flag == "--work" {
            return work(Path::new(path), what, count.parse()?, files.parse()?);
        }
    }
    let mut sizes: Vec<u64> = arguments
        .iter()
        .map(|text| text.parse().with_context(|| format!("'{text}'")))
        .collect::<Result<_>>()?;
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000, 1_000_000];
    }
    println!("| operation | files | instructions | nodes read | nodes written |");
    println!("|---|---|---|---|---|");
    let mut rows: Vec<(usize, u64, [f64; 3])> = Vec::new();
    for &files in &sizes {
        ensure!(files >= 2 * COUNT, "fewer than {} files", 2 * COUNT);
        let image = Scratch(std::env::temp_dir().join(format!("op-cost-{}", std::process::id())));
        make(&image.0, files)?;
        for (index, what) in OPERATIONS.iter().enumerate() {
            let once = counted(&image.0, what, COUNT, files)?;
            let twice = counted(&image.0, what, 2 * COUNT, files)?;
            let each =
                std::array::from_fn(|i| twice[i].saturating_sub(once[i]) as f64 / COUNT as f64);
            eprintln!("{files} files, {what}: {each:?}");
            rows.push((index, files, each));
        }
    }
    rows.sort_by_key(|(index, files, _)| (*index, *files));
    for (index, files, [instructions, read, written]) in rows {
        let what = OPERATIONS[index];
        println!("| {what} | {files} | {instructions:.0} | {read:.2} | {written:.2} |");
    }
    Ok(())
}
