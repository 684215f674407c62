// SPDX-License-Identifier: GPL-2.0-only
//! What the AegisFS userspace programs share.
//!
//! Block devices and image files for the engine, human sizes, JSON, progress, logging, and one way
//! to report a failure: what failed, on which object, why, and what to do next. Nothing here knows
//! a command of its own.

pub mod background;
pub mod control;
pub mod device;
pub mod discard;
pub mod logging;
pub mod mounts;
pub mod output;
pub mod progress;
pub mod quotactl;
pub mod report;
pub mod size;
pub mod superblock;
pub mod time;

pub use background::Background;
pub use device::{Access, FileDevice};
pub use report::{run, Failure};
