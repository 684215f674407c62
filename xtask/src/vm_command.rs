// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask vm`: boots the VM and runs one command in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use crate::kernel::Choice;
use crate::stage::Demand;
use crate::testbed::{parse_seconds, parse_size, Shape, Testbed};
use crate::vm::{make_sparse, Disk, Outcome, Vm};
use crate::{cmd, paths, ui};

/// As the `timeout` program says it.
const EXIT_TIMEOUT: u8 = 124;
/// The kernel reported trouble, or the VM died.
const EXIT_KERNEL: u8 = 125;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The kernel to boot.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
    #[command(flatten)]
    shape: Shape,
    /// Use this image as a disk, after those of --disk; with :SIZE it is made if it is missing.
    #[arg(long, value_name = "FILE[:SIZE]")]
    keep_disk: Vec<String>,
    /// Mount a copy of this directory read-only on /mnt/share.
    #[arg(long, value_name = "DIRECTORY")]
    share: Option<PathBuf>,
    /// Kill the command after this many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "600")]
    timeout: Duration,
    /// A shell on this terminal, after the command if one is given.
    #[arg(long)]
    interactive: bool,
    /// Use the module and the tools as they were built before.
    #[arg(long)]
    no_build: bool,
    /// Print the kernel's console log at the end.
    #[arg(long)]
    console: bool,
    /// The command; a single argument is a line of shell.
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

/// One line of shell in a VM with one disk.
pub fn script(line: &str, timeout: Duration) -> Result<ExitCode> {
    main(&Options {
        kernel: Choice::Stock,
        shape: Shape {
            disks: vec![1 << 30],
            ..Shape::default()
        },
        keep_disk: Vec::new(),
        share: None,
        timeout,
        interactive: false,
        no_build: false,
        console: false,
        command: vec![line.to_owned()],
    })
}

pub fn main(options: &Options) -> Result<ExitCode> {
    ensure!(
        options.interactive || !options.command.is_empty(),
        "no command: put one after '--', or use --interactive"
    );
    let testbed = Testbed::prepare(
        options.kernel,
        match options.no_build {
            true => Demand::AsBuilt,
            false => Demand::WhatExists,
        },
    )?;
    let mut disks = options.shape.scratch_disks();
    for text in &options.keep_disk {
        disks.push(kept_disk(text)?);
    }
    let share = options.share.as_deref().map(ShareImage::make).transpose()?;
    if let Some(share) = &share {
        disks.push(Disk::File {
            path: share.path.clone(),
            read_only: true,
        });
    }
    let share_number = disks.len();
    let mut config = testbed.config(&options.shape, disks);
    config.interactive = options.interactive;

    ui::step(format!("booting {}", testbed.kernel.release));
    let mut vm = Vm::boot(&config)?;
    if share.is_some() {
        vm.shell(
            &format!("mkdir -p /mnt/share && mount -o ro $AEGIS_DISK{share_number} /mnt/share"),
            Duration::from_secs(30),
        )?;
    }
    let mut status = 0;
    if !options.command.is_empty() {
        ui::step("running the command");
        status = run_command(&mut vm, options)?;
    }
    if options.interactive {
        interact(&mut vm)?;
    }
    let console = options.console.then(|| vm.console_log());
    if status != EXIT_KERNEL && status != EXIT_TIMEOUT {
        vm.shut_down()?;
    }
    if let Some(log) = console {
        eprintln!("--- console ---\n{log}---");
    }
    Ok(ExitCode::from(status))
}

fn run_command(vm: &mut Vm, options: &Options) -> Result<u8> {
    let argv: Vec<&str> = match options.command.as_slice() {
        [line] => vec!["bash", "-c", line],
        words => words.iter().map(String::as_str).collect(),
    };
    let mut stdout = std::io::stdout();
    let mut closed = false;
    let outcome = vm.run(&argv, options.timeout, &mut |bytes| {
        closed |= stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .is_err();
    })?;
    Ok(match outcome {
        Outcome::Exit(status) => u8::try_from(status).unwrap_or(255),
        Outcome::Timeout => {
            eprintln!(
                "error: no end after {} s; the VM is killed",
                options.timeout.as_secs()
            );
            EXIT_TIMEOUT
        }
        Outcome::Gone => {
            eprintln!("error: the VM ended; its console:\n{}", vm.console_log());
            EXIT_KERNEL
        }
        Outcome::Report(report) => {
            eprintln!("error: the kernel reported trouble:\n{report}");
            EXIT_KERNEL
        }
    })
}

/// Gives this terminal to a shell in the VM.
fn interact(vm: &mut Vm) -> Result<()> {
    let size = cmd::output(
        Command::new("stty")
            .args(["size"])
            .stdin(std::process::Stdio::inherit()),
    )
    .unwrap_or_default();
    let (rows, columns) = size.trim().split_once(' ').unwrap_or(("24", "80"));
    eprintln!("(the VM's shell; leave it with 'exit')");
    let _ = Command::new("stty").args(["raw", "-echo"]).status();
    let result = vm
        .start_shell(&format!(
            "exec <>/dev/hvc0 >&0 2>&1; stty sane rows {rows} cols {columns}; \
             exec setsid --ctty --wait bash -li"
        ))
        .and_then(|()| vm.finish(Duration::from_secs(u32::MAX.into()), &mut |_| {}));
    let _ = Command::new("stty").arg("sane").status();
    match result? {
        Outcome::Report(report) => bail!("the kernel reported trouble:\n{report}"),
        _ => Ok(()),
    }
}

fn kept_disk(text: &str) -> Result<Disk> {
    let (path, size) = match text.rsplit_once(':') {
        Some((path, size)) => (Path::new(path), Some(parse_size(size)?)),
        None => (Path::new(text), None),
    };
    if !path.exists() {
        let size = size.with_context(|| {
            format!(
                "{} does not exist: say {text}:SIZE to make it",
                path.display()
            )
        })?;
        make_sparse(path, size)?;
    }
    Ok(Disk::File {
        path: path.to_owned(),
        read_only: false,
    })
}

/// A directory of the host as a disk image.
struct ShareImage {
    path: PathBuf,
}

impl ShareImage {
    fn make(directory: &Path) -> Result<Self> {
        let path = paths::target()
            .join("vm")
            .join(format!("share-{}.img", std::process::id()));
        let image = ShareImage { path };
        ui::step(format!("copying {} for the VM", directory.display()));
        let usage = cmd::output(
            Command::new("du")
                .args(["-sm", "--apparent-size"])
                .arg(directory),
        )?;
        let used: u64 = usage
            .split_whitespace()
            .next()
            .unwrap_or("0")
            .parse()
            .unwrap_or(0);
        let size = format!("{}M", used + used / 2 + 64);
        let mut make = cmd::system("mke2fs");
        make.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"])
            .arg(directory);
        cmd::output(make.arg(&image.path).arg(&size)).context("make an image of --share")?;
        Ok(image)
    }
}

impl Drop for ShareImage {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
