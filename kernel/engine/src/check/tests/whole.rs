// SPDX-License-Identifier: GPL-2.0-only
//! Many damages at once, crashed volumes, and bytes at random: the check ends without a panic, and
//! repair converges.

extern crate std;

use super::*;

/// A small generator, so that a seed replays a failure.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[test]
fn a_crashed_volume_has_only_notes() {
    let ram = sample();
    let fs = ram.mount();
    for i in 0..200 {
        let a = fs
            .create(ROOT_INO, name(i).as_bytes(), &file())
            .unwrap()
            .attr;
        fs.write(a.ino, 0, &content()[..i * 100]).unwrap();
        if i % 3 == 0 {
            fs.unlink(ROOT_INO, name(i).as_bytes()).unwrap();
        }
        if i == 100 {
            fs.checkpoint().unwrap();
        }
    }
    fs.sync().unwrap();
    drop(fs);
    let (summary, found) = ram.check_with(CheckOptions { data: true });
    assert!(summary.is_clean(), "{found:?}");
    assert!(summary.replayed > 100);
    assert!(found.iter().all(|p| p.severity() == Severity::Note));
    ram.mended(&["unfinished-deletion"]);
}

#[test]
fn random_records_are_survived_and_repair_converges() {
    for seed in 0..15 {
        let mut random = Random(seed);
        let ram = sample();
        let fs = ram.mount();
        let all = keys(&fs);
        let mut tx = fs.begin(Class::Reserve).unwrap();
        for _ in 0..1 + random.below(6) {
            let key = all[random.below(all.len() as u64) as usize];
            match random.below(4) {
                0 => tx.delete(key).unwrap(),
                1 => {
                    let mut value = record(&tx, key);
                    if let Some(n) = value.len().checked_sub(1) {
                        let at = random.below(n as u64 + 1) as usize;
                        value[at] ^= 1 << random.below(8);
                    }
                    tx.put(key, &value).unwrap();
                }
                2 => {
                    let from = all[random.below(all.len() as u64) as usize];
                    let value = record(&tx, from);
                    tx.put(key, &value).unwrap();
                }
                _ => {
                    let mut value = record(&tx, key);
                    value.truncate(random.below(value.len() as u64 + 1) as usize);
                    tx.put(key, &value).unwrap();
                }
            }
        }
        tx.commit().unwrap();
        fs.unmount().unwrap();
        let before = ram.check();
        ram.repair(CheckOptions { data: true });
        let after = ram.check();
        // What can be repaired is; what is left cannot be.
        for p in &after {
            assert!(
                p.stage().is_none() || before.contains(p),
                "seed {seed}: {p:?} is left of {before:?}"
            );
        }
    }
}

#[test]
fn random_bytes_are_survived() {
    for seed in 0..30 {
        let mut random = Random(1000 + seed);
        let ram = sample();
        let fs = ram.mount_read_only();
        let used: Vec<u64> = (0..ram.size() / 4096)
            .filter(|i| {
                let d = ram.0.lock().unwrap();
                d[(i * 4096) as usize..][..4096].iter().any(|b| *b != 0)
            })
            .collect();
        drop(fs);
        for _ in 0..1 + random.below(12) {
            let block = used[random.below(used.len() as u64) as usize];
            let at = block * 4096 + random.below(4096);
            ram.poke(at, |b| b[0] ^= 1 << random.below(8));
        }
        let options = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        let mut found = Found::default();
        match Fs::mount(ram.devices(), options) {
            Ok(fs) => {
                fs.check(CheckOptions { data: true }, &mut found).unwrap();
                drop(fs);
                ram.repair(CheckOptions { data: true });
            }
            Err(_) => {
                super::super::diagnose(&ram, &mut found).unwrap();
            }
        }
    }
}

#[test]
fn an_observer_can_end_the_check() {
    struct Impatient;
    impl Observer for Impatient {
        fn problem(&mut self, _: &Problem) {}
        fn progress(&mut self, phase: Phase, _: u64, _: u64) -> bool {
            phase == Phase::Devices
        }
    }
    let fs = sample().mount_read_only();
    let report = fs.check(CheckOptions::default(), &mut Impatient).unwrap();
    assert!(report.summary.cancelled && !report.summary.is_clean());
    assert!(fs.begin_repair(&report, true).is_err());
}
