// SPDX-License-Identifier: GPL-2.0-only
//! Bitmaps against a list of bools; the life of a block against what may be done with it.

use super::{Bitmap, Range, Readers, Space, SpaceConfig, TablePage};
use crate::btree::NodeSpace;
use crate::error::Error;
use crate::format::chunk::{ChunkEntry, BITMAP_HEADER};
use crate::format::key::Pointer;
use crate::testing::{effort, pool, seed, Rng, CHUNK_BLOCKS, HEADER_BLOCKS};
use aegisfs_platform::Vec as PVec;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

fn slots(used: &[bool], node: usize) -> u32 {
    used.chunks_exact(node)
        .filter(|c| c.iter().all(|u| !u))
        .count() as u32
}

#[test]
fn a_bitmap_behaves_as_a_list() {
    let mut rng = Rng(seed());
    for bits in [64, 100, 1000, 1024] {
        let mut map = Bitmap::empty(bits as u32, 2).unwrap();
        let mut want = vec![false; bits];
        want[..2].fill(true);
        for _ in 0..500 * effort() {
            let from = rng.below(bits);
            let len = rng.below(bits - from + 1).min(1 + rng.below(90));
            let part = &mut want[from..from + len];
            let set = rng.below(2) == 0;
            let changed = part.iter().filter(|u| **u != set).count() as u32;
            part.fill(set);
            let got = if set {
                map.set(from as u32, len as u32)
            } else {
                map.clear(from as u32, len as u32)
            };
            assert_eq!(got, changed);
            assert_eq!(map.free(), want.iter().filter(|u| !**u).count() as u32);
            let (most, align) = (1 + rng.below(40), 1 << rng.below(5));
            let min = 1 + rng.below(most);
            let at = rng.below(bits);
            check_find(&map, &want, at, most, min, align);
            for node in [1, 2, 4, 8, 16] {
                assert_eq!(map.slots(0, bits as u32, node), slots(&want, node as usize));
                check_fragment(&map, &want, at, most, node as usize);
            }
        }
        let mut bytes = vec![0; bits.div_ceil(64) * 8];
        map.encode(&mut bytes);
        let back = Bitmap::decode(&bytes, bits as u32).unwrap();
        assert_eq!(back.words(), map.words());
    }
}

fn check_find(map: &Bitmap, used: &[bool], at: usize, most: usize, min: usize, align: usize) {
    let found = map.find(at as u32, most as u32, min as u32, align as u32);
    let run = |b: usize| used[b..].iter().take(most).take_while(|u| !**u).count();
    let fits = |b: &usize| b % align == 0 && run(*b) >= min;
    match found {
        Some((block, n)) => {
            let block = block as usize;
            assert!(block >= at && fits(&block) && n as usize == run(block));
        }
        // Short runs are passed over as a whole, which aligned searches may see otherwise.
        None => assert!(align > 1 && min > align || (at..used.len()).find(fits).is_none()),
    }
}

fn check_fragment(map: &Bitmap, used: &[bool], at: usize, most: usize, node: usize) {
    let in_slot = |b: usize| {
        let first = b / node * node;
        first + node <= used.len() && used[first..first + node].iter().all(|u| !u)
    };
    match map.find_fragment(at as u32, most as u32, node as u32) {
        Some((block, n)) => {
            assert!(n > 0 && n as usize <= most && block as usize >= at);
            for b in block..block + n {
                assert!(!used[b as usize] && !in_slot(b as usize));
            }
        }
        None => assert!((at..used.len()).all(|b| used[b] || in_slot(b))),
    }
}

