// SPDX-License-Identifier: GPL-2.0-only
//! The engine against the model. `AEGIS_SEED` replays a run, `AEGIS_OPS` makes it longer.

use aegisfs_sim::generate::Profile;
use aegisfs_sim::property::{run, Run};
use aegisfs_sim::volume::Shape;
use aegisfs_sim::{number, seed_from_env};

fn attack(name: &str, shape: Shape, profile: Profile, ops: u64) {
    let seed = seed_from_env();
    let ops = number("AEGIS_OPS").unwrap_or(ops);
    let run_of = Run {
        seed,
        ops,
        shape,
        profile,
        check_every: 700,
    };
    match run(&run_of) {
        Ok(full) => println!("{name}: seed {seed}, {ops} operations, {full} refused for space"),
        Err(e) => panic!(
            "{name}: {e}\nreplay: AEGIS_SEED={seed} AEGIS_OPS={ops} \
             cargo test -p aegisfs_sim --test model {name}"
        ),
    }
}

fn shape(mib: u64, node_size: u32) -> Shape {
    Shape {
        size: mib << 20,
        node_size,
        metadata_replicas: 2,
        data_replicas: 1,
    }
}

#[test]
fn small_nodes() {
    attack("small_nodes", shape(400, 4096), Profile::MODEL, 1500);
}

#[test]
fn usual_nodes() {
    attack("usual_nodes", shape(400, 16384), Profile::MODEL, 1500);
}

#[test]
fn large_nodes() {
    attack("large_nodes", shape(400, 65536), Profile::MODEL, 1500);
}

#[test]
fn mirrored_data() {
    let shape = Shape {
        data_replicas: 2,
        ..shape(400, 16384)
    };
    attack("mirrored_data", shape, Profile::MODEL, 1500);
}

#[test]
fn full_small_nodes() {
    attack("full_small_nodes", shape(32, 4096), Profile::FULL, 2500);
}

#[test]
fn full_usual_nodes() {
    attack("full_usual_nodes", shape(32, 16384), Profile::FULL, 2500);
}

#[test]
fn full_large_nodes() {
    attack("full_large_nodes", shape(40, 65536), Profile::FULL, 2500);
}

#[test]
fn crumbs_small_nodes() {
    attack(
        "crumbs_small_nodes",
        shape(32, 4096),
        Profile::CRUMBS,
        12000,
    );
}

#[test]
fn crumbs_usual_nodes() {
    attack(
        "crumbs_usual_nodes",
        shape(32, 16384),
        Profile::CRUMBS,
        12000,
    );
}

#[test]
fn crumbs_large_nodes() {
    attack(
        "crumbs_large_nodes",
        shape(40, 65536),
        Profile::CRUMBS,
        12000,
    );
}
