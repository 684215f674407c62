// SPDX-License-Identifier: GPL-2.0-only
//! Bindings to the kernel's C interface, and safe wrappers around the objects that it deals in.
//!
//! Knows nothing of the engine.

pub(crate) mod bindings;
pub(crate) mod bio;
pub(crate) mod blockio;
pub(crate) mod blockset;
pub(crate) mod inode;
pub(crate) mod memory;
pub(crate) mod table;
pub(crate) mod task;
