// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask demo`: AegisFS on an unmodified Debian kernel, in front of your eyes.
//!
//! In a VM with a 3 GB disk: make the filesystem, load the module, mount, unpack a kernel source
//! tree, compare every file with the host's SHA-256 list, sync, go on writing, cut the power.
//! In a second boot: mount, compare again, check that nothing that was promised is lost and that
//! what came later is a prefix, unmount, fsck. In a third: the same work on other filesystems.
//!
//! `--fs ext4` puts another filesystem in the place of AegisFS, which shows that it is not the
//! demo that is lenient.

mod bench;
pub mod tree;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::filesystem::Filesystem;
use crate::kernel::Choice;
use crate::testbed::{Shape, Testbed};
use crate::vm::{make_sparse, Disk, Vm};
use crate::writer::{random_below, Progress};
use crate::{paths, ui};
use tree::Trees;

const DISK_SIZE: u64 = 3 << 30;
const MEMORY_MIB: u32 = 3072;
/// The writer must have got this far, and run this long, before its power is cut.
const MIN_SYNCS: u64 = 20;
const WRITER_TIME: Duration = Duration::from_secs(6);
const WRITER_STALL: Duration = Duration::from_secs(60);
const MAX_CUT_DELAY: Duration = Duration::from_millis(250);
/// A single step that takes longer than this hangs.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The filesystem to drive.
    #[arg(long, value_enum, default_value_t = Filesystem::Aegisfs)]
    fs: Filesystem,
    /// The kernel to boot.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
    /// Leave out the comparison with other filesystems.
    #[arg(long)]
    no_compare: bool,
    /// Only the comparison.
    #[arg(long, conflicts_with = "no_compare")]
    only_compare: bool,
    /// Rounds of the comparison; each unpacks and reads on every filesystem.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Lines of the table at the end.
#[derive(Default)]
struct Summary {
    rows: Vec<(String, String)>,
}

impl Summary {
    fn add(&mut self, what: &str, result: impl Into<String>) {
        self.rows.push((what.to_owned(), result.into()));
    }

    fn print(&self) {
        let width = self
            .rows
            .iter()
            .map(|(what, _)| what.len())
            .max()
            .unwrap_or(0);
        println!();
        for (what, result) in &self.rows {
            println!("  {what:width$}  {result}");
        }
        println!();
    }
}

pub fn main(options: &Options) -> Result<ExitCode> {
    let testbed = Testbed::prepare(options.kernel, options.fs.demand())?;
    let trees = Trees::ensure(&testbed.kernel, &testbed.toolchain)?;
    for archive in [trees.archive(), trees.part(), trees.lists()] {
        tree::check_disk(&archive)?;
    }
    let mut summary = Summary::default();
    summary.add("kernel", format!("{} (unmodified)", testbed.kernel.release));
    summary.add("filesystem", options.fs.name());
    let result = demonstrate(options, &testbed, &trees, &mut summary);
    summary.add("result", if result.is_ok() { "PASSED" } else { "FAILED" });
    summary.print();
    result?;
    Ok(ExitCode::SUCCESS)
}

fn demonstrate(
    options: &Options,
    testbed: &Testbed,
    trees: &Trees,
    summary: &mut Summary,
) -> Result<()> {
    if !options.only_compare {
        let directory = paths::target().join("demo");
        fs::create_dir_all(&directory)?;
        let disk = directory.join(format!("{}.img", options.fs.name()));
        let synced = fill_and_cut_power(options.fs, testbed, trees, &disk, summary)
            .context("before the power cut")?;
        boot_again(options.fs, testbed, trees, &disk, synced, summary)
            .context("after the power cut")?;
        fs::remove_file(&disk)?;
    }
    if !options.no_compare {
        bench::compare(options.fs, options.rounds, testbed, trees, summary)
            .context("comparison")?;
    }
    Ok(())
}

/// A VM with the disk under test as `$AEGIS_DISK1` and the archives as the ones after it.
fn boot(testbed: &Testbed, trees: &Trees, disk: &Path) -> Result<Vm> {
    let shape = Shape {
        memory_mib: MEMORY_MIB,
        ..Shape::default()
    };
    let file = |path: &Path, read_only| Disk::File {
        path: path.to_owned(),
        read_only,
    };
    let disks = vec![
        file(disk, false),
        file(&trees.archive(), true),
        file(&trees.lists(), true),
        file(&trees.part(), true),
    ];
    let mut vm = Vm::boot(&testbed.config(&shape, disks))?;
    vm.shell(
        "mkdir -p /mnt/t && tar -xf $AEGIS_DISK3 -C /run",
        STEP_TIMEOUT,
    )?;
    Ok(vm)
}

/// Runs a step in the VM and says how long it took.
fn timed(vm: &mut Vm, script: &str) -> Result<(String, Duration)> {
    let start = Instant::now();
    let output = vm.shell(script, STEP_TIMEOUT)?;
    Ok((output, start.elapsed()))
}

fn last_line(output: &str) -> &str {
    output.trim_end().lines().last().unwrap_or_default()
}

