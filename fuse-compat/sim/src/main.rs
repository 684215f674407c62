// SPDX-License-Identifier: GPL-2.0-only
//! Command line of the simulator.
fn main() {}
