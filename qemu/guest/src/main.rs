// SPDX-License-Identifier: GPL-2.0-only
//! `aegis-guest`: initial process of the test VM, and its helper programs.
//!
//! As process 1 it is the agent (see `agent`). From a shell in the VM it offers
//! `verify` and the power-cut workload `write` and `check`.

mod agent;
mod boot;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use aegisfs_guest::{tree, workload};
use anyhow::{bail, Context, Result};

const USAGE: &str = "usage: aegis-guest verify LIST ROOT
       aegis-guest write DIRECTORY
       aegis-guest check DIRECTORY SYNCED";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        agent::main();
    }
    match helper() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("aegis-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn helper() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["verify", list, root] => {
            let list = std::fs::read_to_string(list).with_context(|| format!("read {list}"))?;
            let threads = std::thread::available_parallelism().map_or(2, |count| count.get());
            let outcome = tree::verify(&list, Path::new(root), threads)?;
            for report in &outcome.reports {
                println!("verify: {report}");
            }
            println!(
                "verify: {} files, {} bytes, {} wrong",
                outcome.files, outcome.bytes, outcome.wrong
            );
            Ok(if outcome.wrong == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        ["write", directory] => {
            // One write per line: the line must be with the host before the next step starts.
            workload::write(Path::new(directory), None, |number| {
                let mut out = std::io::stdout().lock();
                let line = format!("synced {number}\n");
                if out
                    .write_all(line.as_bytes())
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    std::process::exit(1);
                }
            })?;
            Ok(ExitCode::SUCCESS)
        }
        ["check", directory, synced] => {
            let synced = synced
                .parse()
                .with_context(|| format!("'{synced}' is no number"))?;
            let found = workload::check(Path::new(directory), synced)?;
            println!(
                "check: {} synced files whole, {} later ones, {} log records, current is version {}",
                found.synced, found.later, found.records, found.current
            );
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("{USAGE}"),
    }
}
