// SPDX-License-Identifier: GPL-2.0-only
//! Little-endian access to byte buffers without a way to panic.
//!
//! Reading outside of the buffer gives zero and writing there does nothing: the callers validate
//! sizes where bytes enter, and these accessors stay harmless if one of them is wrong.

use aegisfs_platform::crc32;

macro_rules! accessors {
    ($get:ident, $put:ident, $int:ty, $len:literal) => {
        #[doc = concat!("The `", stringify!($int), "` at byte `at`; 0 outside of the buffer.")]
        #[inline]
        #[must_use]
        pub fn $get(bytes: &[u8], at: usize) -> $int {
            match bytes.get(at..).and_then(|b| b.first_chunk::<$len>()) {
                Some(b) => <$int>::from_le_bytes(*b),
                None => 0,
            }
        }

        #[doc = concat!("Stores a `", stringify!($int), "` at byte `at`.")]
        #[inline]
        pub fn $put(bytes: &mut [u8], at: usize, value: $int) {
            if let Some(b) = bytes
                .get_mut(at..)
                .and_then(|b| b.first_chunk_mut::<$len>())
            {
                *b = value.to_le_bytes();
            } else {
                debug_assert!(false, "store outside of the buffer");
            }
        }
    };
}

accessors!(get_u16, put_u16, u16, 2);
accessors!(get_u32, put_u32, u32, 4);
accessors!(get_u64, put_u64, u64, 8);
accessors!(get_i64, put_i64, i64, 8);

/// The byte at `at`; 0 outside of the buffer.
#[inline]
#[must_use]
pub fn get_u8(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Stores a byte at `at`.
#[inline]
pub fn put_u8(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(b) = bytes.get_mut(at) {
        *b = value;
    }
}

/// The `N` bytes at `at`; zeros outside of the buffer.
#[must_use]
pub fn get_array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    match bytes.get(at..).and_then(|b| b.first_chunk::<N>()) {
        Some(b) => *b,
        None => [0; N],
    }
}

/// Stores `value` at `at`; what does not fit is left out.
pub fn put_bytes(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(at..) {
        for (t, v) in target.iter_mut().zip(value) {
            *t = *v;
        }
    }
}

/// Copies `from` to the start of `to`, as far as both go.
pub fn copy(to: &mut [u8], from: &[u8]) {
    let n = to.len().min(from.len());
    if let (Some(t), Some(f)) = (to.get_mut(..n), from.get(..n)) {
        t.copy_from_slice(f);
    }
}

/// Byte offset of the CRC32 in every checksummed block; it covers all that follows it.
pub const CRC_AT: usize = 4;
const CRC_FROM: usize = CRC_AT + 4;

/// The CRC32 that belongs into a checksummed block.
#[must_use]
pub fn block_crc(block: &[u8]) -> u32 {
    crc32(0, block.get(CRC_FROM..).unwrap_or(&[]))
}

/// Computes and stores the CRC32 of a checksummed block; returns it.
pub fn seal(block: &mut [u8]) -> u32 {
    let crc = block_crc(block);
    put_u32(block, CRC_AT, crc);
    crc
}

/// The block's stored CRC32 is the right one.
#[must_use]
pub fn sealed(block: &[u8]) -> bool {
    block.len() > CRC_FROM && get_u32(block, CRC_AT) == block_crc(block)
}

/// All bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(16);
    // Without a branch for each byte, so that the compiler can use wide loads.
    words.all(|w| w.iter().fold(0, |a, b| a | b) == 0) && words.remainder().iter().all(|b| *b == 0)
}
