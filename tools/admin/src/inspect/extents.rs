// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs inspect extents`: where the content of files is, as the engine maps it, the journal's
//! content included. Nothing on the device is changed.

use super::Verdict;
use crate::cli::Style;
use crate::volume;
use aegisfs_engine::{Error, Fs, Location, Mapping, BLOCK_SIZE, MODE_FILE, MODE_TYPE, ROOT_INO};
use aegisfs_tools::{output, report, Failure};
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Blocks asked for in one step.
const STEP: u64 = 1 << 30;

#[derive(Serialize)]
struct Document {
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    path: String,
    inode: u64,
    size: u64,
    blocks: u64,
    extents: Vec<Extent>,
}

#[derive(Serialize)]
struct Extent {
    logical_offset: u64,
    length: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    physical_offset: Option<u64>,
    /// Other extents lead to these blocks too.
    shared: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    crc32: Vec<String>,
}

pub fn show(device: &Path, paths: &[PathBuf], sums: bool, style: Style) -> anyhow::Result<Verdict> {
    let fs = volume::mount(device, true)?;
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let file = map_file(&fs, path, sums).map_err(|e| {
            report::engine(
                format!("cannot map {} on {}", path.display(), device.display()),
                e,
            )
        })?;
        files.push(
            file.ok_or_else(|| Failure::new(format!("{} is not a regular file", path.display())))?,
        );
    }
    if style.json {
        output::json(&Document { files })?;
    } else {
        for file in &files {
            print(file, style)?;
        }
    }
    Ok(Verdict::Sound)
}

fn print(file: &File, style: Style) -> std::io::Result<()> {
    output::line(format_args!(
        "{}: inode {}, {}, {} allocated, {} extents",
        file.path,
        file.inode,
        style.bytes(file.size),
        style.bytes(file.blocks * BLOCK_SIZE as u64),
        file.extents.iter().filter(|e| e.block.is_some()).count()
    ))?;
    let or_dash = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rows: Vec<Vec<String>> = file
        .extents
        .iter()
        .map(|e| {
            vec![
                e.logical_offset.to_string(),
                style.bytes(e.length),
                if e.shared {
                    format!("{} shared", e.kind)
                } else {
                    e.kind.to_owned()
                },
                or_dash(e.block),
                or_dash(e.device.map(u64::from)),
                or_dash(e.physical_offset),
                e.crc32.join(" "),
            ]
        })
        .collect();
    output::table(
        &[
            "OFFSET", "LENGTH", "KIND", "BLOCK", "DEVICE", "PHYSICAL", "CRC32",
        ],
        &rows,
    )
}

/// `None` for what is no regular file. Symbolic links are not followed.
fn map_file(fs: &Fs, path: &Path, sums: bool) -> aegisfs_engine::Result<Option<File>> {
    let mut attr = fs.getattr(ROOT_INO)?;
    for part in path.components() {
        attr = match part {
            Component::Normal(name) => fs.lookup(attr.ino, name.as_bytes())?,
            Component::ParentDir => fs.getattr(attr.parent)?,
            _ => attr,
        };
    }
    if attr.mode & MODE_TYPE != MODE_FILE {
        return Ok(None);
    }
    let mut file = File {
        path: output::printable(path.as_os_str().as_bytes()),
        inode: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        extents: Vec::new(),
    };
    let end = attr.size.div_ceil(BLOCK_SIZE as u64);
    let mut block = 0;
    while block < end {
        let (mapping, shared) = fs.map_shared(attr.ino, block, STEP.min(end - block))?;
        let (kind, at, blocks) = match mapping {
            Mapping::Hole { blocks } => ("hole", None, blocks),
            Mapping::Inline => ("inline", None, end),
            Mapping::Unwritten { at, blocks } => ("unwritten", Some(at), blocks),
            Mapping::Data { at, blocks } => ("data", Some(at), blocks),
        };
        if blocks == 0 {
            return Err(Error::Corrupt);
        }
        let crc32 = match at {
            Some(at) if sums && kind == "data" => block_sums(fs, attr.ino, block, at, blocks)?,
            _ => Vec::new(),
        };
        file.extents.push(Extent {
            logical_offset: block * BLOCK_SIZE as u64,
            length: if kind == "inline" {
                attr.size
            } else {
                blocks * BLOCK_SIZE as u64
            },
            kind,
            block: at.map(|at| at.block),
            device: at.map(|at| at.device),
            physical_offset: at.map(|at| at.offset),
            shared,
            crc32,
        });
        block = block.saturating_add(blocks);
    }
    Ok(Some(file))
}

fn block_sums(
    fs: &Fs,
    ino: u64,
    block: u64,
    at: Location,
    blocks: u64,
) -> aegisfs_engine::Result<Vec<String>> {
    let count = usize::try_from(blocks).map_err(|_| Error::Corrupt)?;
    let mut sums = vec![0; count];
    let filled = fs.sums(ino, block, at.block, &mut sums)?;
    Ok(sums
        .iter()
        .take(filled)
        .map(|crc| format!("{crc:08x}"))
        .collect())
}