/// First boot. Returns the last step that the writer reported as durable.
fn fill_and_cut_power(
    filesystem: Filesystem,
    testbed: &Testbed,
    trees: &Trees,
    disk: &Path,
    summary: &mut Summary,
) -> Result<u64> {
    let name = filesystem.name();
    make_sparse(disk, DISK_SIZE)?;
    ui::step(format!(
        "booting Debian's kernel {}",
        testbed.kernel.release
    ));
    let start = Instant::now();
    let mut vm = boot(testbed, trees, disk)?;
    summary.add("boot", ui::seconds(start.elapsed()));

    ui::step(format!(
        "mkfs.{name} on a 3 GB disk, modprobe {name}, mount"
    ));
    timed(
        &mut vm,
        &format!("disk=$AEGIS_DISK1; {}", filesystem.make()),
    )?;
    // The alias is what lets mount load the module by itself.
    timed(
        &mut vm,
        &format!("modprobe fs-{name} && modprobe {name} && grep -qw {name} /proc/filesystems"),
    )
    .context("load the module by its name and by its alias")?;
    timed(&mut vm, &format!("mount -t {name} $AEGIS_DISK1 /mnt/t"))?;

    ui::step(format!("unpacking {} files", trees.counts.files));
    let (_, unpack) = timed(
        &mut vm,
        "mkdir /mnt/t/tree && tar -xf $AEGIS_DISK2 -C /mnt/t/tree && sync",
    )?;
    summary.add(
        "unpack",
        format!(
            "{} files, {} in {}, synced",
            trees.counts.files,
            ui::mebibytes(trees.counts.bytes),
            ui::seconds(unpack)
        ),
    );
    verify(&mut vm, "verify, read from disk", summary)?;
    timed(&mut vm, "sync")?;

    ui::step("writing on, until the power fails");
    let synced = write_until_power_cut(vm)?;
    ui::step(format!(
        "power cut; {synced} steps had been reported durable"
    ));
    summary.add(
        "power cut",
        format!("while writing, after {synced} fsynced steps"),
    );
    Ok(synced)
}

fn verify(vm: &mut Vm, what: &str, summary: &mut Summary) -> Result<()> {
    ui::step("comparing every file's SHA-256 with the host's list");
    let (output, time) = timed(
        vm,
        "echo 3 > /proc/sys/vm/drop_caches; aegis-guest verify /run/tree.sha256 /mnt/t/tree",
    )?;
    let line = last_line(&output).trim_start_matches("verify: ").to_owned();
    summary.add(what, format!("{line} in {}", ui::seconds(time)));
    Ok(())
}

/// Starts the writer and kills the VM in the middle of its work.
fn write_until_power_cut(mut vm: Vm) -> Result<u64> {
    vm.start(&["aegis-guest", "write", "/mnt/t/writer"])?;
    let mut progress = Progress::default();
    let start = Instant::now();
    while start.elapsed() < WRITER_TIME || progress.synced < MIN_SYNCS {
        progress.follow(&mut vm, WRITER_STALL)?;
    }
    // Not right after a report: somewhere between two sync points.
    let cut = Instant::now() + random_below(MAX_CUT_DELAY);
    while let Some(rest) = cut.checked_duration_since(Instant::now()) {
        progress.follow_within(&mut vm, rest)?;
    }
    if let Some(report) = vm.report() {
        bail!("the kernel reported trouble:\n{report}");
    }
    vm.cut_power()?;
    Ok(progress.synced)
}

/// Second boot: all that was promised must be there.
fn boot_again(
    filesystem: Filesystem,
    testbed: &Testbed,
    trees: &Trees,
    disk: &Path,
    synced: u64,
    summary: &mut Summary,
) -> Result<()> {
    ui::step("booting again");
    let mut vm = boot(testbed, trees, disk)?;
    let name = filesystem.name();
    let (_, mount) = timed(&mut vm, &format!("mount -t {name} $AEGIS_DISK1 /mnt/t"))
        .context("mount after the power cut")?;
    summary.add("mount after it", ui::seconds(mount));
    verify(&mut vm, "verify after it", summary)?;
    let (output, _) = timed(
        &mut vm,
        &format!("aegis-guest check /mnt/t/writer {synced}"),
    )
    .context("the promise of fsync")?;
    summary.add(
        "writer's data",
        last_line(&output).trim_start_matches("check: "),
    );

    ui::step("unmounting, checking the filesystem");
    timed(&mut vm, "umount /mnt/t")?;
    let (output, time) = timed(
        &mut vm,
        &format!("disk=$AEGIS_DISK1; {}", filesystem.check()),
    )
    .context("the filesystem check found something")?;
    ensure!(
        !output.contains("FILE SYSTEM WAS MODIFIED"),
        "the check repaired something:\n{output}"
    );
    summary.add("fsck", format!("found nothing, in {}", ui::seconds(time)));
    if filesystem == Filesystem::Aegisfs {
        timed(&mut vm, "modprobe -r aegisfs").context("unload the module")?;
    }
    vm.shut_down()
}
