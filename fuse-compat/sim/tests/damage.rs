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

/// Every kind of block, damaged in every way: never silently wrong, never a panic.
#[test]
fn no_fault_is_silent() {
    let seed = seed_from_env();
    println!("seed {seed}");
    let cells = aegisfs_sim::faults::run(seed).unwrap();
    for cell in &cells {
        assert!(cell.silent.is_empty(), "{cell:?}");
        if cell.kind == "file data, mirrored" && cell.copies == "one copy" {
            // Not always detected: a copy of the last entry's data may as well not have been written before the
            // crash, so that recovery makes it again without calling it an error.
            assert_eq!(cell.healed, cell.tries, "{cell:?}");
        } else if cell.kind.starts_with("file data") && cell.copies != "one request" {
            assert!(cell.detected + cell.shortened >= cell.tries, "{cell:?}");
        }
    }
    assert!(cells.iter().map(|c| c.tries).sum::<u32>() > 300);
}

/// Two blocks at once: what has a sound copy left, one repair restores.
#[test]
fn two_damaged_blocks_are_repaired() {
    let seed = seed_from_env();
    println!("seed {seed}");
    let pairs = aegisfs_sim::pairs::run(seed, number("AEGIS_PAIRS").unwrap_or(8) as u32).unwrap();
    assert!(
        pairs.violations.is_empty(),
        "{}",
        pairs.violations.join("\n")
    );
    assert!(pairs.tries > 60);
}
