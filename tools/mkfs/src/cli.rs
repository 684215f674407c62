// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use aegisfs_engine::format::node::{NODE_MAX, NODE_MIN};
use aegisfs_engine::format::superblock::LABEL_MAX;
use aegisfs_tools::size;
use clap::{ArgAction, Parser};
use std::path::PathBuf;
use uuid::Uuid;

/// Make an AegisFS volume on a block device or in an image file.
#[derive(Debug, Parser)]
#[command(name = "mkfs.aegisfs", version, disable_version_flag = true)]
pub struct Arguments {
    /// Block device or image file
    #[arg(value_name = "DEVICE")]
    pub device: PathBuf,
    /// Size of the image file, which is made, or made longer, if need be (3G, 512MiB)
    #[arg(value_name = "SIZE", value_parser = size::parse)]
    pub size: Option<u64>,
    /// Label of the volume, at most 63 bytes
    #[arg(short = 'L', long, value_parser = label)]
    pub label: Option<String>,
    /// UUID of the volume, instead of a random one
    #[arg(short = 'U', long, value_parser = volume_uuid)]
    pub uuid: Option<Uuid>,
    /// Overwrite another filesystem or a partition table
    #[arg(short, long)]
    pub force: bool,
    /// Do not discard the device first
    #[arg(short = 'K', long)]
    pub nodiscard: bool,
    /// Bytes of a metadata node: 4K, 8K, 16K, 32K or 64K
    #[arg(short, long, value_name = "SIZE", default_value = "16K", value_parser = node_size)]
    pub node_size: u32,
    /// Copies of metadata: 1 or 2
    #[arg(long, value_name = "COPIES", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub metadata_replicas: u8,
    /// Copies of file data: 1 or 2
    #[arg(long, value_name = "COPIES", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub data_replicas: u8,
    /// Features, with commas between them: quota counts usage of users, groups and projects from the
    /// start; ^quota does not
    #[arg(
        short = 'O',
        long = "features",
        value_name = "FEATURE",
        value_delimiter = ',',
        value_parser = ["quota", "^quota"]
    )]
    pub features: Vec<String>,
    /// Leave out the blocks of 4096 bytes that this file names, one number in a line, as badblocks -b 4096
    /// prints them
    #[arg(short = 'l', long, value_name = "FILE")]
    pub bad_blocks: Option<PathBuf>,
    /// Copy a directory tree into the new volume
    #[arg(short, long, value_name = "DIRECTORY")]
    pub rootdir: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Print more; twice for still more
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

impl Arguments {
    /// Whether a feature is wanted: the last word on it counts.
    pub fn feature(&self, name: &str) -> bool {
        let last = |f: &&String| f.strip_prefix('^').unwrap_or(f) == name;
        self.features
            .iter()
            .rev()
            .find(last)
            .is_some_and(|f| f == name)
    }
}

fn label(text: &str) -> Result<String, String> {
    if text.len() > LABEL_MAX {
        return Err(format!(
            "a label has at most {LABEL_MAX} bytes, this one has {}",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err("a label has no control characters".into());
    }
    Ok(text.to_owned())
}

fn volume_uuid(text: &str) -> Result<Uuid, String> {
    match Uuid::parse_str(text) {
        Ok(uuid) if !uuid.is_nil() => Ok(uuid),
        Ok(_) => Err("the UUID must not be all zeros".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn node_size(text: &str) -> Result<u32, String> {
    let bytes = size::parse(text)?;
    let range = NODE_MIN as u64..=NODE_MAX as u64;
    match u32::try_from(bytes) {
        Ok(n) if n.is_power_of_two() && range.contains(&bytes) => Ok(n),
        _ => Err(format!(
            "a power of two from {} to {} is needed",
            size::format(NODE_MIN as u64),
            size::format(NODE_MAX as u64)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::{CommandFactory, Parser};

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_and_limits() {
        let a = parse("mkfs.aegisfs -n 64K -L x --data-replicas 2 image 3G").unwrap();
        assert_eq!(
            (a.node_size, a.size, a.data_replicas),
            (65536, Some(3 << 30), 2)
        );
        assert!(parse("mkfs.aegisfs -O quota image")
            .unwrap()
            .feature("quota"));
        assert!(!parse("mkfs.aegisfs -O quota,^quota image")
            .unwrap()
            .feature("quota"));
        assert!(!a.feature("quota"));
        for wrong in [
            "-O nonsense",
            "-n 5K",
            "-n 128K",
            "-n 2K",
            "--metadata-replicas 3",
            "--data-replicas 0",
            "-U x",
            "-U 00000000-0000-0000-0000-000000000000",
        ] {
            assert!(
                parse(&format!("mkfs.aegisfs {wrong} image")).is_err(),
                "{wrong}"
            );
        }
        let long = "x".repeat(64);
        assert!(parse(&format!("mkfs.aegisfs -L {long} image")).is_err());
        assert!(parse(&format!("mkfs.aegisfs -L {} image", &long[1..])).is_ok());
    }
}
