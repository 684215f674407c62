// SPDX-License-Identifier: GPL-2.0-only
//! Power cuts of the VM, with the module on the stock kernel.
//!
//! Each round runs the workload of `qemu/guest/src/workload.rs` on a mounted filesystem and cuts
//! the power in the middle of it. After the next boot everything that was reported durable must be
//! there, what came later must be a prefix, and fsck must find nothing. Two kinds of disk:
//!
//! - **kept**: what the VM gave to its disk stays; what was in the page cache is gone. All rounds
//!   use one filesystem, so it ages.
//! - **volatile**: the disk has a write cache that loses power too. Every write and flush is
//!   logged; images are made from everything up to some flush and a random, partly torn selection
//!   of what followed it. Each must keep the promises that had been made by then.
//!
//! Other filesystems can be put to it for comparison. Ext4 does not pass the volatile kind: it can
//! lengthen a file before the appended bytes reach its last block.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::filesystem::Filesystem;
use crate::kernel::Choice;
use crate::test::report::Report;
use crate::testbed::{Shape, Testbed};
use crate::vm::{make_sparse, Disk, Vm};
use crate::write_log::{Fate, WriteLog};
use crate::writer::{random_below, random_seed, Progress};
use crate::{crashlog, paths, ui};

const DISK_SIZE: u64 = 1 << 30;
const MEMORY_MIB: u32 = 1024;
const STEP_TIMEOUT: Duration = Duration::from_secs(300);
const WRITER_STALL: Duration = Duration::from_secs(60);
/// The writer runs for a random time up to this, after its first sync point.
const MAX_WRITER_TIME: Duration = Duration::from_secs(5);
/// Images that are made of one log; they are checked in one boot.
const IMAGES: usize = 8;

/// Rounds in `cargo xtask test`.
const TEST_KEPT_ROUNDS: u32 = 4;
const TEST_VOLATILE_ROUNDS: u32 = 2;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The filesystem to cut the power of.
    #[arg(long, value_enum, default_value_t = Filesystem::Aegisfs)]
    fs: Filesystem,
    /// The kernel to boot.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
    /// Cuts with a disk that keeps what it was given.
    #[arg(long, default_value_t = TEST_KEPT_ROUNDS)]
    kept: u32,
    /// Cuts with a disk that loses its write cache.
    #[arg(long, default_value_t = TEST_VOLATILE_ROUNDS)]
    volatile: u32,
    /// Seed for what the write cache loses (the moment of the cut stays random).
    #[arg(long)]
    seed: Option<u64>,
}

pub fn main(options: &Options) -> Result<ExitCode> {
    ensure!(
        options.kernel != Choice::Uml || options.volatile == 0,
        "only QEMU knows what a disk was given: User-mode Linux needs --volatile 0"
    );
    let testbed = Testbed::prepare(options.kernel, options.fs.demand())?;
    let mut report = Report::default();
    let cuts = Cuts::new(&testbed, options.fs, options.seed)?;
    cuts.kept(options.kept, &mut report);
    cuts.volatile(options.volatile, &mut report);
    Ok(report.print())
}

pub fn test(testbed: &Testbed, filter: &str, report: &mut Report) -> Result<()> {
    let cuts = Cuts::new(testbed, Filesystem::Aegisfs, None)?;
    if "powercut/kept".contains(filter) {
        cuts.kept(TEST_KEPT_ROUNDS, report);
    }
    if "powercut/volatile".contains(filter) {
        cuts.volatile(TEST_VOLATILE_ROUNDS, report);
    }
    if "powercut/log".contains(filter) {
        crashlog::test(testbed, report);
    }
    Ok(())
}

struct Cuts<'a> {
    testbed: &'a Testbed,
    filesystem: Filesystem,
    seed: u64,
    directory: PathBuf,
}

/// What a round has left to be checked later.
struct Promise {
    directory: String,
    synced: u64,
}

impl<'a> Cuts<'a> {
    fn new(testbed: &'a Testbed, filesystem: Filesystem, seed: Option<u64>) -> Result<Self> {
        let directory = paths::target().join("powercut");
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let seed = seed.unwrap_or_else(random_seed);
        Ok(Cuts {
            testbed,
            filesystem,
            seed,
            directory,
        })
    }

