// SPDX-License-Identifier: GPL-2.0-only
//! Crash states of random runs; and disks that lie, which the simulator must notice.

use aegisfs_sim::crash::{run, Config, Totals};
use aegisfs_sim::disk::Faults;
use aegisfs_sim::{number, seed_from_env};
use std::time::{Duration, Instant};

/// Seconds that a part of this test may take.
fn seconds() -> u64 {
    number("AEGIS_SECONDS").unwrap_or(3)
}

fn explore(threads: bool) -> Totals {
    let deadline = Instant::now() + Duration::from_secs(seconds());
    let first = seed_from_env();
    println!("first seed {first}");
    let mut totals = Totals::default();
    for seed in first.. {
        let config = Config {
            threads,
            ..Config::new(seed)
        };
        run(&config, &mut totals, Some(deadline));
        if Instant::now() >= deadline || !totals.violations.is_empty() {
            break;
        }
    }
    totals
}

#[test]
fn every_crash_state_is_a_prefix() {
    let totals = explore(false);
    assert!(totals.violations.is_empty(), "{}", totals.violations[0]);
    assert!(totals.unique_states > 50, "{totals:?}");
    assert!(totals.nested_states > 5, "{totals:?}");
}

#[test]
fn every_crash_state_is_a_prefix_with_a_second_thread() {
    let totals = explore(true);
    assert!(totals.violations.is_empty(), "{}", totals.violations[0]);
    assert!(totals.unique_states > 50, "{totals:?}");
}

/// Runs until a lie is noticed.
fn notices(faults: Faults) {
    let first = seed_from_env();
    let mut totals = Totals::default();
    for seed in 0..30 {
        let config = Config {
            faults,
            ..Config::new(first.wrapping_add(seed))
        };
        run(&config, &mut totals, None);
        if !totals.violations.is_empty() {
            println!("noticed: {}", totals.violations[0]);
            return;
        }
    }
    panic!("nobody noticed {faults:?}, seeds from {first}: {totals:?}");
}

#[test]
fn ignored_flushes_are_noticed() {
    notices(Faults {
        ignored_flush: 300_000,
        ..Faults::default()
    });
}

#[test]
fn lost_writes_are_noticed() {
    notices(Faults {
        lost_write: 50_000,
        ..Faults::default()
    });
}

#[test]
fn misdirected_writes_are_noticed() {
    notices(Faults {
        misdirected: 50_000,
        ..Faults::default()
    });
}

/// Errors that the disk reports: the operation fails, or is healed from another copy; what was
/// durable stays.
fn survives(faults: Faults) {
    let first = seed_from_env();
    let mut totals = Totals::default();
    for seed in 0..number("AEGIS_RUNS").unwrap_or(3) {
        let config = Config {
            faults,
            errors: true,
            samples: 3,
            ..Config::new(first.wrapping_add(seed))
        };
        run(&config, &mut totals, None);
        let violation = totals.violations.first();
        assert!(violation.is_none(), "{faults:?}: {}", totals.violations[0]);
    }
    assert!(totals.unique_states > 5);
}

#[test]
fn failing_writes_are_survived() {
    survives(Faults {
        write_error: 5_000,
        ..Faults::default()
    });
}

#[test]
fn failing_flushes_are_survived() {
    survives(Faults {
        flush_error: 20_000,
        ..Faults::default()
    });
}

#[test]
fn failing_reads_are_survived() {
    survives(Faults {
        read_error: 20_000,
        ..Faults::default()
    });
}

#[test]
fn wrong_bits_are_survived() {
    survives(Faults {
        bit_flip: 3_000,
        ..Faults::default()
    });
}

#[test]
#[ignore = "a minute in a debug build; `aegisfs_sim sequences` does the same"]
fn every_short_sequence_is_crash_safe() {
    let mut totals = Totals::default();
    aegisfs_sim::sequences::run_all(seed_from_env(), 0, &mut totals);
    assert!(totals.violations.is_empty(), "{}", totals.violations[0]);
}
