// SPDX-License-Identifier: GPL-2.0-only
//! One chunk's bitmap in memory: bit set = block in use (or not usable).

use aegisfs_platform::{AllocError, Vec};

/// Bits of a chunk.
pub struct Bitmap {
    words: Vec<u64>,
    bits: u32,
}

impl Bitmap {
    /// All `bits` blocks free but the first `header`.
    pub fn empty(bits: u32, header: u32) -> Result<Self, AllocError> {
        let mut map = Self {
            words: Vec::try_filled(bits.div_ceil(64) as usize, 0)?,
            bits,
        };
        map.set(0, header);
        map.close_tail();
        Ok(map)
    }

    /// From the bytes of a bitmap slot, after its header.
    pub fn decode(bytes: &[u8], bits: u32) -> Result<Self, AllocError> {
        let n = bits.div_ceil(64) as usize;
        let mut words = Vec::try_with_capacity(n)?;
        for w in bytes.chunks_exact(8).take(n) {
            words.try_push(crate::format::bytes::get_u64(w, 0))?;
        }
        words.try_resize(n, u64::MAX)?;
        let mut map = Self { words, bits };
        map.close_tail();
        Ok(map)
    }

    /// Stores the words at the start of `bytes`.
    pub fn encode(&self, bytes: &mut [u8]) {
        for (to, w) in bytes.chunks_exact_mut(8).zip(&self.words) {
            crate::format::bytes::put_u64(to, 0, *w);
        }
    }

    /// A copy.
    pub fn try_clone(&self) -> Result<Self, AllocError> {
        Ok(Self {
            words: Vec::try_from_slice(&self.words)?,
            bits: self.bits,
        })
    }

    /// A copy for a chunk of `bits` blocks, which are not more than this one has.
    pub fn resized(&self, bits: u32) -> Result<Self, AllocError> {
        let mut words = Vec::try_from_slice(&self.words)?;
        words.truncate(bits.div_ceil(64) as usize);
        let mut map = Self { words, bits };
        map.close_tail();
        Ok(map)
    }

    /// Marks used what is used in `other`, which is as long.
    pub fn merge(&mut self, other: &Self) {
        for (w, o) in self.words.iter_mut().zip(&other.words) {
            *w |= *o;
        }
        self.close_tail();
    }

    /// Calls `f` with each run of blocks that are used here and free in `other`, which is as long.
    pub fn runs_without(&self, other: &Self, f: &mut dyn FnMut(u32, u32)) {
        let mut run: Option<(u32, u32)> = None;
        for (i, (w, o)) in self.words.iter().zip(&other.words).enumerate() {
            let mut rest = *w & !*o;
            while rest != 0 {
                let bit = rest.trailing_zeros();
                let len = (!(rest >> bit)).trailing_zeros().min(64 - bit);
                let from = i as u32 * 64 + bit;
                run = match run {
                    Some((start, n)) if start + n == from => Some((start, n + len)),
                    Some((start, n)) => {
                        f(start, n);
                        Some((from, len))
                    }
                    None => Some((from, len)),
                };
                rest &= u64::MAX.checked_shl(bit + len).unwrap_or(0);
            }
        }
        if let Some((start, n)) = run {
            f(start, n);
        }
    }

    /// Bits past the end count as used.
    fn close_tail(&mut self) {
        let rest = self.bits % 64;
        if rest != 0 {
            if let Some(last) = self.words.last_mut() {
                *last |= u64::MAX << rest;
            }
        }
    }

    /// The bits, 64 blocks to a word.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Number of free blocks.
    pub fn free(&self) -> u32 {
        self.words.iter().map(|w| w.count_zeros()).sum()
    }

    fn update(&mut self, from: u32, len: u32, mut f: impl FnMut(&mut u64, u64)) {
        let (mut bit, end) = (from, from.saturating_add(len).min(self.bits));
        while bit < end {
            let within = bit % 64;
            let n = (64 - within).min(end - bit);
            let mask = (u64::MAX >> (64 - n)) << within;
            if let Some(w) = self.words.get_mut((bit / 64) as usize) {
                f(w, mask);
            }
            bit += n;
        }
    }

    /// Marks blocks used; gives how many were free before.
    pub fn set(&mut self, from: u32, len: u32) -> u32 {
        let mut changed = 0;
        self.update(from, len, |w, mask| {
            changed += (!*w & mask).count_ones();
            *w |= mask;
        });
        changed
    }

    /// Marks blocks free; gives how many were used before.
    pub fn clear(&mut self, from: u32, len: u32) -> u32 {
        let mut changed = 0;
        self.update(from, len, |w, mask| {
            changed += (*w & mask).count_ones();
            *w &= !mask;
        });
        changed
    }

    /// First free block at or after `from`.
    fn next_free(&self, from: u32) -> Option<u32> {
        let mut i = (from / 64) as usize;
        let mut w = !self.words.get(i)? & (u64::MAX << (from % 64));
        while w == 0 {
            i += 1;
            w = !*self.words.get(i)?;
        }
        Some(i as u32 * 64 + w.trailing_zeros())
    }

    /// Length of the free run at `from`, at most `max`.
    fn run(&self, from: u32, max: u32) -> u32 {
        let mut n = 0;
        while n < max {
            let bit = from + n;
            let Some(w) = self.words.get((bit / 64) as usize) else {
                break;
            };
            let zeros = (w >> (bit % 64)).trailing_zeros().min(64 - bit % 64);
            n += zeros;
            if zeros < 64 - bit % 64 {
                break;
            }
        }
        n.min(max)
    }

    /// The first free run at or after `from` that is at least `min` long and begins at a multiple of
    /// `align`; at most `want` blocks of it.
    pub fn find(&self, from: u32, want: u32, min: u32, align: u32) -> Option<(u32, u32)> {
        let mut at = from;
        loop {
            at = self.next_free(at)?.next_multiple_of(align);
            let n = self.run(at, want);
            if n >= min {
                return Some((at, n));
            }
            at += n.max(1);
        }
    }
}
