// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs`: administers AegisFS volumes. One command, noun and verb: `aegisfs volume info ...`.

mod cli;
mod control;
mod device;
mod inspect;
mod quota;
mod reader;
mod scrub;
mod volume;

use aegisfs_tools::{logging, output, report};
use clap::{CommandFactory, Parser};
use cli::{Cli, Noun};
use std::process::ExitCode;

const PROGRAM: &str = "aegisfs";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no errors; what cannot be printed has no reader.
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()));
        }
    };
    logging::init(PROGRAM, cli.verbose, logging::Target::Stderr);
    report::run(PROGRAM, || dispatch(&cli))
}

fn dispatch(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.noun {
        Noun::Volume(verb) => volume::run(verb, cli.style())?,
        Noun::Quota(verb) => quota::run(verb, cli.style())?,
        Noun::Scrub(verb) => return scrub::run(verb, cli.style()),
        Noun::Device(verb) => device::run(verb, cli.style())?,
        Noun::Inspect(verb) => return inspect::run(verb, cli.style()),
        Noun::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), PROGRAM, &mut script);
            output::write(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
