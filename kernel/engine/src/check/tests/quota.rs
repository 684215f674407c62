// SPDX-License-Identifier: GPL-2.0-only
//! Quota: usage that is wrong, records that cannot be.

extern crate std;

use super::*;
use crate::format::key::POOL_TREE;
use crate::format::quota::{encode_quota, quota_key, QUOTA_INFO_KEY};
use crate::types::{Quota, QuotaType, SetQuota};

/// A volume that counts, with two owners.
fn counting() -> Ram {
    let options = FormatOptions {
        quota: true,
        ..FormatOptions::new()
    };
    let ram = Ram::format(32 << 20, &options);
    let fs = ram.mount();
    for (i, uid) in [0, 1000, 1000].into_iter().enumerate() {
        let new = NewInode { uid, ..file() };
        let made = fs.create(ROOT_INO, name(i).as_bytes(), &new).unwrap().attr;
        fs.write(made.ino, 0, &vec![1; 3000 * i]).unwrap();
    }
    let limit = SetQuota {
        space_hard: Some(1 << 20),
        ..SetQuota::default()
    };
    fs.set_quota(QuotaType::User, 1000, &limit).unwrap();
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
    ram
}

/// Puts a record into the pool tree that the engine would not.
pub fn put_pool(ram: &Ram, key: Key, value: &[u8]) {
    let fs = ram.mount();
    {
        let mut state = fs.state.write();
        let mut space = fs.space.lock();
        state
            .trees
            .put(POOL_TREE, &key, value, &mut *space)
            .unwrap();
    }
    fs.unmount().unwrap();
}

#[test]
fn wrong_usage() {
    let ram = counting();
    let fs = ram.mount();
    let right = fs.quota(QuotaType::User, 1000).unwrap();
    assert_eq!((right.space, right.inodes), (4096 + 8192, 2));
    drop(fs);
    let wrong = Quota {
        space: right.space + 512,
        inodes: right.inodes - 1,
        ..right
    };
    put_pool(
        &ram,
        quota_key(QuotaType::User, 1000),
        &encode_quota(&wrong),
    );
    ram.mended(&["quota-usage"]);
    let fs = ram.mount();
    assert_eq!(fs.quota(QuotaType::User, 1000).unwrap(), right);
}

#[test]
fn usage_of_nobody() {
    let ram = counting();
    let ghost = Quota {
        inodes: 7,
        ..Quota::default()
    };
    put_pool(
        &ram,
        quota_key(QuotaType::Project, 99),
        &encode_quota(&ghost),
    );
    ram.mended(&["quota-usage"]);
}

#[test]
fn usage_is_mended_with_the_inodes_that_it_counts() {
    let ram = counting();
    // An inode that says to have more blocks than it has: its owner's usage is wrong with it.
    ram.tamper(|fs, tx| {
        let ino = at(fs, &name(2)).ino;
        change(tx, ino, |a| a.blocks += 5);
    });
    ram.mended(&["block-count"]);
}

#[test]
fn malformed_records() {
    let ram = counting();
    put_pool(&ram, quota_key(QuotaType::User, 1000), &[1; 96]);
    ram.mended(&["quota-record", "quota-usage"]);
    let ram = counting();
    put_pool(&ram, QUOTA_INFO_KEY, &[1; 7]);
    ram.mended(&["quota-record"]);
}

#[test]
fn records_of_no_type_or_without_the_feature() {
    let ram = counting();
    put_pool(
        &ram,
        Key::new(5, kind::QUOTA, 0),
        &encode_quota(&Quota::default()),
    );
    ram.left(&["record-unknown"]);
    let ram = sample();
    let key = quota_key(QuotaType::User, 0);
    put_pool(&ram, key, &encode_quota(&Quota::default()));
    ram.left(&["record-unknown"]);
}
