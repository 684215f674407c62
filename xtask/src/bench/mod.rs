// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask bench`: AegisFS beside ext4, XFS and btrfs, each as its mkfs makes it; with `--fuse`
//! beside other FUSE filesystems, on this machine.
//!
//! The scripts of `tests/bench` do the work. In every round each script runs on every filesystem,
//! one after the other on the same disk, and who begins changes: an emulated or busy machine's
//! times mean little, but ratios of work done side by side do. What counts is the median of the
//! rounds. The disks are files in memory where they fit, all of it there from the start, and a flush costs
//! nothing: the rows show processor time and waiting of the filesystems, not the speed of a disk.

mod contender;
mod on_host;
mod repository;
mod script;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

use crate::demo::tree::{check_disk, Trees};
use crate::kernel::{Choice, Kernel};
use crate::stage::Demand;
use crate::testbed::{parse_size, Shape, Testbed};
use crate::toolchain::Toolchain;
use crate::vm::{Config, Disk, Vm};
use crate::{cmd, paths, ui};
use contender::Contender;
use on_host::Host;
use table::Table;

const MEMORY_MIB: u32 = 3072;
const DISK_SIZE: u64 = 6 << 30;
const DISK_SIZE_QUICK: u64 = 3 << 30;
/// Of each filesystem's aged volume: all four fit into the memory of a machine with 24 GB, beside the quick disk.
const AGED_DISK_SIZE: u64 = 3 << 30;
/// Where files are in memory, and what must be free there beside the disk.
const IN_MEMORY: &str = "/dev/shm";
const MEMORY_RESERVE: u64 = 6 << 30;
/// After this a quick run begins no further round.
const QUICK_LIMIT: Duration = Duration::from_secs(30 * 60);
/// A single script on one filesystem that takes longer hangs.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(3600);
/// Touches most of the VM's memory, so that who comes first does not wait for the host to give it.
const WARM_UP: &str = "mount -t tmpfs -o size=80% warm /mnt && \
    { head -c 2400M /dev/zero >/mnt/all || true; } && umount /mnt";
const ROUNDS: u32 = 5;
const ROUNDS_QUICK: u32 = 3;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Less work in every row, fewer rounds: without aged volumes within 40 minutes.
    #[arg(long)]
    quick: bool,
    /// Only scripts with a row whose name contains this; only such rows are shown.
    #[arg(long, value_name = "PATTERN", default_value = "")]
    rows: String,
    /// The filesystems; the first is compared with the others [default: aegisfs,ext4,xfs,btrfs,
    /// with --fuse aegisfs-fuse,fuse2fs,ntfs-3g,bindfs].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    fs: Vec<Contender>,
    /// FUSE filesystems, on this machine; installs those that are missing.
    #[arg(long, conflicts_with_all = ["kernel", "cpus"])]
    fuse: bool,
    /// Other scripts: memory, several processors.
    #[arg(long)]
    also: bool,
    /// Processors of the VM [default: 1 of uml, 2 of others].
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// The kernel: stock in QEMU, or uml, which runs at native speed.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
    /// Have the disk read and write no more bytes in a second (200M, 1G, ...); not with uml.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "fuse")]
    disk_rate: Option<u64>,
    /// Write the results there, after every round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each script runs on each filesystem.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Also the rows on aged, nearly full volumes, or not [default: not with --quick].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    aged: Option<bool>,
}

/// User-mode Linux with one processor is threads that wait for each other: with several processors of the host
/// below them each wait is a wake-up across these, which takes longer than what is measured, and differs.
fn stay_on_one_processor() -> Result<()> {
    let allowed = sched_getaffinity(None).context("ask for this thread's processors")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|n| allowed.is_set(*n));
    let mut one = CpuSet::new();
    one.set(last.context("this thread has no processor")?);
    sched_setaffinity(None, &one).context("stay on one processor")
}

/// Where rounds take place.
enum Ground {
    Guest {
        // The VM's initramfs goes with it.
        _testbed: Box<Testbed>,
        config: Config,
    },
    Host(Host),
}

impl Ground {
    fn begin(&self) -> Result<Place<'_>> {
        Ok(match self {
            // A fresh kernel each time: what one run leaves behind in memory shall not tilt all.
            Ground::Guest { config, .. } => {
                let mut vm = Vm::boot(config)?;
                vm.shell(WARM_UP, SCRIPT_TIMEOUT)?;
                Place::Vm(vm)
            }
            Ground::Host(host) => Place::Host(host),
        })
    }
}

/// What the scripts run in, for one round.
enum Place<'a> {
    Vm(Vm),
    Host(&'a Host),
}

