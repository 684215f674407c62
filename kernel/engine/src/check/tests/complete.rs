// SPDX-License-Identifier: GPL-2.0-only
//! Every kind of problem has a test that makes it: a new one without a test fails here.

extern crate std;

use std::collections::BTreeSet;
use std::vec::Vec;

/// Codes come from one table, which names each variant: the compiler sees to that.
const TABLE: &str = include_str!("../facts.rs");
const TESTS: &[&str] = &[
    include_str!("bytes.rs"),
    include_str!("device.rs"),
    include_str!("health.rs"),
    include_str!("objects.rs"),
    include_str!("quota.rs"),
    include_str!("shared.rs"),
    include_str!("structure.rs"),
    include_str!("whole.rs"),
];
/// What tests hand the codes to that must be found.
const EXPECTATIONS: &[&str] = &[
    "mended(&[",
    "left(&[",
    "reasons(&ram), [",
    "codes, [",
    "codes.contains(&",
    "codes().contains(&",
];

/// Words in quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

#[test]
fn every_kind_of_problem_has_a_test() {
    let table = TABLE.split("const fn facts").nth(1).unwrap();
    let table = table.split("fn code(").next().unwrap();
    let codes: BTreeSet<&str> = quoted(table).collect();
    let variants = table.matches("Self::").count();
    assert!(codes.len() > 50 && variants >= codes.len(), "{codes:?}");
    let expected: BTreeSet<&str> = TESTS
        .iter()
        .flat_map(|text| EXPECTATIONS.iter().map(move |e| (text, e)))
        .flat_map(|(text, e)| text.split(e).skip(1))
        .flat_map(|rest| quoted(rest.split([']', ')']).next().unwrap_or_default()))
        .collect();
    let untested: Vec<_> = codes.difference(&expected).collect();
    assert!(untested.is_empty(), "no test expects {untested:?}");
}
