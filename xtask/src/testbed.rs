// SPDX-License-Identifier: GPL-2.0-only
//! Everything that VMs of one run share: kernel, module, tools, userland.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::kernel::{Choice, Kernel};
use crate::stage::{self, Demand, Initramfs};
use crate::toolchain::Toolchain;
use crate::vm::{Config, Disk};
use crate::{guest_image, host, kmod};

pub struct Testbed {
    pub toolchain: Toolchain,
    pub kernel: Kernel,
    root_image: PathBuf,
    initramfs: Initramfs,
}

impl Testbed {
    /// Builds what a VM needs; with `Demand::Everything`, a missing module or tool is an error.
    pub fn prepare(choice: Choice, demand: Demand) -> Result<Testbed> {
        Self::prepare_with(choice, demand, false)
    }

    /// With the module that computes no checksums of data beside the other.
    pub fn prepare_with(choice: Choice, demand: Demand, unsummed: bool) -> Result<Testbed> {
        host::ensure_packages()?;
        let toolchain = Toolchain::ensure()?;
        let kernel = Kernel::ensure(choice, &toolchain)?;
        let root_image = guest_image::ensure()?;
        let module = stage::build(&kernel, &toolchain, demand)?;
        let unsummed = match unsummed {
            true => Some(kmod::build(
                &kernel,
                &toolchain,
                &kmod::default_source(),
                false,
            )?),
            false => None,
        };
        let initramfs = stage::initramfs(
            &kernel,
            &toolchain,
            module.as_deref(),
            unsummed.as_ref().map(|module| module.path.as_path()),
            demand,
        )?;
        Ok(Testbed {
            toolchain,
            kernel,
            root_image,
            initramfs,
        })
    }

    /// The debug kernel's checks take their time.
    pub fn patience(&self, timeout: Duration) -> Duration {
        match self.kernel.choice {
            Choice::Stock | Choice::Uml => timeout,
            Choice::Debug => timeout * 5,
        }
    }

    /// A VM of this testbed with the given options and disks.
    pub fn config(&self, shape: &Shape, disks: Vec<Disk>) -> Config {
        Config {
            toolchain: self.toolchain.clone(),
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.path.clone(),
            root_image: self.root_image.clone(),
            cpus: match self.kernel.choice {
                // With several, programs find bytes of their memory changed, on any filesystem.
                Choice::Uml => 1,
                _ => shape.cpus,
            },
            memory_mib: shape.memory_mib,
            disks,
            stock_command_line: shape.stock_command_line,
            interactive: false,
            directory: None,
        }
    }
}

/// The options of a VM that tests choose. Equal shapes can share a boot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, clap::Args)]
pub struct Shape {
    /// Add an empty disk of this size (512M, 3G, ...); the first is $AEGIS_DISK1 in the VM.
    #[arg(long = "disk", value_name = "SIZE", value_parser = parse_size)]
    pub disks: Vec<u64>,
    /// Memory in MiB.
    #[arg(long = "mem", value_name = "MB", default_value_t = 2048)]
    pub memory_mib: u32,
    /// Number of processors.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub cpus: u32,
    /// Boot with the kernel's own defaults instead of those that make emulation fast.
    #[arg(long = "stock-cmdline")]
    pub stock_command_line: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            disks: Vec::new(),
            memory_mib: 2048,
            cpus: 2,
            stock_command_line: false,
        }
    }
}

impl Shape {
    pub fn scratch_disks(&self) -> Vec<Disk> {
        self.disks
            .iter()
            .map(|&size| Disk::Scratch { size })
            .collect()
    }

    /// The options that give this shape, as one writes them.
    pub fn arguments(&self) -> String {
        let default = Shape::default();
        let mut text = String::new();
        for size in &self.disks {
            text.push_str(&format!(" --disk {}", format_size(*size)));
        }
        if self.memory_mib != default.memory_mib {
            text.push_str(&format!(" --mem {}", self.memory_mib));
        }
        if self.cpus != default.cpus {
            text.push_str(&format!(" --cpus {}", self.cpus));
        }
        if self.stock_command_line {
            text.push_str(" --stock-cmdline");
        }
        text
    }
}

/// A size in bytes, with an optional binary suffix.
pub fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .with_context(|| format!("'{text}' is not a size"))?;
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        other => bail!("'{text}' is not a size: the suffix '{other}' is not one of K, M, G, T"),
    };
    number
        .checked_mul(1 << shift)
        .with_context(|| format!("'{text}' is too large"))
}

fn format_size(size: u64) -> String {
    for (shift, suffix) in [(30, "G"), (20, "M"), (10, "K")] {
        if size > 0 && size % (1 << shift) == 0 {
            return format!("{}{suffix}", size >> shift);
        }
    }
    size.to_string()
}

pub fn parse_seconds(text: &str) -> Result<Duration> {
    let seconds: u64 = text
        .parse()
        .with_context(|| format!("'{text}' is not a number"))?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_survive_a_round_trip() {
        for text in ["3G", "512M", "4K", "1025"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
        assert!(parse_size("3X").is_err());
        assert!(parse_size("").is_err());
        assert!(parse_size("99999999999T").is_err());
    }
}