    fn reproduction(&self, kept: u32, volatile: u32) -> String {
        let seed = self.seed;
        let name = self.filesystem.name();
        format!(
            "cargo xtask powercut --fs {name} --kept {kept} --volatile {volatile} --seed {seed}"
        )
    }

    fn kept(&self, rounds: u32, report: &mut Report) {
        if rounds == 0 {
            return;
        }
        ui::step(format!("{rounds} power cuts, disk keeps its writes"));
        let name = format!("powercut/kept ({rounds} cuts)");
        match self.kept_rounds(rounds) {
            Ok(()) => report.passed(&name),
            Err(error) => {
                report.failed(&name, &format!("{error:#}"), &self.reproduction(rounds, 0));
            }
        }
    }

    fn volatile(&self, rounds: u32, report: &mut Report) {
        for round in 0..rounds {
            ui::step(format!(
                "power cut {} of {rounds}, disk loses its cache",
                round + 1
            ));
            let name = format!("powercut/volatile {} ({IMAGES} images)", round + 1);
            match self.volatile_round(self.seed.wrapping_add(u64::from(round))) {
                Ok(()) => report.passed(&name),
                Err(error) => {
                    report.failed(&name, &format!("{error:#}"), &self.reproduction(0, rounds));
                }
            }
        }
    }

    fn boot(&self, disks: Vec<Disk>) -> Result<Vm> {
        let shape = Shape {
            memory_mib: MEMORY_MIB,
            ..Shape::default()
        };
        let mut vm = Vm::boot(&self.testbed.config(&shape, disks))?;
        vm.shell("mkdir -p /mnt/t", STEP_TIMEOUT)?;
        Ok(vm)
    }

    /// One filesystem, one cut after another. The boot that checks a round also runs the next.
    fn kept_rounds(&self, rounds: u32) -> Result<()> {
        let image = self.directory.join("kept.img");
        make_sparse(&image, DISK_SIZE)?;
        let name = self.filesystem.name();
        let disk = || {
            vec![Disk::File {
                path: image.clone(),
                read_only: false,
            }]
        };
        let mut vm = self.boot(disk())?;
        vm.shell(
            &format!("disk=$AEGIS_DISK1; {}", self.filesystem.make()),
            STEP_TIMEOUT,
        )?;
        vm.shell(
            &format!("mount -t {name} $AEGIS_DISK1 /mnt/t"),
            STEP_TIMEOUT,
        )?;
        let mut promises: Vec<Promise> = Vec::new();
        for round in 1..=rounds {
            let directory = format!("/mnt/t/round{round}");
            let synced = run_writer(&mut vm, &directory, random_below(MAX_WRITER_TIME), |_| {
                Ok(())
            })?;
            vm.cut_power()?;
            promises.push(Promise { directory, synced });
            vm = self.boot(disk())?;
            let result = self.check_kept(&mut vm, &promises);
            result.with_context(|| {
                let kept = image.with_extension(format!("failed-{}", std::process::id()));
                let _ = fs::copy(&image, &kept);
                format!(
                    "cut {round}, {synced} steps promised, image kept as {}",
                    kept.display()
                )
            })?;
            ui::step(format!("cut {round}: {synced} promised steps are there"));
            // Freed space is used again, and its blocks must not come back.
            if promises.len() > 2 {
                let old = promises.remove(0);
                vm.shell(&format!("rm -r {}", old.directory), STEP_TIMEOUT)?;
            }
        }
        vm.shell("umount /mnt/t", STEP_TIMEOUT)?;
        vm.shut_down()?;
        fs::remove_file(&image)?;
        Ok(())
    }

    /// Mounts, checks all promises, and fsck's between an unmount and a mount.
    fn check_kept(&self, vm: &mut Vm, promises: &[Promise]) -> Result<()> {
        let name = self.filesystem.name();
        let mount = format!("mount -t {name} $AEGIS_DISK1 /mnt/t");
        vm.shell(&mount, STEP_TIMEOUT)
            .context("mount after the power cut")?;
        for Promise { directory, synced } in promises {
            vm.shell(
                &format!("aegis-guest check {directory} {synced}"),
                STEP_TIMEOUT,
            )?;
        }
        let check = self.filesystem.check();
        vm.shell(
            &format!("umount /mnt/t; disk=$AEGIS_DISK1; {check}"),
            STEP_TIMEOUT,
        )
        .context("fsck after the power cut")?;
        vm.shell(&mount, STEP_TIMEOUT)?;
        Ok(())
    }

