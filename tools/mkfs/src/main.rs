// SPDX-License-Identifier: GPL-2.0-only
//! `mkfs.aegisfs`: makes an AegisFS volume on a block device or in an image file.
//!
//! In order: [`target`] opens and claims the device, [`signatures`] refuses what already holds
//! something, the device is discarded and old signatures are wiped, the engine formats it, and
//! [`populate`] copies a directory tree into it, if asked to.

mod cli;
mod populate;
mod signatures;
mod target;

use aegisfs_engine::format::superblock::Superblock;
use aegisfs_engine::{BlockDevice, FormatOptions};
use aegisfs_platform::Vec as EngineVec;
use aegisfs_tools::{logging, output, report, size, superblock, Failure, FileDevice};
use clap::Parser;
use cli::Arguments;
use populate::Tally;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

const PROGRAM: &str = "mkfs.aegisfs";

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            // Help and version are no errors; what cannot be printed has no reader.
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()));
        }
    };
    logging::init(PROGRAM, arguments.verbose, logging::Target::Stderr);
    report::run(PROGRAM, || make(&arguments))
}

fn make(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let source = arguments
        .rootdir
        .as_deref()
        .map(populate::Source::open)
        .transpose()?;
    let target = target::open(arguments)?;
    let device = target.device();
    signatures::refuse_or_note(device, arguments)?;
    target.extend(arguments)?;
    if !arguments.nodiscard {
        discard(device);
    }
    signatures::wipe(device)?;
    let device = target.keep();
    let summary = format(&device, arguments)?;
    let tally = match source {
        Some(source) => Some(populate::fill(device, &source, arguments)?),
        None => None,
    };
    show(arguments, &summary, tally)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells the device that nothing on it is needed: a hint, which many devices do not take.
fn discard(device: &FileDevice) {
    match device.try_discard(0, device.size()) {
        Ok(()) => tracing::info!("{}: discarded", device.path().display()),
        Err(e) => tracing::info!("{}: not discarded: {e}", device.path().display()),
    }
}

/// What `--json` prints, and the text shows.
#[derive(Debug, Serialize)]
struct Summary {
    device: String,
    size: u64,
    uuid: String,
    label: String,
    format_version: u32,
    node_size: u32,
    block_size: usize,
    chunk_size: u64,
    journal_size: u64,
    metadata_replicas: u8,
    data_replicas: u8,
    features: Vec<&'static str>,
}

impl Summary {
    fn new(device: String, s: &Superblock) -> Self {
        let block = aegisfs_engine::BLOCK_SIZE as u64;
        Self {
            device,
            size: s.device_size,
            uuid: output::uuid(&s.uuid),
            label: output::printable(superblock::label(s)),
            format_version: aegisfs_engine::format::superblock::FORMAT_VERSION,
            node_size: s.node_size,
            block_size: aegisfs_engine::BLOCK_SIZE,
            chunk_size: u64::from(s.chunk_blocks) * block,
            journal_size: u64::from(s.journal_blocks) * block,
            metadata_replicas: s.metadata_replicas,
            data_replicas: s.data_replicas,
            features: superblock::features(s),
        }
    }
}

fn format(device: &FileDevice, arguments: &Arguments) -> Result<Summary, Failure> {
    let path = device.path();
    let what = || format!("cannot make a volume on {}", path.display());
    let mut options = format_options(arguments).map_err(|e| report::engine(what(), e))?;
    if let Some(file) = &arguments.bad_blocks {
        for block in bad_blocks(file)? {
            let pushed = options.bad_blocks.try_push(block);
            pushed.map_err(|e| report::engine(what(), e.into()))?;
        }
    }
    let pool = device
        .clone()
        .into_pool()
        .map_err(|e| report::engine(what(), e))?;
    aegisfs_engine::format_volume(pool, &options).map_err(|e| report::engine(what(), e))?;
    // What is shown is what can be read back.
    let superblock = superblock::newest(device)
        .ok_or_else(|| Failure::new(format!("{}: no superblock can be read back", what())))?;
    Ok(Summary::new(
        path.to_string_lossy().into_owned(),
        &superblock,
    ))
}

/// The numbers of the blocks in a list.
fn bad_blocks(file: &Path) -> Result<Vec<u64>, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", file.display())))?;
    let number = |word: &str| {
        let wrong = || Failure::new(format!("{}: '{word}' is no block", file.display()));
        word.parse().map_err(|_| wrong())
    };
    text.split_whitespace().map(number).collect()
}

fn format_options(arguments: &Arguments) -> aegisfs_engine::Result<FormatOptions> {
    let mut options = FormatOptions::new();
    if let Some(label) = &arguments.label {
        options.label = EngineVec::try_from_slice(label.as_bytes())?;
    }
    if let Some(uuid) = arguments.uuid {
        options.uuid = uuid.into_bytes();
    }
    options.node_size = arguments.node_size;
    options.metadata_replicas = arguments.metadata_replicas;
    options.data_replicas = arguments.data_replicas;
    options.quota = arguments.feature("quota");
    // The new root directory is of use to who makes the volume.
    options.uid = nix::unistd::geteuid().as_raw();
    options.gid = nix::unistd::getegid().as_raw();
    Ok(options)
}

fn show(arguments: &Arguments, summary: &Summary, tally: Option<Tally>) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        #[serde(flatten)]
        summary: &'a Summary,
        #[serde(skip_serializing_if = "Option::is_none")]
        copied: Option<Tally>,
    }
    if arguments.json {
        output::json(&Document {
            summary,
            copied: tally,
        })?;
        return Ok(());
    }
    if arguments.quiet {
        return Ok(());
    }
    let label = if summary.label.is_empty() {
        "(none)"
    } else {
        &summary.label
    };
    let mut fields = vec![
        ("Device", summary.device.clone()),
        ("Label", label.to_owned()),
        ("UUID", summary.uuid.clone()),
        ("Size", size::format(summary.size)),
        ("Node size", size::format(summary.node_size.into())),
        ("Chunk size", size::format(summary.chunk_size)),
        ("Journal", size::format(summary.journal_size)),
        ("Metadata replicas", summary.metadata_replicas.to_string()),
        ("Data replicas", summary.data_replicas.to_string()),
    ];
    if !summary.features.is_empty() {
        fields.push(("Features", summary.features.join(" ")));
    }
    if let Some(tally) = tally {
        let text = format!(
            "{} directories, {} files, {} others, {}",
            tally.directories,
            tally.files,
            tally.others,
            size::format(tally.bytes)
        );
        fields.push(("Copied", text));
    }
    output::fields(&fields)?;
    Ok(())
}
