// SPDX-License-Identifier: GPL-2.0-only
//! The debug kernel: KASAN, lockdep, fault injection.

use anyhow::{bail, Result};

use crate::kernel::Kernel;

pub fn find() -> Result<Kernel> {
    bail!("the debug kernel is not built yet: run 'cargo xtask debug-kernel'")
}
