// SPDX-License-Identifier: GPL-2.0-only
//! The FUSE protocol, as the Linux kernel speaks it over `/dev/fuse` (`linux/fuse.h`): bytes only.
//!
//! [`abi`] has the numbers, [`request`] takes requests apart, [`payload`] puts replies together,
//! [`connection`] carries them. Nothing here knows AegisFS.
//!
//! Why not a crate: the one that is kept up (fuser 0.18) panics on times that any user can set
//! (`utimensat` with the smallest second), shifts times before 1970, and does not pass on what is needed for
//! unnamed files, times of creation and set-id bits.

pub mod abi;
pub mod connection;
pub mod payload;
pub mod request;
