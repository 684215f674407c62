// SPDX-License-Identifier: GPL-2.0-only
//! `aegis-bench`: one kind of work on a filesystem, as much of it as asked for, and nothing else.
//!
//! The scripts in `tests/bench` time it. It is linked statically and starts in no time, so that
//! what they see is the filesystem.

mod age;
mod metadata;
mod sync;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{bail, Context, Result};

const USAGE: &str = "usage:
    aegis-bench create|stat|list|rename|unlink DIRECTORY FILES DIRECTORIES [BYTES]
    aegis-bench append FILE RECORDS BYTES
    aegis-bench small DIRECTORY FILES BYTES
    aegis-bench latency FILE SYNCS BYTES
    aegis-bench group DIRECTORY WRITERS SYNCS
    aegis-bench extents FILE EXTENTS
    aegis-bench age DIRECTORY PERCENT ROUNDS";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aegis-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (work, place) = match &arguments[..] {
        [work, place, ..] => (work.as_str(), Path::new(place)),
        _ => bail!("{USAGE}"),
    };
    let number = |index: usize| -> Result<u64> {
        let text = arguments.get(index + 2).context(USAGE)?;
        text.parse()
            .with_context(|| format!("'{text}' is not a number"))
    };
    let files =
        || -> Result<metadata::Files> { Ok(metadata::Files::new(place, number(0)?, number(1)?)) };
    match work {
        "create" => files()?.create(number(2).unwrap_or(0)),
        "stat" => files()?.stat(),
        "list" => files()?.list(),
        "rename" => files()?.rename(),
        "unlink" => files()?.unlink(),
        "append" => sync::append(place, number(0)?, number(1)?),
        "small" => sync::small(place, number(0)?, number(1)?),
        "latency" => sync::latency(place, number(0)?, number(1)?),
        "group" => sync::group(place, number(0)?, number(1)?),
        "extents" => sync::extents(place, number(0)?),
        "age" => age::age(place, number(0)?, number(1)?),
        _ => bail!("{USAGE}"),
    }
}
