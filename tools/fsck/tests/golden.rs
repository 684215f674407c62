// SPDX-License-Identifier: GPL-2.0-only
//! Images of every format version that was released: what is on disks today can be read tomorrow.

mod support;

use aegisfs_engine::check::{CheckOptions, Observer, Phase, Problem};
use std::path::PathBuf;
use support::Disk;

struct Nothing;

impl Observer for Nothing {
    fn problem(&mut self, problem: &Problem) {
        panic!("{}: {problem}", problem.object());
    }
    fn progress(&mut self, _: Phase, _: u64, _: u64) -> bool {
        true
    }
}

fn images() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "lz4"))
        .collect();
    found.sort();
    found
}

#[test]
fn golden_images_are_clean_and_hold_what_they_held() {
    let images = images();
    assert!(images.len() >= 2, "{images:?}");
    for path in images {
        println!("{}", path.display());
        let image = std::fs::read(&path).unwrap();
        let name = path.to_string_lossy();
        let verify = if name.contains("shared") {
            support::verify_shared
        } else if name.contains("health") {
            support::verify_health
        } else if name.contains("bad-blocks") {
            support::verify_bad_blocks
        } else {
            support::verify
        };
        assert!(image.len() < 200_000);
        let disk = Disk::decode(&image);
        let options = CheckOptions { data: true };
        {
            let fs = disk.mount(true);
            assert_eq!(&fs.label().unwrap()[..], b"golden");
            let summary = fs.check(options, &mut Nothing).unwrap().summary;
            let replayed = path.to_string_lossy().contains("journal");
            assert_eq!(summary.replayed > 100, replayed);
            assert!(summary.data_verified > 0);
            verify(&fs);
        }
        // Written to by today's code, it is what it was.
        let fs = disk.mount(false);
        verify(&fs);
        fs.unmount().unwrap();
        let fs = disk.mount(true);
        fs.check(options, &mut Nothing).unwrap();
        verify(&fs);
    }
}

#[test]
fn images_survive_their_encoding() {
    let disk = Disk::new(1 << 20);
    aegisfs_engine::BlockDevice::write(&disk, 8192, &support::pattern(4096)).unwrap();
    let image = disk.encode();
    assert_eq!(Disk::decode(&image).encode(), image);
    let made = Disk::new(32 << 20);
    aegisfs_engine::format_volume(made.pool(), &aegisfs_engine::FormatOptions::new()).unwrap();
    support::fill_health(&made.mount(false)).unwrap();
    support::fill_shared(&made.mount(false)).unwrap();
}
