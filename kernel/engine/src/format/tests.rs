// SPDX-License-Identifier: GPL-2.0-only
//! Bytes: nodes against the standard library's map, codecs there and back, decoders on junk.

use super::bytes::{get_u32, is_zero, put_u32, seal, sealed};
use super::chunk::{check_bitmap, check_page, seal_bitmap, seal_page, ChunkClass, ChunkEntry};
use super::journal::{split_record, EntryHeader, Step, Steps, ENTRY_HEADER};
use super::key::{kind, Key, Pointer};
use super::node;
use super::record::{
    decode_inode, encode_inode, inode_charge, name_cookie, Dirent, Extent, ExtentKind, Subvolume,
    Xattr, COOKIE_SLOTS, DIRENT_MAX, INODE_LEN, INODE_LEN_WIDE,
};
use super::superblock::{SuperFault, Superblock};
use crate::testing::{effort, seed, Rng};
use crate::types::{Attr, Time, BLOCK_SIZE, MODE_FILE};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

fn check_node(b: &[u8], want: &BTreeMap<Key, Vec<u8>>) {
    assert_eq!(node::validate(b), Ok(()));
    assert_eq!(node::count(b), want.len());
    for (i, (key, value)) in want.iter().enumerate() {
        assert_eq!(node::key(b, i), *key);
        assert_eq!(node::value(b, i), &value[..]);
        assert_eq!(node::search(b, key), Ok(i));
    }
    let bytes: usize = want.values().map(|v| v.len() + node::SLOT_LEN).sum();
    assert_eq!(node::used(b), bytes);
    assert_eq!(node::room(b), b.len() - node::NODE_HEADER - bytes);
}

fn random_key(rng: &mut Rng) -> Key {
    Key::new(
        rng.below(4) as u64,
        rng.below(3) as u8,
        rng.below(40) as u64 * 1000,
    )
}

#[test]
fn a_node_behaves_as_a_map() {
    let mut rng = Rng(seed());
    for size in [4096, 16384, 65536] {
        let mut b = vec![0; size];
        let mut scratch = vec![0xee; size];
        node::init(&mut b, &[1; 16], 256, 0);
        let mut want = BTreeMap::new();
        for step in 0..1500 * effort() {
            let key = random_key(&mut rng);
            let len = match rng.below(4) {
                0 => 0,
                1 => rng.below(node::max_value(size) + 1),
                _ => rng.below(60),
            };
            let value = rng.bytes(len);
            let room = node::room(&b);
            match node::search(&b, &key) {
                Ok(i) if rng.below(2) == 0 => {
                    node::remove(&mut b, i);
                    want.remove(&key);
                }
                Ok(i) => {
                    let old = node::value(&b, i).len();
                    let fits = node::replace(&mut b, i, &value, &mut scratch);
                    assert_eq!(fits, room + old >= value.len() || old == value.len());
                    if fits {
                        want.insert(key, value);
                    }
                }
                Err(i) => {
                    let fits = node::insert(&mut b, i, &key, &value, &mut scratch);
                    assert_eq!(fits, room >= value.len() + node::SLOT_LEN);
                    if fits {
                        want.insert(key, value);
                    }
                }
            }
            if step % 16 == 0 {
                check_node(&b, &want);
            }
        }
    }
}

#[test]
fn split_and_append_lose_nothing() {
    let mut rng = Rng(seed());
    for _ in 0..100 * effort() {
        let size = 4096 << (2 * rng.below(3));
        let mut left = vec![0; size];
        let mut scratch = vec![0; size];
        node::init(&mut left, &[1; 16], 256, 0);
        let mut want = BTreeMap::new();
        for _ in 0..size / 100 {
            let (key, len) = (random_key(&mut rng), rng.below(node::max_value(size) / 3));
            let value = rng.bytes(len);
            if let Err(i) = node::search(&left, &key) {
                if node::insert(&mut left, i, &key, &value, &mut scratch) {
                    want.insert(key, value);
                }
            }
        }
        if want.len() < 2 {
            continue;
        }
        let at = node::split_point(&left, rng.below(want.len() + 1));
        assert!((1..want.len()).contains(&at));
        let mut right = vec![0; size];
        node::init(&mut right, &[1; 16], 256, 0);
        node::split(&mut left, &mut right, at, &mut scratch);
        let first = *want.keys().nth(at).unwrap();
        let upper = want.split_off(&first);
        check_node(&left, &want);
        check_node(&right, &upper);
        assert!(node::append_all(&mut left, &right, &mut scratch));
        want.extend(upper);
        check_node(&left, &want);
    }
}

