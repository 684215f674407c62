// SPDX-License-Identifier: GPL-2.0-only
//! On-disk bytes: layouts, encoders, validating decoders. No I/O, no state.
//!
//! All integers are little-endian. Every decoder is total: any bytes give a value or an error,
//! never a panic. `docs/on-disk-format.md` describes the same layouts for readers.

pub mod bytes;
pub mod chunk;
pub mod health;
pub mod journal;
pub mod key;
pub mod node;
pub mod quota;
pub mod record;
pub mod superblock;

#[cfg(test)]
mod tests;
