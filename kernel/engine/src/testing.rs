// SPDX-License-Identifier: GPL-2.0-only
//! What the unit tests share: randomness from a seed, a device in memory, a pool over it.

use crate::cache::{Geometry, Place, Pool};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::key::MAX_REPLICAS;
use crate::types::BLOCK_SIZE;
use aegisfs_platform::{try_arc, Arc, Vec};
use std::boxed::Box;
use std::sync::Mutex;
use std::vec;

/// Blocks of a chunk in these pools.
pub const CHUNK_BLOCKS: u32 = 1024;
/// Blocks at the start of a chunk that are not for use.
pub const HEADER_BLOCKS: u32 = 2;

/// The seed from `AEGIS_SEED`, or a fixed one; printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("AEGIS_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or(20_240_601);
    std::println!("replay with AEGIS_SEED={seed}");
    seed
}

/// How many times longer than usual random tests run: `AEGIS_EFFORT`.
pub fn effort() -> usize {
    let n = std::env::var("AEGIS_EFFORT")
        .ok()
        .and_then(|s| s.parse().ok());
    n.unwrap_or(1)
}

/// `SplitMix64`.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> std::vec::Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

struct Ram(Mutex<std::vec::Vec<u8>>);

impl BlockDevice for Ram {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let d = self.0.lock().unwrap();
        let from = d.get(offset as usize..).and_then(|d| d.get(..buf.len()));
        buf.copy_from_slice(from.ok_or(Error::Io)?);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut d = self.0.lock().unwrap();
        let to = d
            .get_mut(offset as usize..)
            .and_then(|d| d.get_mut(..data.len()));
        to.ok_or(Error::Io)?.copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// A pool of `chunks` chunks on a device in memory.
pub fn pool(chunks: u32, node_size: usize) -> Arc<Pool> {
    let chunk_bytes = CHUNK_BLOCKS as usize * BLOCK_SIZE;
    let mut devices = Vec::new();
    let ram: Box<dyn BlockDevice> =
        Box::new(Ram(Mutex::new(vec![0; chunks as usize * chunk_bytes])));
    devices.try_push(ram).unwrap();
    let mut places = Vec::new();
    for c in 0..chunks {
        places
            .try_push(Place {
                device: 0,
                offset: u64::from(c) * chunk_bytes as u64,
                blocks: CHUNK_BLOCKS,
            })
            .unwrap();
    }
    let geometry = Geometry {
        uuid: [7; 16],
        node_size,
        chunk_blocks: CHUNK_BLOCKS,
        chunk_header_blocks: HEADER_BLOCKS,
        cache_bytes: 0,
    };
    try_arc(Pool::new(devices, places, &geometry).unwrap()).unwrap()
}

/// Addresses of a node with one replica.
pub fn single(addr: u64) -> [u64; MAX_REPLICAS] {
    let mut out = [0; MAX_REPLICAS];
    out[0] = addr;
    out
}
