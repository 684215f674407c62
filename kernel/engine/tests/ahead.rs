// SPDX-License-Identifier: GPL-2.0-only
//! The last journal entry counts if the data is there that it refers to; of others that is known.

use aegisfs_engine::format::superblock::INCOMPAT_AHEAD;
use aegisfs_engine::*;
use common::{file, pattern, Ram};

mod common;

/// Damages the block with this content, wherever it stands.
fn lose(ram: &Ram, content: &[u8]) {
    let mut disk = ram.0.lock().unwrap();
    let mut blocks = disk.chunks_exact_mut(BLOCK_SIZE);
    let block = blocks.find(|block| *block == content);
    block.expect("the block was written")[100] ^= 1;
}

fn content(fs: &Fs, name: &str, len: usize) -> Result<Vec<u8>> {
    let ino = fs.lookup(ROOT_INO, name.as_bytes())?.ino;
    let mut bytes = vec![0; len];
    let n = fs.read(ino, 0, &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}

const LEN: usize = 5 * BLOCK_SIZE;

/// Two files, each made durable by an entry of its own; then a crash.
fn two_files(options: &FormatOptions) -> Ram {
    let ram = Ram::format(64 << 20, options);
    let fs = ram.mount();
    for (n, name) in (1..).zip(["first", "second"]) {
        file(&fs, name, &pattern(n, LEN));
        fs.sync().unwrap();
    }
    ram.crash()
}

#[test]
fn an_entry_without_its_data_is_not_there() {
    for block in 0..LEN / BLOCK_SIZE {
        let ram = two_files(&FormatOptions::new());
        lose(&ram, &pattern(2, LEN)[block * BLOCK_SIZE..][..BLOCK_SIZE]);
        assert_eq!(ram.check(), [], "block {block}");
        let fs = ram.mount();
        assert_eq!(content(&fs, "first", LEN), Ok(pattern(1, LEN)));
        assert_eq!(content(&fs, "second", LEN), Err(Error::NotFound));
        // Its place in the ring is used again.
        file(&fs, "third", &pattern(3, LEN));
        fs.sync().unwrap();
        let fs = ram.crash().mount();
        assert_eq!(content(&fs, "third", LEN), Ok(pattern(3, LEN)));
        assert_eq!(content(&fs, "first", LEN), Ok(pattern(1, LEN)));
    }
}

#[test]
fn damage_behind_an_earlier_entry_is_damage() {
    let ram = two_files(&FormatOptions::new());
    lose(&ram, &pattern(1, LEN)[..BLOCK_SIZE]);
    let fs = ram.mount();
    assert_eq!(content(&fs, "first", LEN), Err(Error::Corrupt));
    assert_eq!(content(&fs, "second", LEN), Ok(pattern(2, LEN)));
}

#[test]
fn one_copy_is_enough() {
    let options = FormatOptions {
        data_replicas: 2,
        ..FormatOptions::new()
    };
    let ram = two_files(&options);
    lose(&ram, &pattern(2, LEN)[..BLOCK_SIZE]);
    let fs = ram.mount();
    assert_eq!(common::problems(&fs), [], "the other copy is there again");
    assert_eq!(content(&fs, "second", LEN), Ok(pattern(2, LEN)));
    drop(fs);
    let ram = two_files(&options);
    lose(&ram, &pattern(2, LEN)[..BLOCK_SIZE]);
    lose(&ram, &pattern(2, LEN)[..BLOCK_SIZE]);
    assert_eq!(content(&ram.mount(), "second", LEN), Err(Error::NotFound));
}

/// In preallocated space, and where there is more than recovery shall look at, data comes first.
#[test]
fn entries_that_waited_count() {
    let ram = Ram::format(64 << 20, &FormatOptions::new());
    let fs = ram.mount();
    let there = file(&fs, "there", b"");
    fs.fallocate(there, 0, LEN as u64, false).unwrap();
    fs.sync().unwrap();
    fs.write(there, 0, &pattern(1, LEN)).unwrap();
    fs.sync().unwrap();
    let crashed = ram.crash();
    lose(&crashed, &pattern(1, LEN)[..BLOCK_SIZE]);
    assert_eq!(content(&crashed.mount(), "there", LEN), Err(Error::Corrupt));

    let len = 1025 * BLOCK_SIZE;
    file(&fs, "large", &pattern(2, len));
    fs.sync().unwrap();
    let crashed = ram.crash();
    lose(&crashed, &pattern(2, len)[..BLOCK_SIZE]);
    assert_eq!(content(&crashed.mount(), "large", len), Err(Error::Corrupt));
}

#[test]
fn volumes_from_before_wait() {
    let ram = Ram::format(64 << 20, &FormatOptions::new()).without(INCOMPAT_AHEAD);
    let fs = ram.mount();
    file(&fs, "data", &pattern(1, LEN));
    fs.sync().unwrap();
    let crashed = ram.crash();
    lose(&crashed, &pattern(1, LEN)[..BLOCK_SIZE]);
    assert_eq!(content(&crashed.mount(), "data", LEN), Err(Error::Corrupt));
}
