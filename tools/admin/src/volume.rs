// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs volume`: identity, geometry, use, label.

use crate::cli::{Style, Volume};
use aegisfs_engine::format::superblock::{Superblock, LABEL_MAX};
use aegisfs_engine::{Fs, MountOptions, BLOCK_SIZE};
use aegisfs_tools::{mounts, output, report, superblock, time, Access, Failure, FileDevice};
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use std::path::{Path, PathBuf};

pub fn run(verb: &Volume, style: Style) -> anyhow::Result<()> {
    match verb {
        Volume::Info { target } => info(target, style),
        Volume::Label { device, label } => match label {
            Some(label) => Ok(set_label(device, label)?),
            None => show_label(device, style),
        },
    }
}

/// What `volume info` shows.
#[derive(Debug, Serialize)]
struct Info {
    device: String,
    mount_points: Vec<String>,
    uuid: String,
    label: String,
    created: String,
    last_checkpoint: String,
    clean: bool,
    mounts: u64,
    generation: u64,
    features_compatible: u64,
    features_read_only_compatible: u64,
    features_incompatible: u64,
    features: Vec<&'static str>,
    block_size: usize,
    node_size: u32,
    chunk_size: u64,
    chunks: u32,
    journal_size: u64,
    metadata_replicas: u8,
    data_replicas: u8,
    device_size: u64,
    #[serde(flatten)]
    space: Space,
}

/// Space in bytes, as `df` shows it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Space {
    size: u64,
    used: u64,
    available: u64,
    inodes: u64,
}

fn info(target: &Path, style: Style) -> anyhow::Result<()> {
    let device = device_of(target)?;
    let mounted = mounts::of(&device).unwrap_or_default();
    let claimed = FileDevice::open(&device, Access::Peek)?;
    let superblock = superblock::newest(&claimed).ok_or_else(|| no_volume(&device))?;
    let space = match mounted.first() {
        Some(mount) => space_mounted(&mount.point)?,
        None => space_of(&device)?,
    };
    let points = mounted
        .iter()
        .map(|m| m.point.to_string_lossy().into_owned());
    let info = gather(&device, points.collect(), &superblock, space);
    if style.json {
        output::json(&info)?;
    } else {
        output::fields(&text(&info, style))?;
    }
    Ok(())
}

fn gather(device: &Path, mount_points: Vec<String>, s: &Superblock, space: Space) -> Info {
    let date = |seconds: u64| time::rfc3339(i64::try_from(seconds).unwrap_or(i64::MAX));
    Info {
        device: device.to_string_lossy().into_owned(),
        mount_points,
        uuid: output::uuid(&s.uuid),
        label: output::printable(superblock::label(s)),
        created: date(s.created),
        last_checkpoint: date(s.written),
        clean: s.clean,
        mounts: s.mounts,
        generation: s.generation,
        features_compatible: s.compat,
        features_read_only_compatible: s.ro_compat,
        features_incompatible: s.incompat,
        features: superblock::features(s),
        block_size: BLOCK_SIZE,
        node_size: s.node_size,
        chunk_size: u64::from(s.chunk_blocks) * BLOCK_SIZE as u64,
        chunks: s.chunks,
        journal_size: u64::from(s.journal_blocks) * BLOCK_SIZE as u64,
        metadata_replicas: s.metadata_replicas,
        data_replicas: s.data_replicas,
        device_size: s.device_size,
        space,
    }
}