/// After a split, the largest value always fits the half that it belongs to.
#[test]
fn what_caused_a_split_fits_after_it() {
    let mut rng = Rng(seed());
    for _ in 0..400 * effort() {
        let size = 4096;
        let max = node::max_value(size);
        let mut left = vec![0; size];
        let mut scratch = vec![0; size];
        node::init(&mut left, &[1; 16], 256, 0);
        let mut n = 0;
        loop {
            n += 1;
            let len = if rng.below(2) == 0 {
                max
            } else {
                rng.below(max)
            };
            let key = Key::new(n * 10, 1, 0);
            let i = node::count(&left);
            if !node::insert(&mut left, i, &key, &vec![1; len], &mut scratch) {
                break;
            }
        }
        let key = Key::new(rng.below(n as usize * 10 + 10) as u64, 1, 0);
        let found = node::search(&left, &key);
        let at = node::split_point(&left, found.unwrap_or_else(|i| i));
        let mut right = vec![0; size];
        node::init(&mut right, &[1; 16], 256, 0);
        node::split(&mut left, &mut right, at, &mut scratch);
        let side = if key >= node::key(&right, 0) {
            &mut right
        } else {
            &mut left
        };
        let value = vec![2; max];
        let fits = match node::search(side, &key) {
            Ok(i) => node::replace(side, i, &value, &mut scratch),
            Err(i) => node::insert(side, i, &key, &value, &mut scratch),
        };
        assert!(fits);
    }
}

/// Whatever passes [`node::validate`] can be read and changed without a panic.
#[test]
fn spoiled_nodes_do_not_panic() {
    let mut rng = Rng(seed());
    let mut b = vec![0; 4096];
    let mut scratch = vec![0; 4096];
    node::init(&mut b, &[1; 16], 256, 0);
    for i in 0..60 {
        let key = Key::new(i, 1, i);
        assert!(node::insert(
            &mut b,
            i as usize,
            &key,
            &[3; 30],
            &mut scratch
        ));
    }
    let good = b.clone();
    let mut valid = 0;
    for _ in 0..10_000 * effort() {
        b.copy_from_slice(&good);
        for _ in 0..=rng.below(3) {
            let at = 48 + rng.below(1500);
            b[at] = rng.next() as u8;
        }
        if node::validate(&b).is_err() {
            continue;
        }
        valid += 1;
        for i in 0..node::count(&b) {
            let _ = (node::key(&b, i), node::value(&b, i), node::child(&b, i));
        }
        let key = random_key(&mut rng);
        let value = vec![4; rng.below(900)];
        match node::search(&b, &key) {
            Ok(i) => drop(node::replace(&mut b, i, &value, &mut scratch)),
            Err(i) => drop(node::insert(&mut b, i, &key, &value, &mut scratch)),
        }
        node::remove(&mut b, rng.below(70));
        let mut right = vec![0; 4096];
        node::init(&mut right, &[1; 16], 256, 0);
        let at = node::split_point(&b, rng.below(node::count(&b) + 1));
        node::split(&mut b, &mut right, at, &mut scratch);
        let _ = node::append_all(&mut b, &right, &mut scratch);
    }
    assert!(valid > 300, "{valid}");
}

#[test]
fn junk_is_no_record() {
    let mut rng = Rng(seed());
    for _ in 0..20_000 {
        let len = rng.below(300);
        let mut b = rng.bytes(len);
        if rng.below(2) == 0 {
            b.iter_mut().for_each(|c| *c &= 3);
        }
        let _ = decode_inode(5, &b);
        let _ = Dirent::decode(&b);
        let _ = Xattr::decode(&b);
        let _ = Subvolume::decode(&b);
        let _ = Pointer::decode(&b);
        if let Some(e) = Extent::decode(&b) {
            let _ = e.slice(e.blocks / 2, 1);
        }
        let _ = ChunkEntry::decode(&b, rng.below(70));
        let _ = check_page(&b, &[0; 16], 0);
        let _ = check_bitmap(&b, &[0; 16], 0, &ChunkEntry::default());
        let _ = Superblock::decode(&b);
        let _ = Steps(&b).count();
        let _ = split_record(&b);
        if let Some(h) = EntryHeader::decode(&b, &[0; 16]) {
            let _ = h.complete(&b);
        }
    }
}

