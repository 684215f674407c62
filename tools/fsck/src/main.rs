// SPDX-License-Identifier: GPL-2.0-only
//! `fsck.aegisfs`: checks an AegisFS volume, and repairs what redundancy can prove.
//!
//! In order: [`cli`] says what to do, [`run`] opens the device and makes passes over it (check,
//! [`decide`] what to repair, repair, check again), [`undo`] saves what is overwritten, [`show`] says what
//! came of it. The engine finds and repairs; nothing here knows the format but the superblock's place.

mod cli;
mod decide;
mod observe;
mod quick;
mod run;
mod show;
mod signals;
mod undo;

use aegisfs_tools::{logging, report};
use clap::Parser;
use cli::Arguments;
use std::process::ExitCode;

const PROGRAM: &str = "fsck.aegisfs";

/// Exit status, as fsck(8) defines its bits.
pub mod status {
    /// Problems were found and repaired.
    pub const FIXED: u8 = 1;
    /// Problems are left.
    pub const LEFT: u8 = 4;
    /// The check could not be done.
    pub const OPERATION: u8 = 8;
    /// Wrong arguments.
    pub const USAGE: u8 = 16;
    /// The user ended it.
    pub const CANCELLED: u8 = 32;
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            // Help and version are no errors; what cannot be printed has no reader.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { status::USAGE } else { 0 });
        }
    };
    // The engine's own warnings say again what is reported as problems.
    logging::init(PROGRAM, arguments.verbose, logging::Target::Stderr);
    report::run(PROGRAM, || {
        run::run(&arguments).map_err(|e| match e.downcast::<aegisfs_tools::Failure>() {
            Ok(failure) => failure.status(status::OPERATION).into(),
            Err(other) => aegisfs_tools::Failure::new(format!("{other:#}"))
                .status(status::OPERATION)
                .into(),
        })
    })
}
