// SPDX-License-Identifier: GPL-2.0-only
//! The engine's host in the kernel: block devices below it, the VFS above it.
//!
//! `ffi` holds the bindings and the safe wrappers around C objects; `blockdev` is the engine's
//! `BlockDevice`; `vfs` is everything that the VFS calls.

pub(crate) mod blockdev;
pub(crate) mod ffi;
pub(crate) mod vfs;
