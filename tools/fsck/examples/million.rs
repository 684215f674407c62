// SPDX-License-Identifier: GPL-2.0-only
//! Makes a volume with many inodes, to measure fsck on: 1000 files to a directory, each with a few
//! bytes or a few blocks.
//! `cargo run --release -p aegisfs_fsck --example million -- IMAGE [INODES]`, then
//! `fsck-aegisfs -n -f --json IMAGE`

use aegisfs_engine::{format_volume, FormatOptions, Fs, MountOptions, NewInode};
use aegisfs_engine::{BLOCK_SIZE, MODE_DIR, MODE_FILE, ROOT_INO};
use aegisfs_tools::{Access, FileDevice};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const PER_DIRECTORY: u64 = 1000;
/// Every so many files, one has blocks of its own.
const WITH_BLOCKS: u64 = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().ok_or("usage: million IMAGE [INODES]")?;
    let inodes: u64 = arguments.next().map_or(Ok(1_000_000), |n| n.parse())?;
    std::fs::File::create(&image)?.set_len(16 << 30)?;
    let device = FileDevice::open(Path::new(&image), Access::Write)?;
    format_volume(device.clone().into_pool()?, &FormatOptions::new())?;
    let fs = Fs::mount(device.into_pool()?, MountOptions::default())?;
    let started = Instant::now();
    let inode = |mode| NewInode {
        mode,
        ..NewInode::default()
    };
    let blocks = vec![0x5a; 2 * BLOCK_SIZE];
    let mut dir = ROOT_INO;
    // The root is one of them.
    for i in 1..inodes {
        if i % PER_DIRECTORY == 1 {
            let name = format!("directory {i}");
            dir = fs
                .create(ROOT_INO, name.as_bytes(), &inode(MODE_DIR | 0o755))?
                .attr
                .ino;
            continue;
        }
        let name = format!("file number {i}");
        let file = fs
            .create(dir, name.as_bytes(), &inode(MODE_FILE | 0o644))?
            .attr;
        if i % WITH_BLOCKS == 0 {
            fs.write(file.ino, 0, &blocks)?;
        } else {
            fs.write(file.ino, 0, name.as_bytes())?;
        }
    }
    fs.unmount()?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{image}: {inodes} inodes made in {seconds:.1} s");
    Ok(())
}
