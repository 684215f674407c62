// SPDX-License-Identifier: GPL-2.0-only
//! Volumes as a whole: making one, mounting one.

pub mod format;
pub mod layout;
pub mod mount;
