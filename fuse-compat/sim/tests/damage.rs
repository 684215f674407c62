// SPDX-License-Identifier: GPL-2.0-only
//! Damaged images: refused or served, never a panic.

use aegisfs_sim::damage::{run, Totals};
use aegisfs_sim::{number, seed_from_env};

#[test]
fn damaged_images_are_refused_or_served() {
    let seed = seed_from_env();
    let images = number("AEGIS_IMAGES").unwrap_or(60);
    let mut totals = Totals::default();
    run(seed, images, &mut totals).unwrap();
    assert!(totals.violations.is_empty(), "{}", totals.violations[0]);
    println!("seed {seed}: {totals:?}");
}
