// SPDX-License-Identifier: GPL-2.0-only
//! Time and chance as a simulation wants them, so that the same run gives the same bytes.

use std::cell::Cell;

thread_local! {
    static CLOCK: Cell<Option<i64>> = const { Cell::new(None) };
    static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
}

/// For this thread, the wall clock stands at `seconds`; `None`: it is the host's.
pub fn set_clock(seconds: Option<i64>) {
    CLOCK.set(seconds);
}

/// For this thread, random bytes follow from `seed`; `None`: they are the host's.
pub fn set_random(seed: Option<u64>) {
    RANDOM.set(seed);
}

pub(crate) fn now() -> Option<(i64, u32)> {
    CLOCK.get().map(|seconds| (seconds, 0))
}

/// Fills `out` if this thread simulates.
pub(crate) fn random_bytes(out: &mut [u8]) -> bool {
    let Some(mut state) = RANDOM.get() else {
        return false;
    };
    for byte in out {
        // Knuth's multiplier and increment; the high bits are the good ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *byte = state.to_be_bytes()[0];
    }
    RANDOM.set(Some(state));
    true
}
