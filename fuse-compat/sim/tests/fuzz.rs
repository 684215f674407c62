// SPDX-License-Identifier: GPL-2.0-only
//! The fuzzer's targets on what it has found so far, and on some mutations of that. `AEGIS_SEED` repeats the
//! mutations, `AEGIS_SECONDS` sets the time for each target.

use aegisfs_sim::fuzz::{mutate, TARGETS};
use aegisfs_sim::rng::Rng;
use aegisfs_sim::{number, seed_from_env};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn corpus_passes() {
    for (name, target, seeds) in TARGETS {
        let files = corpus(name);
        assert!(!files.is_empty(), "no corpus for {name}");
        for (path, input) in files {
            println!("{}", path.display());
            target(&input);
        }
        for seed in seeds() {
            println!("{name}: {seed:02x?}");
            target(&seed);
        }
    }
}

#[test]
fn mutations_pass() {
    let seed = seed_from_env();
    let seconds = number("AEGIS_SECONDS").unwrap_or(2);
    for (name, target, seeds) in TARGETS {
        let mut inputs: Vec<Vec<u8>> = corpus(name).into_iter().map(|(_, input)| input).collect();
        inputs.extend(seeds());
        let mut rng = Rng::new(seed);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut n = 0_u64;
        while Instant::now() < end || n < 20 {
            let choice = rng.index(inputs.len());
            let input = mutate(&inputs[choice], &mut rng);
            println!("{name}, AEGIS_SEED={seed}, input {n}: {input:02x?}");
            target(&input);
            n += 1;
        }
    }
}
