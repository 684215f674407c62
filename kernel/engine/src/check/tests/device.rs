// SPDX-License-Identifier: GPL-2.0-only
//! Damage to what stands at fixed places: superblocks, chunk table, free-space maps, journal.

extern crate std;

use super::*;
use crate::check::diagnose;
use crate::format::bytes::{get_u32, put_u32, put_u64, seal};
use crate::format::chunk::{seal_page, ChunkEntry, TABLE_HEADER};
use crate::format::superblock::{Superblock, TABLE_OFFSET};
use crate::space::table_digest;
use crate::volume::mount::{page_offset, read_superblock};

fn superblock(ram: &Ram) -> (PBox<Superblock>, u8) {
    read_superblock(ram).unwrap()
}

/// Stores a superblock in both copies of the newest slot.
fn store(ram: &Ram, sb: &Superblock) {
    let slot = superblock(ram).1;
    for offset in Superblock::slot_offsets(ram.size(), slot) {
        ram.poke(offset, |b| sb.encode(&mut b[..BLOCK_SIZE]));
    }
}

/// Why the volume cannot be mounted.
fn reasons(ram: &Ram) -> Vec<&'static str> {
    let mut found = Found::default();
    diagnose(ram, &mut found).unwrap();
    let mut codes: Vec<_> = found.0.iter().map(Problem::code).collect();
    codes.dedup();
    codes
}

#[test]
fn superblock_copies() {
    for slot in [0, 1] {
        for end in [0, 1] {
            let ram = sample();
            let offset = Superblock::slot_offsets(ram.size(), slot)[end];
            ram.poke(offset, |b| b[200] ^= 1);
            ram.mended(&["superblock-copy-bad"]);
            let ram = sample();
            ram.poke(offset, |b| b[..BLOCK_SIZE].fill(0));
            ram.mended(&["superblock-copy-bad"]);
        }
    }
    // Valid, but not what its twin says.
    let ram = sample();
    let (sb, slot) = superblock(&ram);
    let mut other = sb.clone();
    other.label[0] = b'x';
    let offset = Superblock::slot_offsets(ram.size(), slot)[1];
    ram.poke(offset, |b| other.encode(&mut b[..BLOCK_SIZE]));
    ram.mended(&["superblock-copy-bad"]);
}

#[test]
fn superblock_torn_by_a_crash_is_only_a_note() {
    let ram = sample();
    let fs = ram.mount();
    fs.create(ROOT_INO, b"new", &file()).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let (_, slot) = superblock(&ram);
    let offset = Superblock::slot_offsets(ram.size(), slot ^ 1)[0];
    ram.poke(offset, |b| b[200] ^= 1);
    let found = ram.check();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].severity(), Severity::Note);
    ram.mended(&["superblock-copy-bad"]);
}

/// The one that is left may be older: no mount takes it without being told to.
#[test]
fn superblock_damaged_in_both_copies() {
    for damaged in [0, 1] {
        let ram = sample();
        for offset in Superblock::slot_offsets(ram.size(), damaged) {
            ram.poke(offset, |b| b[200] ^= 1);
        }
        let mount = |change: fn(&mut MountOptions)| {
            let mut options = MountOptions::default();
            change(&mut options);
            Fs::mount(ram.devices(), options)
        };
        assert_eq!(mount(|_| {}).err(), Some(Error::Corrupt));
        assert_eq!(mount(|o| o.read_only = true).err(), Some(Error::Corrupt));
        let fs = mount(|o| (o.read_only, o.no_recovery) = (true, true)).unwrap();
        let mut found = Found::default();
        fs.check(CheckOptions::default(), &mut found).unwrap();
        let codes: Vec<_> = found.0.iter().map(Problem::code).collect();
        assert!(codes.contains(&"superblock-pair-bad"), "{codes:?}");
        drop(fs);
        mount(|o| o.journal_prefix = true)
            .unwrap()
            .unmount()
            .unwrap();
        assert_eq!(ram.check(), []);
    }
}

#[test]
fn superblock_lost() {
    let ram = sample();
    for slot in [0, 1] {
        for offset in Superblock::slot_offsets(ram.size(), slot) {
            ram.poke(offset, |b| b[200] ^= 1);
        }
    }
    assert_eq!(reasons(&ram), ["superblock-copy-bad", "superblock-lost"]);
    let mut found = Found::default();
    let empty = Ram::new(1 << 20);
    assert_eq!(diagnose(&empty, &mut found), Err(Error::NotAegis));
    assert_eq!(found.0, []);
}

#[test]
fn unknown_features_and_short_devices() {
    let ram = sample();
    let mut sb = superblock(&ram).0;
    sb.incompat = 1 << 40;
    store(&ram, &sb);
    assert_eq!(reasons(&ram), ["unknown-features"]);
    // The tail copies went with the tail.
    let ram = sample();
    ram.0.lock().unwrap().truncate(30 << 20);
    assert_eq!(reasons(&ram), ["superblock-copy-bad", "device-too-short"]);
}

