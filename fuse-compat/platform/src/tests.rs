// SPDX-License-Identifier: GPL-2.0-only
//! The vectors that both platform crates must agree on.

#[test]
fn crc32_vectors() {
    assert_eq!(crate::crc32(0, b""), 0);
    assert_eq!(crate::crc32(0, b"123456789"), 0xcbf4_3926);
    assert_eq!(
        crate::crc32(crate::crc32(0, b"12345"), b"6789"),
        0xcbf4_3926
    );
    assert_eq!(crate::crc32(0, &[0; 4096]), 0xc71c_0011);
}

/// The kernel's crate has no tests of its own.
#[path = "../../../kernel/platform/crc32.rs"]
mod kernel_crc32;

#[test]
fn crc32_of_the_kernel_crate() {
    let data: Vec<u8> = (0..300u32).map(|i| (i * i + i / 7) as u8).collect();
    for from in 0..40 {
        for to in from..data.len() {
            let part = &data[from..to];
            let seed = from as u32 * 0x0101_4567;
            assert_eq!(
                !kernel_crc32::update(!seed, part),
                crate::crc32(seed, part),
                "bytes {from} to {to}"
            );
        }
    }
}

#[test]
fn vectors_grow_and_shrink() {
    let mut v = crate::Vec::try_from_slice(&[1, 2, 3]).unwrap();
    v.try_insert(1, 9).unwrap();
    assert_eq!(&v[..], &[1, 9, 2, 3]);
    assert!(v.try_insert(9, 0).is_err());
    assert_eq!(v.remove(0), Some(1));
    assert_eq!(v.swap_remove(0), Some(9));
    assert_eq!(&v[..], &[3, 2]);
    assert_eq!(v.remove(7), None);
}