#[test]
fn inodes_there_and_back() {
    let time = |sec, nsec| Time { sec, nsec };
    let attr = Attr {
        ino: 77,
        mode: MODE_FILE | 0o640,
        uid: u32::MAX,
        gid: 5,
        nlink: 3,
        rdev: 8 << 32 | 1,
        size: 1 << 40,
        blocks: 9,
        atime: time(-1, 999_999_999),
        mtime: time(1 << 40, 0),
        ctime: time(0, 1),
        btime: time(i64::MIN, 7),
        flags: 0x10,
        project: 42,
        generation: 0xdead_beef,
        version: u64::MAX,
        parent: 1,
        entries: 0,
        inline: true,
        has_xattrs: true,
    };
    let mut buffer = [0xff; INODE_LEN_WIDE];
    for (len, nanoseconds) in [(INODE_LEN, 100), (INODE_LEN_WIDE, 104)] {
        let record = encode_inode(&attr, len, &mut buffer);
        assert_eq!(record.len(), len);
        assert_eq!(decode_inode(77, record), Some(attr));
        assert_eq!(
            inode_charge(record),
            inode_charge(&buffer),
            "the same fields"
        );
        assert_eq!(decode_inode(77, &buffer[..len - 4]), None);
        put_u32(&mut buffer, nanoseconds, 1_000_000_000);
        assert_eq!(decode_inode(77, &buffer[..len]), None);
    }
}

#[test]
fn entries_and_attributes_there_and_back() {
    let mut buf = [0; DIRENT_MAX];
    for len in [1, 12, 255] {
        let name = vec![b'n'; len];
        let e = Dirent {
            ino: 9,
            kind: 8,
            name: &name,
        };
        assert_eq!(Dirent::decode(e.encode(&mut buf)), Some(e));
    }
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
        assert!(!super::record::valid_name(name));
    }
    let x = Xattr {
        name: b"user.a",
        len: 5,
        body: 0,
        value: b"value",
    };
    let mut bytes = x.encode_header().to_vec();
    bytes.extend_from_slice(x.name);
    bytes.extend_from_slice(x.value);
    assert_eq!(Xattr::decode(&bytes), Some(x));
    bytes.pop();
    assert_eq!(Xattr::decode(&bytes), None);
}

#[test]
fn extents_there_and_back() {
    let e = Extent {
        blocks: 3,
        kind: ExtentKind::Data,
        shared: true,
        birth: 12,
        addr: [1000, 2000, 0],
    };
    let mut bytes = e.encode_header().to_vec();
    assert_eq!(Extent::decode(&bytes), None, "checksums are missing");
    bytes.extend_from_slice(&[5; 12]);
    assert_eq!(Extent::decode(&bytes), Some(e));
    assert_eq!(e.slice(2, 1).addr, [1002, 2002, 0]);
    let huge = Extent {
        addr: [u64::MAX, 0, 0],
        ..e
    };
    let mut bytes = huge.encode_header().to_vec();
    bytes.extend_from_slice(&[5; 12]);
    assert_eq!(Extent::decode(&bytes), None, "the end overflows");
}

#[test]
fn journal_there_and_back() {
    let steps = [
        Step::Put {
            tree: 256,
            key: Key::new(5, kind::INODE, 0),
            value: b"some value",
        },
        Step::Delete {
            tree: 256,
            key: Key::new(5, kind::DIRENT, u64::MAX),
        },
        Step::Allocate {
            addr: 1 << 40,
            blocks: 77,
        },
        Step::Free {
            tree: 256,
            addr: 9,
            blocks: 1,
            birth: 3,
        },
    ];
    let mut record = vec![];
    for s in &steps {
        record.extend_from_slice(&s.header());
        match s {
            Step::Put { value, .. } => record.extend_from_slice(value),
            Step::Free { birth, .. } => record.extend_from_slice(&birth.to_le_bytes()),
            _ => {}
        }
    }
    let back: Vec<_> = Steps(&record).map(Result::unwrap).collect();
    assert_eq!(back, steps);
    for cut in 1..record.len() {
        // Cut anywhere: an error at the end, or a whole number of steps.
        let n = Steps(&record[..cut]).filter(Result::is_ok).count();
        assert!(n < steps.len());
    }
    let mut entry = vec![0; ENTRY_HEADER];
    entry.extend_from_slice(&(record.len() as u32).to_le_bytes());
    entry.extend_from_slice(&record);
    let header = EntryHeader {
        epoch: 3,
        sequence: 9,
        first_record: 100,
        records: 1,
        length: entry.len() as u32,
        ahead: true,
    };
    header.seal(&mut entry, &[7; 16]);
    assert_eq!(EntryHeader::decode(&entry, &[7; 16]), Some(header));
    assert_eq!(EntryHeader::decode(&entry, &[8; 16]), None);
    assert!(header.complete(&entry));
    for at in 8..entry.len() {
        entry[at] ^= 0x40;
        let still = EntryHeader::decode(&entry, &[7; 16]).is_some_and(|h| h.complete(&entry));
        assert!(!still, "a changed byte {at} was not noticed");
        entry[at] ^= 0x40;
    }
}