#[test]
fn chunk_table_copies() {
    for copy in [0, 1] {
        let ram = sample();
        let sb = superblock(&ram).0;
        let table = [TABLE_OFFSET, sb.tail_table][copy];
        // Of the two slots, one is valid; the other one does not matter.
        for slot in [0, 1] {
            ram.poke(page_offset(table, 0, slot), |b| b[300] ^= 1);
        }
        ram.mended(&["chunk-table-copy-bad"]);
    }
}

#[test]
fn chunk_table_lost() {
    let ram = sample();
    let sb = superblock(&ram).0;
    for table in [TABLE_OFFSET, sb.tail_table] {
        for slot in [0, 1] {
            ram.poke(page_offset(table, 0, slot), |b| b[300] ^= 1);
        }
    }
    assert_eq!(reasons(&ram), ["chunk-table-lost"]);
}

/// Changes the valid version of page 0 in both copies, and the digest if asked to.
fn change_page(ram: &Ram, digest: bool, f: impl Fn(&mut [u8])) {
    let mut sb = superblock(ram).0;
    let head: Vec<u64> = [0, 1].map(|s| page_offset(TABLE_OFFSET, 0, s)).to_vec();
    let generation = |at: u64| {
        let d = ram.0.lock().unwrap();
        crate::format::bytes::get_u64(&d[at as usize..], 24)
    };
    let slot = u8::from(generation(head[1]) > generation(head[0]));
    let mut crc = 0;
    for table in [TABLE_OFFSET, sb.tail_table] {
        let own = generation(page_offset(table, 0, slot));
        ram.poke(page_offset(table, 0, slot), |b| {
            let page = &mut b[..BLOCK_SIZE];
            f(page);
            crc = seal_page(page, &sb.uuid, own, 0);
        });
    }
    if digest {
        sb.table_digest = table_digest([crc].into_iter());
        store(ram, &sb);
    }
}

#[test]
fn chunk_table_stale() {
    let ram = sample();
    change_page(&ram, false, |page| page[4000] ^= 1);
    assert_eq!(reasons(&ram), ["chunk-table-stale"]);
}

#[test]
fn chunk_invalid() {
    let ram = sample();
    change_page(&ram, true, |page| put_u64(page, TABLE_HEADER + 8, 12345));
    assert_eq!(reasons(&ram), ["chunk-invalid"]);
}

#[test]
fn chunk_overlap() {
    let ram = sample();
    change_page(&ram, true, |page| {
        let mut e = ChunkEntry::decode(page, 4).unwrap();
        e.offset -= BLOCK_SIZE as u64;
        e.encode(page, 4);
    });
    assert_eq!(reasons(&ram), ["chunk-overlap"]);
}

#[test]
fn free_map_bad() {
    let ram = sample();
    let fs = ram.mount_read_only();
    let place = fs.pool.locate(2, 1).unwrap().offset - 2 * BLOCK_SIZE as u64;
    for slot in [0, 1] {
        ram.poke(place + slot * BLOCK_SIZE as u64, |b| b[2000] ^= 1);
    }
    ram.mended(&["free-map-bad"]);
}

/// Recovery could not mark what it made part of a file: when the map can be read again, it must not be believed.
#[test]
fn free_map_that_recovery_could_not_read() {
    let ram = sample();
    let mut record = PVec::new();
    let fs = ram.mount();
    let ino = fs.create(ROOT_INO, b"new", &file()).unwrap().attr.ino;
    fs.write(ino, 0, &content()).unwrap();
    fs.sync().unwrap();
    let m = fs.extent_at(ino, 0, &mut record).unwrap().unwrap();
    let chunk = m.extent.addr[0] >> fs.pool.chunk_shift();
    let map = offset(&fs, (chunk << fs.pool.chunk_shift()) + 2) - 2 * BLOCK_SIZE as u64;
    drop(fs);
    let flip = || {
        for slot in [0, 1] {
            ram.poke(map + slot * BLOCK_SIZE as u64, |b| b[2000] ^= 1);
        }
    };
    flip();
    ram.mount().unmount().unwrap();
    flip();
    ram.mended(&["free-map-bad"]);
    let fs = ram.mount();
    let mut got = vec![0; content().len()];
    fs.read(ino, 0, &mut got).unwrap();
    assert!(got == content());
}

#[test]
fn free_count_of_a_chunk() {
    let ram = sample();
    let mut sb = superblock(&ram).0;
    sb.free_blocks -= 1;
    store(&ram, &sb);
    change_page(&ram, true, |page| {
        let mut e = ChunkEntry::decode(page, 0).unwrap();
        e.free -= 1;
        e.encode(page, 0);
    });
    ram.mended(&["free-count-chunk"]);
}

#[test]
fn free_count_in_total() {
    let ram = sample();
    let mut sb = superblock(&ram).0;
    sb.free_blocks += 5;
    store(&ram, &sb);
    ram.mended(&["free-count-total"]);
}

