// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask bench`: AegisFS beside ext4, XFS and btrfs, each as its mkfs makes it.
//!
//! The scripts of `tests/bench` do the work. In every round each script runs on every filesystem,
//! one after the other on the same disk, and who begins changes: an emulated or busy machine's
//! times mean little, but ratios of work done side by side do. What counts is the median of the
//! rounds. The disks are files in memory where they fit, and a flush costs nothing there: the
//! rows show processor time and waiting of the filesystems, not the speed of a disk.

mod repository;
mod script;
mod table;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::demo::tree::{check_disk, Trees};
use crate::filesystem::Filesystem;
use crate::kernel::{Choice, Kernel};
use crate::stage::Demand;
use crate::testbed::{Shape, Testbed};
use crate::vm::{Disk, Vm};
use crate::{paths, ui};
use table::Table;

const MEMORY_MIB: u32 = 3072;
const DISK_SIZE: u64 = 6 << 30;
const DISK_SIZE_QUICK: u64 = 3 << 30;
/// Of each filesystem's aged volume.
const AGED_DISK_SIZE: u64 = 4 << 30;
/// Where files are in memory, and what must be free there beside the disk.
const IN_MEMORY: &str = "/dev/shm";
const MEMORY_RESERVE: u64 = 6 << 30;
/// After this a quick run begins no further round.
const QUICK_LIMIT: Duration = Duration::from_secs(30 * 60);
/// A single script on one filesystem that takes longer hangs.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(3600);
const ROUNDS: u32 = 5;
const ROUNDS_QUICK: u32 = 3;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Less work in every row, fewer rounds, no aged volumes: within 40 minutes.
    #[arg(long)]
    quick: bool,
    /// Only scripts with a row whose name contains this; only such rows are shown.
    #[arg(long, value_name = "PATTERN", default_value = "")]
    rows: String,
    /// The filesystems.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST",
          default_values_t = Filesystem::ALL)]
    fs: Vec<Filesystem>,
    /// The kernel: stock in QEMU, or uml, which runs at native speed.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
    /// Write the results there, after every round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each script runs on each filesystem.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Leave out the rows on aged, nearly full volumes.
    #[arg(long)]
    no_aged: bool,
}

pub fn main(options: &Options) -> Result<()> {
    let testbed = Testbed::prepare(options.kernel, Demand::Everything)?;
    // The same tree for every kernel.
    let stock = Kernel::ensure(Choice::Stock, &testbed.toolchain)?;
    let trees = Trees::ensure(&stock, &testbed.toolchain)?;
    check_disk(&trees.part())?;
    let repository = repository::ensure(&trees, &stock)?;
    let scripts = script::find(&paths::checkout().join("tests/bench"), &options.rows)?;
    ensure!(!scripts.is_empty(), "no row contains '{}'", options.rows);
    let aged = !options.quick && !options.no_aged;

    let disk_size = match options.quick {
        true => DISK_SIZE_QUICK,
        false => DISK_SIZE,
    };
    let file = |path: &Path| Disk::File {
        path: path.to_owned(),
        read_only: true,
    };
    let mut disks = vec![
        Disk::Scratch { size: disk_size },
        file(&trees.part()),
        file(&repository),
    ];
    let mut total = disk_size;
    if aged {
        for _ in Filesystem::ALL {
            disks.push(Disk::Scratch {
                size: AGED_DISK_SIZE,
            });
            total += AGED_DISK_SIZE;
        }
    }
    let shape = Shape {
        memory_mib: MEMORY_MIB,
        // Its second processor would spin, for locks whose holder waits for a processor of the host.
        cpus: match options.kernel {
            Choice::Uml => 1,
            _ => 2,
        },
        ..Shape::default()
    };
    let mut config = testbed.config(&shape, disks);
    config.directory = memory_for(total);

    let mut table = Table::new(&testbed.kernel.release, options.quick);
    let rounds = options.rounds.unwrap_or(match options.quick {
        true => ROUNDS_QUICK,
        false => ROUNDS,
    });
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    for round in 0..rounds as usize {
        if options.quick && round > 0 && start.elapsed() + longest > QUICK_LIMIT {
            ui::warn(format!("no time for more than {round} rounds"));
            break;
        }
        let begin = Instant::now();
        // A fresh kernel each time: what one run leaves behind in memory shall not tilt all.
        let mut vm = Vm::boot(&config)?;
        if aged {
            for filesystem in &options.fs {
                ui::step(format!("aging {}", filesystem.name()));
                run(&mut vm, "age.sh", *filesystem, options.quick, false)?;
            }
        }
        for (index, script) in scripts.iter().enumerate() {
            let mut turn = options.fs.clone();
            turn.rotate_left((round + index) % options.fs.len());
            for filesystem in turn {
                ui::step(format!(
                    "round {} of {rounds}: {} on {}",
                    round + 1,
                    script.name,
                    filesystem.name()
                ));
                for old in [false, true] {
                    if !old || aged {
                        let output = run(&mut vm, &script.name, filesystem, options.quick, old)?;
                        table
                            .add(script, filesystem, old, &output)
                            .with_context(|| script.name.clone())?;
                    }
                }
            }
        }
        vm.shut_down()?;
        longest = longest.max(begin.elapsed());
        if let Some(path) = &options.json {
            paths::write_atomically(path, &table.json(&options.rows)?)?;
        }
    }
    table.print(&options.rows);
    Ok(())
}

fn run(
    vm: &mut Vm,
    script: &str,
    filesystem: Filesystem,
    quick: bool,
    aged: bool,
) -> Result<String> {
    vm.shell(
        &format!(
            "FS={} QUICK={} AGED={} bash /tests/bench/{script}",
            filesystem.name(),
            u8::from(quick),
            u8::from(aged)
        ),
        SCRIPT_TIMEOUT,
    )
}

/// A directory in memory, if disks of so many bytes fit there beside everything else.
fn memory_for(bytes: u64) -> Option<PathBuf> {
    let path = PathBuf::from(IN_MEMORY);
    let state = rustix::fs::statvfs(&path).ok()?;
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .ok()?;
    let free = (state.f_bavail * state.f_frsize).min(available << 10);
    Some(path).filter(|_| free >= bytes + MEMORY_RESERVE)
}
