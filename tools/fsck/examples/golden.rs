// SPDX-License-Identifier: GPL-2.0-only
//! Makes golden images: `PREFIX-clean.lz4`, unmounted in order, and `PREFIX-journal.lz4`, whose content
//! is in the journal alone. Done once for each format version, and for each feature that came later:
//! `cargo run --release -p aegisfs_fsck --example golden -- tests/golden/format-1`
//! A second argument names the feature (`shared`, `health`, `bad-blocks`, `compact`, `ahead`), whose content the images have then.

#[path = "../tests/support/mod.rs"]
mod support;

use aegisfs_engine::{format_volume, FormatOptions, Fs, Result};
use aegisfs_platform::Vec as EngineVec;
use std::error::Error;
use support::Disk;

type Fill = fn(&Fs) -> Result<()>;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let prefix = std::env::args()
        .nth(1)
        .ok_or("usage: golden PREFIX [shared|health|bad-blocks|compact|ahead]")?;
    let (fill, verify): (Fill, fn(&Fs)) = match std::env::args().nth(2).as_deref() {
        None | Some("compact" | "ahead") => (support::fill, support::verify),
        Some("shared") => (support::fill_shared, support::verify_shared),
        Some("health") => (support::fill_health, support::verify_health),
        Some("bad-blocks") => (support::fill, support::verify_bad_blocks),
        Some(_) => {
            return Err(
                "the features with images: shared, health, bad-blocks, compact, ahead".into(),
            )
        }
    };
    for (name, node_size, clean) in [("clean", 4096, true), ("journal", 16384, false)] {
        let disk = Disk::new(32 << 20);
        let mut options = FormatOptions::new();
        options.node_size = node_size;
        options.label = EngineVec::try_from_slice(b"golden").map_err(|_| "no memory")?;
        options.data_replicas = if clean { 2 } else { 1 };
        if std::env::args().nth(2).as_deref() == Some("bad-blocks") {
            options.bad_blocks =
                EngineVec::try_from_slice(&support::BAD_BLOCKS).map_err(|_| "no memory")?;
        }
        format_volume(disk.pool(), &options)?;
        let fs = disk.mount(false);
        fill(&fs)?;
        if clean {
            fs.unmount()?;
        } else {
            // The crash after that leaves the journal to be replayed.
            fs.sync()?;
            drop(fs);
        }
        let image = disk.encode();
        verify(&Disk::decode(&image).mount(true));
        let path = format!("{prefix}-{name}.lz4");
        std::fs::write(&path, &image)?;
        println!("{path}: {} bytes", image.len());
    }
    Ok(())
}
