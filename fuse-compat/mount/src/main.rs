// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs-fuse`: mounts an AegisFS volume through FUSE.
//!
//! The way of a mount: [`cli`] and [`options`] say what is wanted; unless in the foreground,
//! [`daemon`] starts the serving process and waits until it reports; [`serve`] opens the volume,
//! [`attach`] makes the mount, [`server`] answers the kernel's requests, which come over [`wire`],
//! until the unmount, then the last checkpoint is written. Called as `mount.fuse.aegisfs`, it speaks mount(8)'s protocol.

mod attach;
mod cli;
mod daemon;
mod options;
mod serve;
mod server;
mod stop;
mod wire;

use aegisfs_tools::{report, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    let (program, request) = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(e) => {
            // Help and version are no errors; what cannot be printed has no reader.
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()) * cli::EXIT_USAGE);
        }
    };
    report::run(program, || {
        let plan = options::Plan::parse(&request.options)
            .map_err(|e| Failure::new(e).status(cli::EXIT_USAGE))?;
        if request.fake {
            return Ok(ExitCode::SUCCESS);
        }
        let outcome = match request.stage {
            _ if plan.remount => {
                attach::remount(&request.directory, plan.flags).map(|()| ExitCode::SUCCESS)
            }
            cli::Stage::Launch => daemon::launch(&request),
            cli::Stage::Serve(process) => serve::run(&request, &plan, process),
        };
        outcome.map_err(|e| e.status(cli::EXIT_FAILED).into())
    })
}
