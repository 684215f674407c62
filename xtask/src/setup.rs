// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask setup`: everything that a build and a VM need, made once.

use anyhow::Result;

use crate::kernel::{self, Choice, Kernel};
use crate::toolchain::Toolchain;
use crate::{guest_image, host, ui};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Look for a newer kernel in the distribution's backports.
    #[arg(long)]
    update: bool,
}

pub fn main(options: &Options) -> Result<()> {
    host::ensure_packages()?;
    let toolchain = Toolchain::ensure()?;
    if options.update {
        kernel::update(&toolchain)?;
    }
    let kernel = Kernel::ensure(Choice::Stock, &toolchain)?;
    guest_image::ensure()?;
    ui::step(format!(
        "ready: kernel {}, tree {}",
        kernel.release,
        kernel.tree.display()
    ));
    Ok(())
}
