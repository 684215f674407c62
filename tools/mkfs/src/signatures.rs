// SPDX-License-Identifier: GPL-2.0-only
//! What a device already holds: filesystems, RAID members, partition tables.
//!
//! Other formats are util-linux's to know: its `wipefs` lists every signature with its place, as
//! JSON, without needing root. AegisFS itself, which old versions of it do not know, is looked for
//! here.

use crate::cli::Arguments;
use aegisfs_engine::format::superblock::{HEAD_SLOTS, SUPER_MAGIC, TAIL_SLOTS};
use aegisfs_engine::BlockDevice;
use aegisfs_tools::{output, superblock, Failure, FileDevice};
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where `wipefs` may be: often in directories that only root searches.
const WIPEFS: [&str; 3] = ["wipefs", "/usr/sbin/wipefs", "/sbin/wipefs"];
/// Rounds of erasing: an erased signature can uncover another (a backup partition table).
const ROUNDS_MAX: usize = 32;
/// Longest signature that is erased as a whole.
const SIGNATURE_MAX: u64 = 4096;

/// A signature of another format.
#[derive(Debug, Deserialize)]
struct Signature {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    length: u64,
    label: Option<String>,
    uuid: Option<String>,
    usage: Option<String>,
}

impl Signature {
    fn place(&self) -> Option<u64> {
        u64::from_str_radix(self.offset.strip_prefix("0x")?, 16).ok()
    }

    fn is_own(&self) -> bool {
        self.kind == "aegisfs"
    }

    /// `an ext4 filesystem (label "data", UUID ...)`
    fn describe(&self) -> String {
        let what = match self.usage.as_deref() {
            Some("filesystem" | "raid" | "crypto") if !self.kind.contains('_') => "filesystem",
            Some("partition-table") => "partition table",
            _ => "signature",
        };
        let mut details = Vec::new();
        if let Some(label) = self.label.as_deref().filter(|l| !l.is_empty()) {
            details.push(format!("label \"{}\"", output::printable(label.as_bytes())));
        }
        if let Some(uuid) = self.uuid.as_deref().filter(|u| !u.is_empty()) {
            details.push(format!("UUID {uuid}"));
        }
        let details = if details.is_empty() {
            String::new()
        } else {
            format!(" ({})", details.join(", "))
        };
        format!("{} {what}{details}", self.kind)
    }
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    signatures: Vec<Signature>,
}

/// Refuses a device that holds something, unless forced.
///
/// # Errors
/// What was found; or that it cannot be known.
pub fn refuse_or_note(device: &FileDevice, arguments: &Arguments) -> Result<(), Failure> {
    let path = device.path().display();
    let mut found: Vec<String> = own(device).into_iter().collect();
    match list(device.path()) {
        Ok(foreign) => {
            found.extend(
                foreign
                    .iter()
                    .filter(|s| !s.is_own())
                    .map(Signature::describe),
            );
        }
        Err(failure) if arguments.force => tracing::warn!("{failure}"),
        Err(failure) => return Err(failure),
    }
    if found.is_empty() {
        return Ok(());
    }
    let found = found.join("; ");
    if arguments.force {
        tracing::info!("{path}: overwriting: {found}");
        return Ok(());
    }
    Err(Failure::new(format!("{path} already holds: {found}"))
        .hint("nothing was changed; use -f to overwrite it"))
}

/// An AegisFS, even a damaged one.
fn own(device: &FileDevice) -> Option<String> {
    if let Some(s) = superblock::newest(device) {
        let label = output::printable(superblock::label(&s));
        let label = if label.is_empty() {
            label
        } else {
            format!("label \"{label}\", ")
        };
        return Some(format!(
            "aegisfs filesystem ({label}UUID {})",
            output::uuid(&s.uuid)
        ));
    }
    let tails = TAIL_SLOTS.map(|from_end| device.size().saturating_sub(from_end));
    let damaged = HEAD_SLOTS.into_iter().chain(tails).any(|offset| {
        let mut magic = [0; SUPER_MAGIC.len()];
        device.read_bytes(offset, &mut magic).is_ok() && magic == SUPER_MAGIC
    });
    damaged.then(|| "aegisfs filesystem (damaged)".into())
}

/// Erases all signatures of other formats.
///
/// # Errors
/// When the device cannot be written, or they do not go away.
pub fn wipe(device: &FileDevice) -> Result<(), Failure> {
    let path = device.path().display();
    for _ in 0..ROUNDS_MAX {
        let Ok(present) = list(device.path()) else {
            // Without the program, only a forced run comes here; it has been warned.
            return Ok(());
        };
        let mut erased = false;
        for signature in present.iter().filter(|s| !s.is_own()) {
            let Some(offset) = signature.place() else {
                continue;
            };
            let len = usize::try_from(signature.length.clamp(1, SIGNATURE_MAX)).unwrap_or(1);
            device.write_bytes(offset, &vec![0; len]).map_err(|e| {
                Failure::new(format!(
                    "{path}: cannot erase the old {}: {e}",
                    signature.describe()
                ))
            })?;
            erased = true;
        }
        if !erased {
            return Ok(());
        }
        device
            .flush()
            .map_err(|e| Failure::new(format!("{path}: cannot erase old signatures: {e}")))?;
    }
    Err(
        Failure::new(format!("{path}: old signatures come back when erased"))
            .hint("is something else writing to the device?"),
    )
}

/// All signatures that util-linux knows, on a device that stays as it is.
fn list(path: &Path) -> Result<Vec<Signature>, Failure> {
    let what = || format!("cannot find out what {} holds", path.display());
    for program in WIPEFS {
        let output = Command::new(program)
            .args([
                "--no-act",
                "--json",
                "--output",
                "TYPE,OFFSET,LENGTH,LABEL,UUID,USAGE",
                "--",
            ])
            .arg(path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output();
        let output = match output {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(Failure::new(format!("{}: {program}: {e}", what()))),
            Ok(output) => output,
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("{}: {}", what(), said.trim())));
        }
        // Nothing found: nothing printed.
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Vec::new());
        }
        let listing: Listing = serde_json::from_slice(&output.stdout).map_err(|e| {
            Failure::new(format!(
                "{}: {program} says what is not understood: {e}",
                what()
            ))
        })?;
        return Ok(listing.signatures);
    }
    Err(
        Failure::new(format!("{}: the program wipefs is missing", what()))
            .hint("install util-linux, or use -f if nothing on it is needed"),
    )
}

#[cfg(test)]
mod tests {
    use super::Listing;

    #[test]
    fn listing_of_wipefs() {
        let text = r#"{"signatures": [
            {"type":"ext4", "offset":"0x438", "length":2, "label":"data", "uuid":"b3cd", "usage":"filesystem"},
            {"type":"gpt", "offset":"0x200", "length":8, "label":null, "uuid":null, "usage":"partition-table"},
            {"type":"linux_raid_member", "offset":"0x1000", "length":4, "label":null, "uuid":null, "usage":"raid"}]}"#;
        let listing: Listing = serde_json::from_str(text).unwrap();
        let all: Vec<_> = listing
            .signatures
            .iter()
            .map(|s| (s.describe(), s.place()))
            .collect();
        let expected = [
            ("ext4 filesystem (label \"data\", UUID b3cd)", 0x438),
            ("gpt partition table", 0x200),
            ("linux_raid_member signature", 0x1000),
        ];
        assert_eq!(all, expected.map(|(text, at)| (text.to_owned(), Some(at))));
    }
}