impl Place<'_> {
    fn run(&mut self, script: &str, fs: Contender, quick: bool, aged: bool) -> Result<String> {
        match self {
            Place::Vm(vm) => vm.shell(
                &format!(
                    "FS={} QUICK={} AGED={} bash /tests/{script}",
                    fs.name(),
                    u8::from(quick),
                    u8::from(aged)
                ),
                SCRIPT_TIMEOUT,
            ),
            Place::Host(host) => host.run(&paths::checkout().join("tests").join(script), fs, quick),
        }
    }
}

pub fn main(options: &Options) -> Result<()> {
    let scripts_in = match options.also {
        true => "bench/also",
        false => "bench",
    };
    let scripts = script::find(
        &paths::checkout().join("tests").join(scripts_in),
        &options.rows,
    )?;
    ensure!(!scripts.is_empty(), "no row contains '{}'", options.rows);
    let contenders = match (options.fs.is_empty(), options.fuse) {
        (false, _) => options.fs.clone(),
        (true, false) => Contender::IN_KERNEL.to_vec(),
        (true, true) => Contender::IN_FUSE.to_vec(),
    };
    ensure!(
        !options.fuse || contenders.iter().all(|fs| Contender::IN_FUSE.contains(fs)),
        "--fuse: not all of these are FUSE filesystems"
    );
    let aged = options.aged.unwrap_or(!options.quick) && !options.fuse && !options.also;
    ensure!(
        !aged
            || contenders
                .iter()
                .all(|fs| Contender::IN_KERNEL.contains(fs)),
        "FUSE filesystems have no aged volumes: add --aged=false"
    );

    let disk_size = match options.quick {
        true => DISK_SIZE_QUICK,
        false => DISK_SIZE,
    };
    let mut total = disk_size;
    if aged {
        total += AGED_DISK_SIZE * Contender::IN_KERNEL.len() as u64;
    }
    let toolchain = Toolchain::ensure()?;
    // The same tree for every kernel.
    let stock = Kernel::ensure(Choice::Stock, &toolchain)?;
    let trees = Trees::ensure(&stock, &toolchain)?;
    check_disk(&trees.part())?;
    let repository = repository::ensure(&trees, &stock)?;
    let (ground, kernel) = if options.fuse {
        let host = Host::prepare(memory_for(total), disk_size, trees.part(), repository)?;
        let release = cmd::output(Command::new("uname").arg("--kernel-release"))?;
        (Ground::Host(host), release.trim().to_owned())
    } else {
        let unsummed = contenders.contains(&Contender::AegisfsUnsummed);
        let testbed = Testbed::prepare_with(options.kernel, Demand::Everything, unsummed)?;
        let file = |path: &Path| Disk::File {
            path: path.to_owned(),
            read_only: true,
        };
        let mut disks = vec![
            Disk::Allocated {
                size: disk_size,
                rate: options.disk_rate,
            },
            file(&trees.part()),
            file(&repository),
        ];
        if aged {
            disks.extend(Contender::IN_KERNEL.map(|_| Disk::Allocated {
                size: AGED_DISK_SIZE,
                rate: options.disk_rate,
            }));
        }
        let shape = Shape {
            memory_mib: MEMORY_MIB,
            ..Shape::default()
        };
        let mut config = testbed.config(&shape, disks);
        config.cpus = options.cpus.unwrap_or(config.cpus);
        config.directory = memory_for(total);
        if options.kernel == Choice::Uml && config.cpus == 1 {
            stay_on_one_processor()?;
        }
        let release = testbed.kernel.release.clone();
        let guest = Ground::Guest {
            _testbed: Box::new(testbed),
            config,
        };
        (guest, release)
    };

    let mut table = Table::new(&kernel, options.quick, &contenders);
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
        let mut place = ground.begin()?;
        if aged {
            for fs in &contenders {
                ui::step(format!("aging {}", fs.name()));
                place.run("bench/age.sh", *fs, options.quick, false)?;
            }
        }
        for (index, script) in scripts.iter().enumerate() {
            let path = format!("{scripts_in}/{}", script.name);
            let mut turn = contenders.clone();
            turn.rotate_left((round + index) % contenders.len());
            for fs in turn {
                ui::step(format!(
                    "round {} of {rounds}: {} on {}",
                    round + 1,
                    script.name,
                    fs.name()
                ));
                for old in [false, true] {
                    if !old || aged {
                        let output = place.run(&path, fs, options.quick, old)?;
                        table
                            .add(script, fs, old, &output)
                            .with_context(|| script.name.clone())?;
                    }
                }
            }
        }
        if let Place::Vm(vm) = place {
            vm.shut_down()?;
        }
        longest = longest.max(begin.elapsed());
        if let Some(path) = &options.json {
            paths::write_atomically(path, &table.json(&options.rows)?)?;
        }
    }
    table.print(&options.rows);
    Ok(())
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