#[test]
fn blocks_leaked() {
    let ram = sample();
    let fs = ram.mount();
    let before = fs.statfs().free;
    let (addr, n) = fs.space.lock().allocate_data(9).unwrap();
    // A record that says that they are part of a file, which is not so.
    let mut tx = fs.begin(Class::Reserve).unwrap();
    for a in addr.iter().filter(|a| **a != 0) {
        tx.allocated(crate::space::Range {
            addr: *a,
            blocks: u64::from(n),
        })
        .unwrap();
    }
    tx.commit().unwrap();
    fs.unmount().unwrap();
    let found = ram.check();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&Problem::BlocksLeaked {
        block: addr[0],
        blocks: n
    }));
    ram.mended(&["blocks-leaked"]);
    // But for what the use of the volume took.
    assert!(ram.mount_read_only().statfs().free + 8 >= before);
}

#[test]
fn blocks_unmarked() {
    let ram = sample();
    let fs = ram.mount();
    let mut record = PVec::new();
    let ino = at(&fs, "d/blocks").ino;
    let m = fs.extent_at(ino, 0, &mut record).unwrap().unwrap();
    fs.create(ROOT_INO, b"so that there is something to write", &file())
        .unwrap();
    {
        let mut space = fs.space.lock();
        let run = crate::space::Range {
            addr: m.extent.addr[0],
            blocks: 20,
        };
        space.mark_used(&run).unwrap();
        space.give_back(run.addr, 20);
    }
    fs.unmount().unwrap();
    assert_eq!(
        ram.check(),
        [Problem::BlocksUnmarked {
            block: m.extent.addr[0],
            blocks: 20
        }]
    );
    ram.mended(&["blocks-unmarked"]);
    let fs = ram.mount();
    let mut got = vec![0; content().len()];
    fs.read(ino, 0, &mut got).unwrap();
    assert!(got == content());
}

#[test]
fn journal_damaged() {
    let ram = sample();
    let (at, size) = {
        let fs = ram.mount();
        let sb = superblock(&ram).0;
        for i in 0..3 {
            fs.create(ROOT_INO, name(i).as_bytes(), &file()).unwrap();
            fs.sync().unwrap();
        }
        let first = sb.journal_offset + u64::from(sb.journal_head) * BLOCK_SIZE as u64;
        (first, BLOCK_SIZE as u64)
    };
    assert_eq!(ram.check(), []);
    ram.poke(at + size, |b| b[100] ^= 1);
    let options = MountOptions {
        read_only: true,
        no_recovery: true,
        ..MountOptions::default()
    };
    assert!(Fs::mount(ram.devices(), MountOptions::default()).is_err());
    let fs = Fs::mount(ram.devices(), options).unwrap();
    let mut found = Found::default();
    let report = fs.check(CheckOptions::default(), &mut found).unwrap();
    let codes: Vec<_> = found.0.iter().map(Problem::code).collect();
    assert_eq!(codes, ["journal-damaged"]);
    assert!(fs.begin_repair(&report, true).is_err());
    drop(fs);
    // With consent: what stands before the damage is there, what stands after it is gone.
    let options = MountOptions {
        journal_prefix: true,
        ..MountOptions::default()
    };
    let fs = Fs::mount(ram.devices(), options).unwrap();
    let there = |i: usize| fs.lookup(ROOT_INO, name(i).as_bytes()).is_ok();
    assert_eq!([there(0), there(1), there(2)], [true, false, false]);
    fs.create(ROOT_INO, name(1).as_bytes(), &file()).unwrap();
    fs.sync().unwrap();
    drop(fs);
    // The entries after the damage belong to another epoch now.
    let fs = ram.mount();
    assert!(fs.lookup(ROOT_INO, name(1).as_bytes()).is_ok());
    assert!(fs.lookup(ROOT_INO, name(2).as_bytes()).is_err());
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
}

/// A page of the chunk table that a crashed checkpoint wrote must never pass for a valid one, also
/// not when the superblock has come to a higher generation.
#[test]
fn chunk_table_of_a_crashed_checkpoint_is_written_over() {
    // Two pages of the table; metadata once, so that the second page sees no changes.
    let options = FormatOptions {
        metadata_replicas: 1,
        ..FormatOptions::new()
    };
    let ram = Ram::format(320 << 20, &options);
    ram.mount().unmount().unwrap();
    // In use when the crash comes.
    let fs = ram.mount();
    fs.create(ROOT_INO, b"before", &file()).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let sb = superblock(&ram).0;
    assert!(sb.table_pages() == 2 && !sb.clean);
    for table in [TABLE_OFFSET, sb.tail_table] {
        let valid = page_offset(table, 1, 0);
        let other = page_offset(table, 1, 1);
        let mut page = vec![0; BLOCK_SIZE];
        ram.read(valid, &mut page).unwrap();
        assert_ne!(get_u32(&page, 0), 0);
        put_u32(&mut page, TABLE_HEADER + 16, 1);
        seal_page(&mut page, &sb.uuid, sb.generation + 1, 1);
        ram.write(other, &page).unwrap();
    }
    let fs = ram.mount();
    fs.create(ROOT_INO, b"after", &file()).unwrap();
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
    ram.mount().unmount().unwrap();
}

#[test]
fn sealing_is_what_makes_damage_look_valid() {
    let mut block = [7; 64];
    seal(&mut block);
    assert!(crate::format::bytes::sealed(&block));
}
