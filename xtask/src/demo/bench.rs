// SPDX-License-Identifier: GPL-2.0-only
//! The same work on several filesystems, by turns, in one VM on one disk.
//!
//! An emulated machine's absolute times mean nothing; ratios of work done side by side do.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::tree::Trees;
use super::{Summary, DISK_SIZE, MEMORY_MIB, STEP_TIMEOUT};
use crate::filesystem::Filesystem;
use crate::testbed::{Shape, Testbed};
use crate::ui;
use crate::vm::{Disk, Vm};

const RIVALS: &[Filesystem] = &[Filesystem::Ext4, Filesystem::Btrfs];

/// Seconds for one round on one filesystem.
#[derive(Debug, Clone, Copy)]
struct Times {
    unpack: f64,
    read: f64,
}

pub fn compare(
    ours: Filesystem,
    rounds: u32,
    testbed: &Testbed,
    trees: &Trees,
    summary: &mut Summary,
) -> Result<()> {
    ui::step(format!(
        "comparing: unpack and read back {} files, {} rounds",
        trees.counts.part_files, rounds
    ));
    let shape = Shape {
        memory_mib: MEMORY_MIB,
        ..Shape::default()
    };
    let disks = vec![
        Disk::Scratch { size: DISK_SIZE },
        Disk::File {
            path: trees.part(),
            read_only: true,
        },
    ];
    let mut vm = Vm::boot(&testbed.config(&shape, disks))?;
    let mut contestants = vec![ours];
    contestants.extend(RIVALS.iter().copied().filter(|rival| *rival != ours));
    let mut best: BTreeMap<&str, Times> = BTreeMap::new();
    for round in 0..rounds as usize {
        // Whoever comes first finds a colder host: take turns.
        contestants.rotate_left(round.min(1));
        for filesystem in &contestants {
            let times = one_round(&mut vm, *filesystem).with_context(|| filesystem.name())?;
            ui::step(format!(
                "{:8} unpack {:5.1} s, read back {:5.1} s",
                filesystem.name(),
                times.unpack,
                times.read
            ));
            best.entry(filesystem.name())
                .and_modify(|best| {
                    best.unpack = best.unpack.min(times.unpack);
                    best.read = best.read.min(times.read);
                })
                .or_insert(times);
        }
    }
    let reference = best[ours.name()];
    for (name, times) in &best {
        let ratios = match *name == ours.name() {
            true => String::new(),
            false => format!(
                "; {} takes {:.2} x and {:.2} x of that",
                ours.name(),
                reference.unpack / times.unpack,
                reference.read / times.read
            ),
        };
        summary.add(
            name,
            format!(
                "unpack {:.1} s, cold read {:.1} s{ratios}",
                times.unpack, times.read
            ),
        );
    }
    vm.shut_down()
}

fn one_round(vm: &mut Vm, filesystem: Filesystem) -> Result<Times> {
    let name = filesystem.name();
    let make = filesystem.make();
    let script = format!(
        r#"
set -e
disk=$AEGIS_DISK1
blkdiscard $disk
{make}
mkdir -p /mnt/t
mount -t {name} $disk /mnt/t
cat $AEGIS_DISK2 > /dev/null
start=$EPOCHREALTIME
tar -xf $AEGIS_DISK2 -C /mnt/t
sync
middle=$EPOCHREALTIME
umount /mnt/t
mount -t {name} $disk /mnt/t
echo 3 > /proc/sys/vm/drop_caches
cat $AEGIS_DISK2 > /dev/null
begin=$EPOCHREALTIME
find /mnt/t -type f -print0 | sort -z | xargs -0 cat > /dev/null
end=$EPOCHREALTIME
umount /mnt/t
echo $start $middle $begin $end
"#
    );
    let output = vm.shell(&script, STEP_TIMEOUT)?;
    let stamps: Vec<f64> = super::last_line(&output)
        .split_whitespace()
        .map(|word| {
            word.parse()
                .with_context(|| format!("unexpected output: {output}"))
        })
        .collect::<Result<_>>()?;
    match stamps[..] {
        [start, middle, begin, end] => Ok(Times {
            unpack: middle - start,
            read: end - begin,
        }),
        _ => anyhow::bail!("unexpected output: {output}"),
    }
}
