// SPDX-License-Identifier: GPL-2.0-only
//! Ending in order when the user or the system asks for it.

use crate::status;
use nix::sys::signal::{SigSet, Signal};
use std::sync::atomic::{AtomicBool, Ordering};

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Takes the signals that end a program: the first one makes [`cancelled`] true, the second one ends
/// the program at once.
pub fn listen() {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    if set.thread_block().is_err() {
        return;
    }
    let waiter = std::thread::Builder::new().name("signals".into());
    let spawned = waiter.spawn(move || {
        while set.wait().is_ok() {
            if CANCELLED.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(status::CANCELLED));
            }
        }
    });
    if spawned.is_err() {
        // Without the thread nobody would take them.
        let _ = set.thread_unblock();
    }
}

/// The user wants an end.
pub fn cancelled() -> bool {
    CANCELLED.load(Ordering::Relaxed)
}