fn space(chunks: u32, node_blocks: u32) -> Space {
    let pool = pool(chunks, node_blocks as usize * 4096);
    let entry = |c: u32| ChunkEntry {
        device: 0,
        blocks: CHUNK_BLOCKS,
        offset: u64::from(c) * u64::from(CHUNK_BLOCKS) * 4096,
        free: CHUNK_BLOCKS - HEADER_BLOCKS,
        ..ChunkEntry::default()
    };
    let entries: Vec<_> = (0..chunks).map(entry).collect();
    let mut pages = PVec::new();
    pages.try_push(TablePage::default()).unwrap();
    let config = SpaceConfig {
        header_blocks: HEADER_BLOCKS,
        node_blocks,
        metadata_replicas: 2,
        data_replicas: 1,
    };
    Space::new(pool, &entries, pages, &config).unwrap()
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Life {
    /// Given out.
    Used,
    /// Freed, in the running generation or one that is being written.
    Freed { generation: u64 },
}

/// A block that was freed is not given out before the checkpoint of its generation is durable and
/// all reads that began before that have ended.
#[test]
fn the_life_of_a_block() {
    let mut rng = Rng(seed());
    for round in 0..3 * effort() {
        let node_blocks = [1, 4, 16][round % 3];
        let mut s = space(6, node_blocks);
        let mut readers = Readers::default();
        let mut blocks: BTreeMap<u64, Life> = BTreeMap::new();
        let mut runs: Vec<(u64, u32)> = Vec::new();
        // Reads in progress, with the blocks that they may look at.
        let mut reads: Vec<(usize, BTreeSet<u64>)> = Vec::new();
        let mut generation = 1;
        for _ in 0..1500 {
            match rng.below(12) {
                0..=4 => {
                    let want = 1 + rng.below(40) as u32;
                    match s.allocate_data(want) {
                        Ok((addr, n)) => {
                            assert!(n > 0 && n <= want);
                            give(&mut blocks, &reads, addr[0], n);
                            let range = Range {
                                addr: addr[0],
                                blocks: u64::from(n),
                            };
                            s.claim(&range);
                            runs.push((addr[0], n));
                        }
                        Err(e) => assert_eq!(e, Error::NoSpace),
                    }
                }
                5 => {
                    if let Ok(addr) = s.allocate_node() {
                        for a in addr.into_iter().filter(|a| *a != 0) {
                            assert_eq!(a % u64::from(node_blocks), 0);
                            give(&mut blocks, &reads, a, node_blocks);
                            runs.push((a, node_blocks));
                        }
                    }
                }
                6..=8 if !runs.is_empty() => {
                    let i = rng.below(runs.len());
                    let (addr, n) = runs.swap_remove(i);
                    s.free_later(Range {
                        addr,
                        blocks: u64::from(n),
                    });
                    for b in addr..addr + u64::from(n) {
                        blocks.insert(b, Life::Freed { generation });
                    }
                }
                9 => {
                    let used = blocks.keys().copied().collect();
                    reads.push((readers.begin(), used));
                }
                10 if !reads.is_empty() => {
                    let (token, _) = reads.swap_remove(rng.below(reads.len()));
                    readers.end(token);
                }
                11 => {
                    let image = s.freeze(generation).unwrap();
                    check_image(&image, &blocks, &s);
                    generation += 1;
                    // Things happen while it is written.
                    if let Ok((addr, n)) = s.allocate_data(3) {
                        give(&mut blocks, &reads, addr[0], n);
                        s.claim(&Range {
                            addr: addr[0],
                            blocks: u64::from(n),
                        });
                        runs.push((addr[0], n));
                    }
                    s.committed(&image, &mut readers, false);
                    // Durably free: a reader that began before may still look at it.
                    blocks.retain(
                        |_, l| !matches!(l, Life::Freed { generation: g } if *g < generation),
                    );
                }
                _ => s.release_ready(&mut readers, false),
            }
            assert!(s.free() + s.unreleased() <= s.total());
        }
        for (token, _) in reads.drain(..) {
            readers.end(token);
        }
        for (addr, n) in runs.drain(..) {
            s.free_later(Range {
                addr,
                blocks: u64::from(n),
            });
        }
        for g in 0..3 {
            let image = s.freeze(generation + g).unwrap();
            s.committed(&image, &mut readers, false);
        }
        s.release_ready(&mut readers, false);
        assert_eq!((s.free(), s.unreleased()), (s.total(), 0));
        assert!(s.find_node_space(s.total() - 6 * 64));
    }
}

/// A run was given out: nobody may have anything to do with it.
fn give(blocks: &mut BTreeMap<u64, Life>, reads: &[(usize, BTreeSet<u64>)], addr: u64, n: u32) {
    for b in addr..addr + u64::from(n) {
        assert_eq!(blocks.insert(b, Life::Used), None, "block {b} is not free");
        let seen = reads.iter().any(|(_, used)| used.contains(&b));
        assert!(!seen, "a read is looking at block {b}");
    }
}

/// A checkpoint writes exactly what is in use as used.
fn check_image(image: &super::SpaceImage, blocks: &BTreeMap<u64, Life>, s: &Space) {
    for b in &image.bitmaps {
        for n in HEADER_BLOCKS..CHUNK_BLOCKS {
            let byte = b.bytes[BITMAP_HEADER + n as usize / 8];
            let set = byte >> (n % 8) & 1 == 1;
            let addr = s.join(b.chunk, n);
            assert_eq!(set, blocks.get(&addr) == Some(&Life::Used), "block {addr}");
        }
    }
}

#[test]
fn data_leaves_room_for_nodes() {
    for node_blocks in [1, 4, 16] {
        let mut s = space(8, node_blocks);
        let mut all = Vec::new();
        while let Ok((addr, n)) = s.allocate_data(1) {
            all.push((addr[0], n));
        }
        // Every second block becomes free: much space, and hardly a run for a node among it.
        let mut readers = Readers::default();
        for (addr, n) in all.iter().step_by(2) {
            s.free_later(Range {
                addr: *addr,
                blocks: u64::from(*n),
            });
        }
        let image = s.freeze(1).unwrap();
        s.committed(&image, &mut readers, false);
        let before = s.node_space();
        while s.allocate_data(7).is_ok() {}
        assert!(s.node_space() >= s.hard_reserve() / 2 - u64::from(node_blocks));
        assert!(s.free() <= s.hard_reserve() / 2 + u64::from(node_blocks) * 2);
        let mut nodes = 0;
        while s.allocate_node().is_ok() {
            nodes += 1;
        }
        assert!(
            nodes * 2 * u64::from(node_blocks) + 4 * u64::from(node_blocks)
                >= before.min(s.hard_reserve() / 2)
        );
    }
}

#[test]
fn given_back_space_is_free_at_once() {
    let mut s = space(4, 4);
    let before = (s.free(), s.node_space());
    let (addr, n) = s.allocate_data(100).unwrap();
    s.give_back(addr[0], n);
    let node = s.allocate_node().unwrap();
    let pointer = Pointer {
        addr: node,
        birth: 1,
        crc: 0,
    };
    s.free_node(256, &pointer, true);
    assert_eq!((s.free(), s.node_space()), before);
    assert_eq!(s.freeze(1).unwrap().free, s.total());
}
