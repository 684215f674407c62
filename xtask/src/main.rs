// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask`: builds AegisFS, boots it in a virtual machine and proves it there.

mod bench;
mod cmd;
mod console;
mod coverage;
mod cpio;
mod crashlog;
mod demo;
mod filesystem;
mod fuzz;
mod guest_image;
mod host;
mod kernel;
mod kmod;
mod own_kernel;
mod paths;
mod posix;
mod powercut;
mod qemu;
mod setup;
mod sim;
mod stage;
mod test;
mod testbed;
mod tidy;
mod toolchain;
mod ui;
mod uml;
mod vm;
mod vm_command;
mod write_log;
mod writer;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use kernel::Choice;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, boot and test AegisFS")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing and fill the cache: toolchain, kernel, guest image.
    Setup(setup::Options),
    /// Build the kernel module.
    Kmod(kmod::Options),
    /// Show the filesystem at work on a stock kernel, power cut included.
    Demo(demo::Options),
    /// Run all tests, or some.
    Test(test::Options),
    /// Measure against ext4, XFS and btrfs on the same disk.
    Bench(bench::Options),
    /// Run conformance suites and applications on a volume.
    Posix(posix::Options),
    /// Cut the power of a VM that writes, again and again.
    Powercut(powercut::Options),
    /// Crash what the module wrote in a VM, at each flush.
    Crashlog(crashlog::Options),
    /// Crash the engine on a simulated disk, in every way.
    Sim(sim::Options),
    /// Search for inputs that the engine cannot stand.
    Fuzz(fuzz::Options),
    /// Show which lines of the engine the tests execute.
    Coverage(coverage::Options),
    /// Build the kernel with KASAN, lockdep and fault injection.
    DebugKernel,
    /// Build the kernel that runs as a process of the host.
    UmlKernel,
    /// Build the userspace programs.
    Tools,
    /// Check the rules of the source tree.
    Tidy,
    /// Boot the VM and run a command in it.
    Vm(vm_command::Options),
}

fn main() -> ExitCode {
    ui::start_clock();
    match run(Cli::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Setup(options) => setup::main(&options)?,
        Command::Kmod(options) => kmod::main(&options)?,
        Command::Test(options) => return test::main(&options),
        Command::Demo(options) => return demo::main(&options),
        Command::Bench(options) => bench::main(&options)?,
        Command::Posix(options) => return posix::main(&options),
        Command::Powercut(options) => return powercut::main(&options),
        Command::Crashlog(options) => return crashlog::main(&options),
        Command::Sim(options) => return sim::main(&options),
        Command::Fuzz(options) => return fuzz::main(&options),
        Command::Coverage(options) => coverage::main(&options)?,
        Command::DebugKernel => own_kernel::main(Choice::Debug)?,
        Command::UmlKernel => own_kernel::main(Choice::Uml)?,
        Command::Tools => stage::build_tools()?,
        Command::Tidy => return tidy::main(),
        Command::Vm(options) => return vm_command::main(&options),
    }
    Ok(ExitCode::SUCCESS)
}
