// SPDX-License-Identifier: GPL-2.0-only
//! Claims, bounds and batches of image files.

use super::{Access, FileDevice};
use aegisfs_engine::{BlockDevice, Error, WriteOp};
use std::io::Write;
use std::time::Duration;

fn image(blocks: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![0; blocks * 4096]).unwrap();
    file
}

fn open(image: &tempfile::NamedTempFile, access: Access) -> Result<FileDevice, crate::Failure> {
    FileDevice::open_patiently(image.path(), access, Duration::ZERO)
}

#[test]
fn one_writer_or_many_readers() {
    let image = image(4);
    let writer = open(&image, Access::Write).unwrap();
    assert!(open(&image, Access::Write).is_err());
    assert!(open(&image, Access::Read).is_err());
    assert!(open(&image, Access::Peek).is_ok());
    drop(writer);
    let _reader = open(&image, Access::Read).unwrap();
    assert!(open(&image, Access::Read).is_ok());
    let refused = open(&image, Access::Write).unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
}

#[test]
fn waits_for_who_lets_go() {
    let image = image(4);
    let writer = open(&image, Access::Write).unwrap();
    let patient = std::thread::scope(|s| {
        let waiting = s.spawn(|| {
            FileDevice::open_patiently(image.path(), Access::Write, Duration::from_secs(20))
        });
        std::thread::sleep(Duration::from_millis(120));
        drop(writer);
        waiting.join().unwrap()
    });
    assert!(patient.is_ok());
}

#[test]
fn ranges_are_checked() {
    let mut file = image(4);
    file.write_all(b"a partial block at the end").unwrap();
    let device = open(&file, Access::Write).unwrap();
    assert_eq!(device.size(), 4 * 4096);
    let mut block = [1; 4096];
    device.read(3 * 4096, &mut block).unwrap();
    assert_eq!(block, [0; 4096]);
    assert_eq!(device.read(4 * 4096, &mut block), Err(Error::Io));
    assert_eq!(device.read(u64::MAX - 4095, &mut block), Err(Error::Io));
    assert_eq!(device.write(1, &block), Err(Error::Io));
    assert_eq!(device.write(0, &block[..512]), Err(Error::Io));
    drop(device);
    let device = open(&file, Access::Read).unwrap();
    assert_eq!(device.write(0, &block), Err(Error::ReadOnly));
}

#[test]
fn batches_land_where_they_belong() {
    let image = image(3000);
    let device = open(&image, Access::Write).unwrap();
    // Runs longer than one system call takes, with gaps, out of order.
    let content: Vec<[u8; 4096]> = (0..2500_u32).map(|i| [(i % 251) as u8; 4096]).collect();
    let place = |i: usize| match i {
        0..1500 => i + 1000,
        1500..2000 => i - 1500,
        _ => i + 500,
    };
    let ops: Vec<WriteOp<'_>> = content
        .iter()
        .enumerate()
        .map(|(i, data)| WriteOp {
            offset: place(i) as u64 * 4096,
            data,
        })
        .collect();
    device.write_many(&ops).unwrap();
    let mut block = [0; 4096];
    for (i, expected) in content.iter().enumerate() {
        device.read(place(i) as u64 * 4096, &mut block).unwrap();
        assert_eq!(&block, expected, "block {i}");
    }
    device.read(700 * 4096, &mut block).unwrap();
    assert_eq!(block, [0; 4096]);
}

#[test]
fn what_is_no_device_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(FileDevice::open(dir.path(), Access::Peek).is_err());
    assert!(FileDevice::open(&dir.path().join("absent"), Access::Peek).is_err());
}
