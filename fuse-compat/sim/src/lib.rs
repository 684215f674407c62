// SPDX-License-Identifier: GPL-2.0-only
//! Proof by attack: the engine on a simulated disk, compared with a model.
//!
//! [`property`] compares random operations with the model, [`crash`] every state that a power
//! failure can leave ([`attack`] does so for as long as one likes, on all processors), [`damage`] mounts what should never be mounted. Every run follows from its
//! seed.

#![allow(clippy::cast_possible_truncation, clippy::missing_panics_doc)]

pub mod ahead;
pub mod attack;
pub mod audit;
pub mod crash;
pub mod damage;
pub mod disk;
pub mod driver;
pub mod faults;
pub mod fuzz;
pub mod generate;
pub mod history;
pub mod model;
pub mod ops;
pub mod pairs;
pub mod property;
pub mod rng;
pub mod sequences;
pub mod volume;

/// The seed from `AEGIS_SEED`, or one from the clock.
#[must_use]
pub fn seed_from_env() -> u64 {
    number("AEGIS_SEED").unwrap_or_else(|| {
        let now = aegisfs_platform::now();
        rng::mix(now.0.unsigned_abs() ^ u64::from(now.1) << 32) >> 16
    })
}

/// A number from an environment variable.
#[must_use]
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
