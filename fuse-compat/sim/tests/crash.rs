// SPDX-License-Identifier: GPL-2.0-only
//! Crash states of random runs; and disks that lie, which the simulator must notice.

use aegisfs_sim::attack::{attack, Plan, Workload};
use aegisfs_sim::crash::lies::LIES;
use aegisfs_sim::crash::{replay, run, shrink, Config, Origin, Token, Totals};
use aegisfs_sim::disk::Faults;
use aegisfs_sim::{number, seed_from_env};
use std::time::{Duration, Instant};

/// Threads of a part that uses more than one.
fn jobs() -> usize {
    number("AEGIS_JOBS").map_or(2, |n| n as usize)
}

/// Seconds that a part of this test may take.
fn seconds() -> u64 {
    number("AEGIS_SECONDS").unwrap_or(3)
}

/// Explores until the time is over, and on a slow machine until there is enough to judge by.
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
        let enough = totals.unique_states > 50 && totals.nested_states > 5;
        run(&config, &mut totals, enough.then_some(deadline));
        let over = enough && Instant::now() >= deadline;
        if over || !totals.violations.is_empty() {
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

/// All sequences of one operation.
#[test]
fn every_sequence_of_one_operation_is_crash_safe() {
    let plan = Plan {
        config: Config::new(seed_from_env()),
        jobs: jobs(),
        workloads: vec![Workload::Ace1],
        time: None,
        states: u64::MAX,
        violations: 1,
        shrink: true,
    };
    println!("seed {}", plan.config.seed);
    let (totals, shares) = attack(&plan, &|_, _| ()).unwrap();
    assert!(totals.violations.is_empty(), "{}", totals.violations[0]);
    assert_eq!(Some(shares[0].runs), Workload::Ace1.count());
}

/// A simulator that notices nothing proves nothing.
#[test]
fn every_lie_of_the_disk_is_noticed() {
    for lie in LIES {
        let plan = Plan {
            config: Config {
                lie: Some(*lie),
                ..Config::new(1)
            },
            jobs: jobs(),
            workloads: Workload::ALL.to_vec(),
            // Seconds as a rule; a slow machine is no failure.
            time: Some(Duration::from_secs(300)),
            states: u64::MAX,
            violations: 1,
            shrink: false,
        };
        let (totals, _) = attack(&plan, &|_, _| ()).unwrap();
        let v = totals.violations.first();
        let kind = v.map(aegisfs_sim::crash::Violation::kind);
        println!("{}: {kind:?} after {} states", lie.name, totals.states);
        assert!(v.is_some(), "nobody noticed {}", lie.name);
    }
}

/// What a failure is made small to fails again, and is small.
#[test]
fn failures_are_made_small_and_can_be_repeated() {
    let config = Config {
        lie: LIES.iter().find(|l| l.name == "fua-ignored").copied(),
        ..Config::new(1)
    };
    let token = Token::new(Origin::Random(config.seed, 60));
    let found = replay(&config, &token)
        .unwrap()
        .expect("the lie is noticed");
    let small = shrink(&config, &token.base(&config).unwrap(), &token, &found);
    let text = small.replay.rsplit(' ').next().unwrap();
    let again = Token::parse(text).unwrap();
    assert!(again.script().len() <= 4, "{small}");
    assert!(replay(&config, &again).unwrap().is_some(), "{small}");
}