fn superblock() -> Superblock {
    Superblock {
        uuid: [1; 16],
        label: [0; 64],
        compat: 0,
        ro_compat: 0,
        incompat: 0,
        generation: 5,
        node_size: 16384,
        chunk_blocks: 1024,
        chunks: 6,
        table_digest: 9,
        device_size: 32 << 20,
        tail_table: (32 << 20) - (256 << 10) - 8192,
        journal_offset: (1 << 20) + 8192,
        journal_blocks: 1024,
        metadata_replicas: 2,
        data_replicas: 1,
        clean: true,
        journal_epoch: 4,
        journal_head: 17,
        journal_sequence: 33,
        replay_from: 99,
        pool_root: Pointer {
            addr: [8, 16, 0],
            birth: 5,
            crc: 3,
        },
        pool_level: 0,
        hash_seed: 77,
        created: 1,
        written: 2,
        mounts: 3,
        devices: 1,
        device_index: 0,
        device_uuid: [2; 16],
        free_blocks: 1000,
        attempts: 3,
    }
}

#[test]
fn superblock_there_and_back() {
    let sb = superblock();
    let mut b = vec![0; BLOCK_SIZE];
    sb.encode(&mut b);
    assert_eq!(Superblock::decode(&b).unwrap(), sb);
    for at in 8..BLOCK_SIZE {
        b[at] ^= 1;
        assert_eq!(Superblock::decode(&b), Err(SuperFault::Checksum));
        b[at] ^= 1;
    }
    // Any field with any value: an answer, with a right checksum too.
    let mut rng = Rng(seed());
    for _ in 0..20_000 {
        let mut c = b.clone();
        for _ in 0..=rng.below(3) {
            let at = 8 + rng.below(320);
            c[at] = rng.next() as u8;
        }
        seal(&mut c);
        let _ = Superblock::decode(&c);
    }
}

#[test]
fn table_and_bitmap_there_and_back() {
    let entry = ChunkEntry {
        device: 0,
        blocks: 1024,
        offset: 5 << 20,
        free: 1000,
        class: ChunkClass::Metadata,
        slot: 1,
        bitmap_generation: 6,
        bitmap_crc: 7,
    };
    let mut page = vec![0; BLOCK_SIZE];
    entry.encode(&mut page, 62);
    let crc = seal_page(&mut page, &[3; 16], 44, 2);
    assert_eq!(check_page(&page, &[3; 16], 2), Some((44, crc)));
    assert_eq!(check_page(&page, &[3; 16], 1), None);
    assert_eq!(ChunkEntry::decode(&page, 62), Some(entry));
    assert_eq!(ChunkEntry::decode(&page, 63), None);
    let mut slot = vec![0; BLOCK_SIZE];
    let crc = seal_bitmap(&mut slot, &[3; 16], 6, 9);
    let entry = ChunkEntry {
        bitmap_crc: crc,
        ..entry
    };
    assert!(check_bitmap(&slot, &[3; 16], 9, &entry));
    assert!(!check_bitmap(&slot, &[3; 16], 8, &entry));
}

#[test]
fn keys_are_ordered_and_have_successors() {
    let k = Key::new(1, 2, u64::MAX);
    assert_eq!(k.next(), Some(Key::new(1, 3, 0)));
    assert_eq!(Key::new(1, 255, u64::MAX).next(), Some(Key::new(2, 0, 0)));
    assert_eq!(Key::MAX.next(), None);
    assert!(Key::new(1, 9, 9) < Key::new(2, 0, 0));
}

/// Values that the format depends on; other implementations can be checked against them.
#[test]
fn vectors() {
    let crc = |b: &[u8]| aegisfs_platform::crc32(0, b);
    assert_eq!(crc(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc(&[0; 4096]), 0xc71c_0011);
    let mut b = vec![0; BLOCK_SIZE];
    superblock().encode(&mut b);
    assert_eq!(&b[..4], b"AGFS");
    assert!(sealed(&b));
    let cookie = name_cookie(0x0123_4567_89ab_cdef, b"README");
    assert_eq!(cookie % COOKIE_SLOTS, 0);
    assert_eq!(
        (get_u32(&b, 4), cookie, name_cookie(0, b"a")),
        VECTORS,
        "the format has changed"
    );
}

const VECTORS: (u32, u64, u64) = (
    0x2c3b_f1f6,
    3_646_209_028_053_016_576,
    4_706_636_184_713_914_112,
);

#[test]
fn zero_is_seen_everywhere() {
    for len in [0, 1, 15, 16, 17, 4096] {
        let mut b = vec![0; len];
        assert!(is_zero(&b));
        for i in 0..len {
            b[i] = 1;
            assert!(!is_zero(&b));
            b[i] = 0;
        }
    }
}
