// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask test`: every test there is, and one line of totals at the end.
//!
//! # Script protocol
//!
//! A test may be an executable script: `tests/host/*.sh` and `tests/fuse/*.sh` run on the host
//! (the latter mount through FUSE), `tests/guest/*.sh` in the VM, where they are found at
//! `/tests/guest/`, together with everything else in that directory. Files whose names begin with
//! `lib` are helpers, not tests.
//!
//! - Exit status 0: passed. 77: skipped, and the last line printed is the reason. Else: failed.
//! - The comment lines at the top may hold directives:
//!   - `# vm: OPTIONS`: the VM's shape, as `cargo xtask vm` takes it: `--disk 3G --disk 1G`,
//!     `--mem 2048`, `--cpus 2`, `--stock-cmdline`. Without it: no disks, 2048 MiB, 2 processors.
//!   - `# timeout: SECONDS` (default 300).
//!   - `# smoke`: part of the short run on the debug kernel, if that has been built.
//!   - `# fresh`: boot a VM for this script alone. Scripts of equal shape share one otherwise.
//! - Environment in the VM: `AEGIS_DISK1`, `AEGIS_DISK2`, ... are the disks' device nodes. What is
//!   on them at the start is what another script left there. The module is not loaded; the tools
//!   are in the path.
//! - Environment on the host: `AEGIS_BIN` is the directory with the release binaries, `AEGIS_TMP`
//!   an empty directory that is removed afterwards.
//! - After a script in the VM, whatever is still mounted from a block device is unmounted and the
//!   module is unloaded; a script after which that is impossible has failed.
//! - A report of trouble on the kernel's console fails the script, whatever its exit status.

mod guest;
mod host;
mod package;
pub mod report;
pub mod script;
mod unit;

use std::process::ExitCode;

use anyhow::Result;

use crate::kernel::{Choice, Kernel};
use crate::stage::{self, Demand};
use crate::testbed::Testbed;
use crate::{own_kernel, posix, powercut, tidy, ui};
use guest::Part;
use report::Report;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// Rules of the source tree (`cargo xtask tidy`).
    Tidy,
    /// Rust tests of the workspace.
    Unit,
    /// tests/host/*.sh.
    Host,
    /// tests/fuse/*.sh.
    Fuse,
    /// tests/guest/*.sh, in the VM.
    Guest,
    /// Quick suites of `cargo xtask posix`, through the module and through FUSE.
    Posix,
    /// Power cuts of the VM.
    Powercut,
    /// What `make install` and DKMS give a user.
    Package,
}

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Group::Tidy => "tidy",
            Group::Unit => "unit",
            Group::Host => "host",
            Group::Fuse => "fuse",
            Group::Guest => "guest",
            Group::Posix => "posix",
            Group::Powercut => "powercut",
            Group::Package => "package",
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Run only this group (can be given several times).
    #[arg(long, value_enum)]
    only: Vec<Group>,
    /// Run only tests whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// The kernel for tests in the VM.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
}

impl Options {
    fn wants(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }
}

pub fn main(options: &Options) -> Result<ExitCode> {
    let mut report = Report::default();
    if options.wants(Group::Tidy) && options.filter.is_empty() {
        tidy::test(&mut report);
    }
    if options.wants(Group::Unit) {
        unit::run(&options.filter, &mut report);
    }
    let on_host: Vec<Group> = [Group::Host, Group::Fuse]
        .into_iter()
        .filter(|group| options.wants(*group))
        .collect();
    if !on_host.is_empty() {
        match stage::build_tools() {
            Ok(()) => {
                for group in on_host {
                    host::run(group, &options.filter, &mut report)?;
                }
            }
            Err(error) => report.failed("build", &format!("{error:#}"), "cargo build --release"),
        }
    }
    let in_vm = [Group::Guest, Group::Posix, Group::Powercut, Group::Package];
    if in_vm.into_iter().any(|group| options.wants(group)) {
        match Testbed::prepare(options.kernel, Demand::Everything) {
            Ok(testbed) => {
                if options.wants(Group::Guest) {
                    guest::run(&testbed, Part::All, &options.filter, &mut report)?;
                    if options.kernel == Choice::Stock {
                        smoke_on_debug_kernel(&testbed.kernel, &options.filter, &mut report)?;
                    }
                }
                if options.wants(Group::Posix) {
                    posix::test(&testbed, &options.filter, &mut report)?;
                }
                if options.wants(Group::Powercut) {
                    powercut::test(&testbed, &options.filter, &mut report)?;
                }
                if options.wants(Group::Package) && options.kernel == Choice::Stock {
                    package::run(&testbed, &options.filter, &mut report);
                }
            }
            Err(error) => {
                report.failed(
                    "prepare the VM",
                    &format!("{error:#}"),
                    "cargo xtask vm -- true",
                );
            }
        }
    }
    ui::step("done");
    Ok(report.print())
}

/// The debug kernel takes half an hour to build, so it is used where it is there.
fn smoke_on_debug_kernel(stock: &Kernel, filter: &str, report: &mut Report) -> Result<()> {
    if let Err(error) = own_kernel::find(Choice::Debug, stock) {
        report.skipped("guest-debug", &format!("{error:#}"));
        return Ok(());
    }
    match Testbed::prepare(Choice::Debug, Demand::Everything) {
        Ok(testbed) => guest::run(&testbed, Part::Smoke, filter, report)?,
        Err(error) => report.failed(
            "prepare the VM with the debug kernel",
            &format!("{error:#}"),
            "cargo xtask vm --kernel debug -- true",
        ),
    }
    Ok(())
}
