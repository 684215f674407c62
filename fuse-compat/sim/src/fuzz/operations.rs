// SPDX-License-Identifier: GPL-2.0-only
//! Operations compared with the model, while requests to the disk fail.
//!
//! Input: what fails and when, then two bytes for each operation.

use super::Input;
use crate::disk::Faults;
use crate::generate::{Generator, Profile};
use crate::history::{History, Step};
use crate::model::Model;
use crate::rng::mix;
use crate::volume::{counts, disk_over, mount, new_volume, Shape};
use crate::{audit::audit, disk::Image};
use aegisfs_engine::Error;
use std::sync::{Arc, OnceLock};

/// Most operations of one input.
const OPERATIONS: usize = 120;
/// Of the volume.
const SEED: u64 = 4;

fn empty() -> &'static Arc<Image> {
    static EMPTY: OnceLock<Arc<Image>> = OnceLock::new();
    EMPTY.get_or_init(|| {
        let shape = Shape {
            size: 32 << 20,
            node_size: 4096,
            metadata_replicas: 2,
            data_replicas: 1,
        };
        new_volume(&shape, SEED).expect("mkfs works")
    })
}

/// Runs a sequence, with faults, and compares what a mount shows afterwards.
///
/// # Panics
/// When volume and model differ, or something is lost that was acknowledged.
pub fn operations(data: &[u8]) {
    let mut input = Input(data);
    let disk = disk_over(empty());
    let mut fs = mount(&disk, false).expect("a new volume mounts");
    let (what, when, seed) = (input.u8() % 6, input.u16(), u64::from(input.u8()));
    let rate = u32::from(when) + 1;
    let mut faults = Faults::default();
    match what {
        1 => disk.set_budget(u64::from(when) % 2000),
        2 => faults.write_error = rate,
        3 => faults.read_error = rate,
        4 => faults.flush_error = rate,
        5 => faults.bit_flip = rate / 16,
        _ => {}
    }
    disk.set_faults(faults, seed);
    let mut history = History::new(Model::new(counts(SEED)));
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        let choice = input.u16();
        if choice == 0xffff {
            // A crash; what was not acknowledged may be there or not, so all is made durable first.
            if fs.sync().is_err() {
                break;
            }
            history.all_durable();
            match mount(&disk, false) {
                Ok(again) => fs = again,
                Err(e) => {
                    assert!(what != 0, "mount: {e}");
                    break;
                }
            }
            history.model.drop_unnamed();
            continue;
        }
        let mut generator = Generator::new(mix(u64::from(choice)), Profile::CRASH);
        let op = generator.next(&history.model);
        match history.run(&fs, &op) {
            Step::Agreed => {}
            Step::Full => break,
            Step::Differs(got, want) => {
                let honest = matches!(got, Err(Error::Io | Error::Corrupt | Error::Shutdown));
                assert!(what != 0 && honest, "{op:?}: {got:?}, model: {want:?}");
                break;
            }
        }
    }
    drop(fs);
    disk.set_budget(u64::MAX);
    disk.set_faults(Faults::default(), 0);
    let fs = mount(&disk, false).expect("a sound disk mounts");
    let seen = Model::read_from(&fs).expect("everything can be read");
    assert!(
        history.may_show(seen.digest()),
        "shows what never was, or less than was acknowledged"
    );
    fs.unmount().expect("it unmounts");
    // A map that could not be read leaves blocks marked until the next fsck, or is void until then.
    let mut found = audit(&disk, true).expect("it can be audited");
    let is_left =
        |f: &str| f.ends_with("leak") || f.contains("blocks free") || f.ends_with(": void");
    found.retain(|f| what == 0 || !is_left(f));
    assert!(found.is_empty(), "{found:?}");
}

/// Each kind of fault, and none.
pub fn seeds() -> Vec<Vec<u8>> {
    (0..12_u8)
        .map(|n| {
            let mut seed = vec![n % 6, n.wrapping_mul(37), n, n];
            let choices = (0..80_u16).map(|i| {
                i.wrapping_mul(257)
                    .wrapping_add(u16::from(n).wrapping_mul(7919))
            });
            seed.extend(choices.flat_map(u16::to_le_bytes));
            seed
        })
        .collect()
}
