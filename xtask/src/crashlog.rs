// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask crashlog`: crash states of the real driver.
//!
//! In a VM, the power-cut workload and real programs write through the module to a disk whose writes and
//! flushes QEMU logs. The log is replayed on the host (`fuse-compat/sim/src/driver.rs`): the engine mounts
//! the state at each flush, and states with a part of what followed it; what the writer had reported as durable by
//! then must be there, and fsck's code must find nothing.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::filesystem::Filesystem;
use crate::kernel::Choice;
use crate::powercut::run_writer;
use crate::test::report::Report;
use crate::testbed::{parse_seconds, Shape, Testbed};
use crate::vm::{make_sparse, Disk, Vm};
use crate::write_log::WriteLog;
use crate::writer::random_seed;
use crate::{paths, ui};

const DISK_SIZE: u64 = 1 << 30;
const STEP_TIMEOUT: Duration = Duration::from_secs(300);
/// In `cargo xtask test`.
const TEST: (Duration, u64) = (Duration::from_secs(8), 300);

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The kernel to boot.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
    /// How long the guest writes.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "60")]
    seconds: Duration,
    /// Crash states to look at, about.
    #[arg(long, default_value_t = 10_000)]
    points: u64,
    /// Seed of what survives of writes that no flush covers.
    #[arg(long)]
    seed: Option<u64>,
    /// Replay the log of the last run again.
    #[arg(long)]
    again: bool,
}

pub fn main(options: &Options) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(random_seed);
    crate::stage::build_tools()?;
    if !options.again {
        let testbed = Testbed::prepare(options.kernel, Filesystem::Aegisfs.demand())?;
        record(&testbed, options.seconds)?;
    }
    let good = replay(options.points, seed)?;
    Ok(ExitCode::from(u8::from(!good)))
}

pub fn test(testbed: &Testbed, report: &mut Report) {
    let (time, points) = TEST;
    let seed = random_seed();
    let name = format!("powercut/log ({points} crash states)");
    let reproduce = format!("cargo xtask crashlog --again --points {points} --seed {seed}");
    match record(testbed, time).and_then(|()| replay(points, seed)) {
        Ok(true) => report.passed(&name),
        Ok(false) => report.failed(&name, "violations, see above", &reproduce),
        Err(error) => report.failed(&name, &format!("{error:#}"), &reproduce),
    }
}

/// Lets the guest write for a while, and notes what happened as lines for the simulator.
fn record(testbed: &Testbed, time: Duration) -> Result<()> {
    let directory = paths::target().join("crashlog");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let (image, log) = (directory.join("disk.img"), directory.join("disk.log"));
    make_sparse(&image, DISK_SIZE)?;
    ui::step(format!("the guest writes for {} s", time.as_secs()));
    let disk = Disk::Logged {
        path: image.clone(),
        log: log.clone(),
    };
    let mut vm = Vm::boot(&testbed.config(&Shape::default(), vec![disk]))?;
    // Usage is counted, so that in each state it must be what the files come to.
    vm.shell(
        "set -e; disk=$AEGIS_DISK1; mkfs.aegisfs -q -f -O quota $disk; mkdir -p /mnt/t; \
         mount -t aegisfs $disk /mnt/t; sync",
        STEP_TIMEOUT,
    )?;
    let mounted = WriteLog::read(&log)?.len();
    vm.shell(
        "setsid /tests/guest/lib_load.sh /mnt/t/load < /dev/null > /dev/null 2>&1 &",
        STEP_TIMEOUT,
    )?;
    // How long the log was when a promise was heard: what made it true is before that.
    let mut heard = Vec::new();
    run_writer(&mut vm, "/mnt/t/work", time, |synced| {
        heard.push((fs::metadata(&log)?.len(), synced));
        Ok(())
    })?;
    vm.freeze_and_cut_power()?;
    let lines = WriteLog::read(&log)?.lines(mounted, &heard);
    ensure!(!heard.is_empty(), "the writer has promised nothing");
    fs::write(directory.join("events"), lines).context("write the events")?;
    Ok(fs::remove_file(&image)?)
}

fn replay(points: u64, seed: u64) -> Result<bool> {
    let directory = paths::target().join("crashlog");
    let status = Command::new(paths::tools().join("aegisfs_sim"))
        .arg("log")
        .args([directory.join("events"), directory.join("disk.log")])
        .args(["--size", &DISK_SIZE.to_string()])
        .args(["--points", &points.to_string()])
        .args(["--seed", &seed.to_string()])
        .status()
        .context("start the simulator")?;
    Ok(status.success())
}