fn text(info: &Info, style: Style) -> Vec<(&'static str, String)> {
    let or = |text: &str, instead: &str| {
        if text.is_empty() {
            instead.to_owned()
        } else {
            text.to_owned()
        }
    };
    let state = match (info.mount_points.is_empty(), info.clean) {
        (false, _) => format!("mounted at {}", info.mount_points.join(", ")),
        (true, true) => "not mounted, clean".into(),
        (true, false) => "not mounted, the next mount replays the journal".into(),
    };
    vec![
        ("Device", info.device.clone()),
        ("State", state),
        ("Label", or(&info.label, "(none)")),
        ("UUID", info.uuid.clone()),
        ("Created", info.created.clone()),
        (
            "Last checkpoint",
            format!("{} (generation {})", info.last_checkpoint, info.generation),
        ),
        ("Mounts", info.mounts.to_string()),
        ("Device size", style.bytes(info.device_size)),
        ("Size", style.bytes(info.space.size)),
        ("Used", style.bytes(info.space.used)),
        ("Available", style.bytes(info.space.available)),
        ("Inodes", info.space.inodes.to_string()),
        ("Node size", style.bytes(info.node_size.into())),
        (
            "Chunks",
            format!("{} of {}", info.chunks, style.bytes(info.chunk_size)),
        ),
        ("Journal", style.bytes(info.journal_size)),
        ("Metadata replicas", info.metadata_replicas.to_string()),
        ("Data replicas", info.data_replicas.to_string()),
        ("Features", or(&info.features.join(" "), "(none)")),
    ]
}

/// The device behind a mount point, or `target` itself.
pub fn device_of(target: &Path) -> Result<PathBuf, Failure> {
    let failed =
        |e: &std::io::Error| Failure::new(format!("cannot look at {}: {e}", target.display()));
    if !std::fs::metadata(target).map_err(|e| failed(&e))?.is_dir() {
        return target.canonicalize().map_err(|e| failed(&e));
    }
    match mounts::at(target).map_err(|e| failed(&e))? {
        Some(mount) => Ok(mount.source),
        None => Err(
            Failure::new(format!("no AegisFS is mounted at {}", target.display()))
                .hint("`findmnt -t aegisfs,fuse.aegisfs` lists those that are"),
        ),
    }
}

fn no_volume(device: &Path) -> Failure {
    report::engine(
        format!("cannot read {}", device.display()),
        aegisfs_engine::Error::NotAegis,
    )
}

fn space_mounted(point: &Path) -> Result<Space, Failure> {
    let s = statvfs(point)
        .map_err(|e| Failure::new(format!("cannot look at {}: {e}", point.display())))?;
    let block = s.fragment_size();
    Ok(Space {
        size: s.blocks() * block,
        used: s.blocks().saturating_sub(s.blocks_free()) * block,
        available: s.blocks_available() * block,
        inodes: s.files().saturating_sub(s.files_free()),
    })
}

/// As it will be after the journal's replay: a mount that changes nothing tells.
fn space_of(device: &Path) -> Result<Space, Failure> {
    let fs = mount(device, true)?;
    let s = fs.statfs();
    let block = BLOCK_SIZE as u64;
    Ok(Space {
        size: s.total * block,
        used: s.total.saturating_sub(s.free) * block,
        available: s.available * block,
        inodes: s.inodes,
    })
}

/// Opens a volume with the engine.
pub fn mount(device: &Path, read_only: bool) -> Result<Box<Fs>, Failure> {
    let access = if read_only {
        Access::Read
    } else {
        Access::Write
    };
    let options = MountOptions {
        read_only,
        ..MountOptions::default()
    };
    FileDevice::open(device, access)?
        .into_pool()
        .and_then(|pool| Fs::mount(pool, options))
        .map_err(|e| report::engine(format!("cannot open the volume on {}", device.display()), e))
}

fn show_label(device: &Path, style: Style) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Label {
        label: String,
    }
    let opened = FileDevice::open(device, Access::Peek)?;
    let superblock = superblock::newest(&opened).ok_or_else(|| no_volume(device))?;
    let label = output::printable(superblock::label(&superblock));
    if style.json {
        output::json(&Label { label })?;
    } else {
        output::line(format_args!("{label}"))?;
    }
    Ok(())
}

fn set_label(device: &Path, label: &str) -> Result<(), Failure> {
    let what = format!("cannot set the label of {}", device.display());
    if label.len() > LABEL_MAX || label.chars().any(char::is_control) {
        return Err(Failure::new(format!(
            "{what}: a label has at most {LABEL_MAX} bytes and no control characters"
        )));
    }
    let fs = mount(device, false)?;
    let changed = fs.set_label(label.as_bytes());
    let closed = fs.unmount();
    changed.and(closed).map_err(|e| report::engine(what, e))
}