    fn volatile_round(&self, seed: u64) -> Result<()> {
        let image = self.directory.join("volatile.img");
        let log = self.directory.join("volatile.log");
        make_sparse(&image, DISK_SIZE)?;
        let disk = Disk::Logged {
            path: image.clone(),
            log: log.clone(),
        };
        let mut vm = self.boot(vec![disk])?;
        let name = self.filesystem.name();
        vm.shell(
            &format!("disk=$AEGIS_DISK1; {}", self.filesystem.make()),
            STEP_TIMEOUT,
        )?;
        vm.shell(
            &format!("mount -t {name} $AEGIS_DISK1 /mnt/t; sync"),
            STEP_TIMEOUT,
        )?;
        let mounted = WriteLog::read(&log)?.len();
        // How long the log was when a promise was heard: what made it true is before that.
        let mut heard = Vec::new();
        run_writer(
            &mut vm,
            "/mnt/t/work",
            random_below(MAX_WRITER_TIME),
            |synced| {
                heard.push((fs::metadata(&log)?.len(), synced));
                Ok(())
            },
        )?;
        vm.freeze_and_cut_power()?;

        let log = WriteLog::read(&log)?;
        let windows = log.windows(mounted);
        ui::step(format!(
            "{} requests; {} times there were writes that no flush covered yet",
            log.len(),
            windows.len()
        ));
        ensure!(!windows.is_empty(), "the writer's syncs flushed nothing");
        let mut fate = Fate::new(seed, 0);
        let mut images = Vec::new();
        for number in 0..IMAGES {
            let (durable, limit) = windows[fate.below(windows.len())];
            let end = durable + 1 + fate.below(limit - durable);
            let survival = number as u64 * 256 / IMAGES as u64;
            let position = log.position(durable);
            let promised = heard
                .iter()
                .rev()
                .find(|(length, _)| *length <= position)
                .map_or(0, |(_, n)| *n);
            let path = self.directory.join(format!("volatile-{number}.img"));
            make_sparse(&path, DISK_SIZE)?;
            let file = File::options().read(true).write(true).open(&path)?;
            let mut selection = Fate::new(seed ^ number as u64, survival);
            log.replay(&file, durable, end, &mut selection)?;
            let what = format!("requests to {durable}, and {survival}/256 of those to {end}");
            images.push((path, promised, what));
        }
        self.check_images(&images)?;
        for path in images
            .iter()
            .map(|(path, ..)| path.as_path())
            .chain([image.as_path()])
        {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    fn check_images(&self, images: &[(PathBuf, u64, String)]) -> Result<()> {
        let disk = |path: &Path| Disk::File {
            path: path.to_owned(),
            read_only: false,
        };
        let mut vm = self.boot(images.iter().map(|(path, ..)| disk(path)).collect())?;
        let name = self.filesystem.name();
        let check = self.filesystem.check();
        for (index, (path, promised, what)) in images.iter().enumerate() {
            let script = format!(
                "set -e; disk=$AEGIS_DISK{}; mount -t {name} $disk /mnt/t; \
                 aegis-guest check /mnt/t/work {promised}; umount /mnt/t; {check}",
                index + 1
            );
            vm.shell(&script, STEP_TIMEOUT).with_context(|| {
                format!(
                    "image {} ({what}; {promised} steps promised), as it is after the attempt: {}",
                    index + 1,
                    path.display()
                )
            })?;
        }
        vm.shut_down()
    }
}

/// Runs the writer for a while, and returns its last promise. It is still running then.
pub fn run_writer(
    vm: &mut Vm,
    directory: &str,
    time: Duration,
    mut heard: impl FnMut(u64) -> Result<()>,
) -> Result<u64> {
    vm.start(&["aegis-guest", "write", directory])?;
    let mut progress = Progress::default();
    progress.follow(vm, WRITER_STALL)?;
    let end = Instant::now() + time;
    while let Some(rest) = end.checked_duration_since(Instant::now()) {
        if progress.follow_within(vm, rest)? {
            heard(progress.synced)?;
        }
    }
    if let Some(report) = vm.report() {
        bail!("the kernel reported trouble:\n{report}");
    }
    Ok(progress.synced)
}
