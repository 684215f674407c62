// SPDX-License-Identifier: GPL-2.0-only
//! What the test VM and the host that drives it have in common.
//!
//! The binary `aegis-guest` is linked statically and is the initial process of the VM, so that
//! the VM needs neither a service manager nor a shell to be driven. The host links this library
//! for the wire protocol and for the shape of the power-cut workload.

pub mod file;
pub mod proto;
pub mod random;
pub mod tree;
pub mod workload;
