// SPDX-License-Identifier: GPL-2.0-only
//! Undo files of any content: the reader gives an error or a log, whose blocks lie within the volume.
#![no_main]

#[allow(dead_code)]
#[path = "../../../tools/fsck/src/undo/log.rs"]
mod log;

use std::path::Path;
use std::sync::OnceLock;

const BLOCK: u64 = aegisfs_engine::BLOCK_SIZE as u64;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static PATH: OnceLock<String> = OnceLock::new();
    let path = PATH.get_or_init(|| format!("/dev/shm/aegisfs-fuzz-{}", std::process::id()));
    std::fs::write(path, sealed(data)).unwrap();
    if let Ok(log) = log::Log::open(Path::new(path)) {
        for (offset, block) in &log.blocks {
            assert!(offset % BLOCK == 0 && offset + BLOCK <= log.identity.size);
            if let Some(position) = block.old {
                let mut content = [0; BLOCK as usize];
                log.read_old(position, &mut content).unwrap();
                assert!(block.may_be(&log::sums(&content)));
            }
        }
    }
});

/// Checksums and positions are made right where something looks like a record, unless the first byte says
/// otherwise; the content of blocks is left out of the input.
fn sealed(data: &[u8]) -> Vec<u8> {
    let (mode, data) = data.split_first().unwrap_or((&1, &[]));
    let mut file = b"AGFSUNDO".to_vec();
    let mut head = data.get(..52).unwrap_or_default().to_vec();
    head.resize(52, 0);
    let crc = aegisfs_platform::crc32;
    file.extend_from_slice(&crc(0, &head).to_le_bytes());
    file.extend_from_slice(&head);
    for part in data.get(52..).unwrap_or_default().chunks(56) {
        let kind: &[u8; 4] = match part[0] % 3 {
            0 => b"AGu0",
            1 => b"AGu1",
            _ => b"AGux",
        };
        let mut tail = part.to_vec();
        tail.resize(56, 0);
        if mode & 1 == 1 {
            tail[..8].copy_from_slice(&(file.len() as u64).to_le_bytes());
        }
        if kind == b"AGu0" {
            let block = [part[0]; BLOCK as usize];
            for (at, sum) in log::sums(&block).iter().enumerate() {
                tail[24 + 4 * at..28 + 4 * at].copy_from_slice(&sum.to_le_bytes());
            }
            tail.extend_from_slice(&block);
        }
        let sum = if mode & 2 == 2 { 0 } else { crc(0, &tail) };
        file.extend_from_slice(kind);
        file.extend_from_slice(&sum.to_le_bytes());
        file.extend_from_slice(&tail);
    }
    file
}
