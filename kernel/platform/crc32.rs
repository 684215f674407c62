// SPDX-License-Identifier: GPL-2.0-only
//! CRC32 without the processor's help, sixteen bytes at a time.
//!
//! The kernel's own function goes byte by byte where no instruction computes CRC32, since few care;
//! here every block of data has a checksum. Tested by `fuse-compat/platform`, where a test can run.

const POLYNOMIAL: u32 = 0xedb8_8320;
/// Bytes of a step: one table for each, 16 KiB together.
const STEP: usize = 16;

/// `TABLES[n][b]`: what byte `b` does to the state when `n` bytes of zeros follow it.
static TABLES: [[u32; 256]; STEP] = tables();

const fn tables() -> [[u32; 256]; STEP] {
    let mut t = [[0; 256]; STEP];
    let mut b = 0;
    while b < 256 {
        let mut state = b as u32;
        let mut bit = 0;
        while bit < 8 {
            state = (state >> 1) ^ (POLYNOMIAL * (state & 1));
            bit += 1;
        }
        t[0][b] = state;
        b += 1;
    }
    let mut i = 256;
    while i < 256 * STEP {
        let before = t[i / 256 - 1][i % 256];
        t[i / 256][i % 256] = (before >> 8) ^ t[0][(before & 0xff) as usize];
        i += 1;
    }
    t
}

/// What byte number `i` of a step does.
#[inline(always)]
fn effect(i: usize, byte: u8) -> u32 {
    TABLES[STEP - 1 - i][usize::from(byte)]
}

/// What the four bytes from number `i` on do.
#[inline(always)]
fn four(i: usize, word: u32) -> u32 {
    let b = word.to_le_bytes();
    effect(i, b[0]) ^ effect(i + 1, b[1]) ^ effect(i + 2, b[2]) ^ effect(i + 3, b[3])
}

/// The state after `data`, without the inversions at the begin and the end.
pub(crate) fn update(mut state: u32, data: &[u8]) -> u32 {
    let (steps, rest) = data.split_at(data.len() - data.len() % STEP);
    for b in steps.chunks_exact(STEP) {
        // Written out: left as a loop it takes six times as long.
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        state = four(0, word(0) ^ state) ^ four(4, word(4)) ^ four(8, word(8)) ^ four(12, word(12));
    }
    for byte in rest {
        state = (state >> 8) ^ effect(STEP - 1, byte ^ state.to_le_bytes()[0]);
    }
    state
}
