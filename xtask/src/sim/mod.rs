// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask sim`: the engine on a simulated disk whose power fails.

mod planted;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{cmd, paths, stage, ui};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Everything else is handed to the simulator: --seconds, --seed, --workload, \
                        --jobs, --states, --replay, --json; see `cargo xtask sim --help-all`."
)]
pub struct Options {
    /// Let the simulator loose on engines with planted bugs and on disks that lie: it must notice
    /// each.
    #[arg(long)]
    planted: bool,
    /// Only the planted bug of this name.
    #[arg(long, value_name = "NAME", requires = "planted")]
    only: Option<String>,
    /// Damage every kind of block in every way, and show what came of it.
    #[arg(long, conflicts_with = "planted")]
    faults: bool,
    /// Show the simulator's own options.
    #[arg(long)]
    help_all: bool,
    /// Options of the simulator.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn main(options: &Options) -> Result<ExitCode> {
    if options.planted {
        return planted::main(options.only.as_deref(), &options.rest);
    }
    build()?;
    let mut command = Command::new(paths::tools().join("aegisfs_sim"));
    command.arg(if options.faults { "faults" } else { "crash" });
    if options.help_all {
        command.arg("--help");
    }
    let status = command
        .args(&options.rest)
        .status()
        .context("start the simulator")?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(2)).unwrap_or(2),
    ))
}

fn build() -> Result<()> {
    ui::step("building the simulator");
    let mut command = stage::cargo();
    command.args(["build", "--quiet", "--release", "--package", "aegisfs_sim"]);
    cmd::run(&mut command).context("build the simulator")
}
