// SPDX-License-Identifier: GPL-2.0-only
//! Quota through the facade: what is counted, what survives, what is refused.

use aegisfs_engine::*;
use common::Ram;

mod common;

/// A new volume, which counts usage from the start or not.
fn volume(quota: bool) -> Ram {
    let options = FormatOptions {
        quota,
        ..FormatOptions::new()
    };
    Ram::format(64 << 20, &options)
}

/// Mounts it, and has usage counted from then on or not.
fn mount(ram: &Ram, quota: bool) -> Box<Fs> {
    ram.mount_with(MountOptions {
        quota,
        ..MountOptions::default()
    })
}

const USER: u32 = 1000;

fn new(uid: u32) -> NewInode<'static> {
    NewInode {
        mode: MODE_FILE | 0o644,
        uid,
        gid: uid + 1,
        project: uid + 2,
        ..NewInode::default()
    }
}

fn used(fs: &Fs, of: QuotaType, id: u32) -> (u64, u64) {
    let q = fs.quota(of, id).unwrap();
    (q.space, q.inodes)
}

#[test]
fn usage_follows_the_inodes() {
    let ram = volume(true);
    let fs = mount(&ram, false);
    assert_eq!(used(&fs, QuotaType::User, 0), (0, 1));
    let f = fs.create(ROOT_INO, b"f", &new(USER)).unwrap().attr;
    fs.write(f.ino, 0, &[1; 600]).unwrap();
    assert_eq!(used(&fs, QuotaType::User, USER), (1024, 1));
    fs.write(f.ino, 0, &[1; 9000]).unwrap();
    for (of, id) in [
        (QuotaType::User, USER),
        (QuotaType::Group, USER + 1),
        (QuotaType::Project, USER + 2),
    ] {
        assert_eq!(used(&fs, of, id), (3 * 4096, 1));
    }
    // Another owner and project, the same group.
    let set = SetAttr {
        uid: Some(5),
        project: Some(0),
        ..SetAttr::default()
    };
    fs.setattr(f.ino, &set).unwrap();
    assert_eq!(used(&fs, QuotaType::User, USER), (0, 0));
    assert_eq!(used(&fs, QuotaType::User, 5), (3 * 4096, 1));
    assert_eq!(used(&fs, QuotaType::Group, USER + 1), (3 * 4096, 1));
    assert_eq!(used(&fs, QuotaType::Project, 0), (3 * 4096, 2));
    fs.fallocate(f.ino, 0, 1 << 20, true).unwrap();
    assert_eq!(used(&fs, QuotaType::User, 5), (1 << 20, 1));
    fs.truncate(f.ino, 4096).unwrap();
    assert_eq!(used(&fs, QuotaType::User, 5), (4096, 1));
    // Without a name it counts until it is gone.
    fs.unlink(ROOT_INO, b"f").unwrap();
    assert_eq!(used(&fs, QuotaType::User, 5), (4096, 1));
    fs.evict(f.ino).unwrap();
    assert_eq!(used(&fs, QuotaType::User, 5), (0, 0));
    assert_eq!(used(&fs, QuotaType::Group, USER + 1), (0, 0));
    fs.unmount().unwrap();
}

#[test]
fn a_crash_changes_nothing() {
    let ram = volume(true);
    let fs = mount(&ram, false);
    let limit = SetQuota {
        space_hard: Some(1 << 20),
        inodes_soft: Some(3),
        ..SetQuota::default()
    };
    fs.set_quota(QuotaType::User, USER, &limit).unwrap();
    fs.set_grace(QuotaType::User, Some(60), None).unwrap();
    for i in 0..40u32 {
        let name = format!("{i}");
        let f = fs
            .create(ROOT_INO, name.as_bytes(), &new(USER + i % 3))
            .unwrap()
            .attr;
        fs.write(f.ino, 0, &vec![1; 700 * i as usize]).unwrap();
        if i % 7 == 0 {
            fs.checkpoint().unwrap();
        }
        if i % 5 == 0 {
            fs.unlink(ROOT_INO, name.as_bytes()).unwrap();
            fs.evict(f.ino).unwrap();
        }
    }
    fs.sync().unwrap();
    let again = mount(&ram.crash(), false);
    for of in QuotaType::ALL {
        for id in 0..1010 {
            assert_eq!(used(&fs, of, id), used(&again, of, id), "{of:?} {id}");
        }
    }
    let q = again.quota(QuotaType::User, USER).unwrap();
    assert_eq!((q.space_hard, q.inodes_soft), (1 << 20, 3));
    assert!(q.inodes_deadline > 0);
    assert_eq!(again.quota_state().grace[0].space, 60);
    assert_eq!(again.quota_state().grace[1], Grace::default());
}

#[test]
fn counting_begins_at_a_mount() {
    let ram = volume(false);
    let fs = mount(&ram, false);
    assert_eq!(fs.quota(QuotaType::User, 0), Err(Error::Unsupported));
    assert_eq!(fs.quota_enforce(1), Err(Error::Unsupported));
    for i in 0..3000u32 {
        let name = format!("{i}");
        let f = fs
            .create(ROOT_INO, name.as_bytes(), &new(i % 100))
            .unwrap()
            .attr;
        if i % 10 == 0 {
            fs.write(f.ino, 0, b"inline").unwrap();
        }
    }
    fs.unmount().unwrap();
    let fs = mount(&ram, true);
    assert_eq!(used(&fs, QuotaType::User, 0), (30 * 512, 31));
    assert_eq!(used(&fs, QuotaType::User, 7), (0, 30));
    assert_eq!(used(&fs, QuotaType::Project, 12), (30 * 512, 30));
    drop(fs);
    // From now on always.
    let fs = mount(&ram, false);
    fs.create(ROOT_INO, b"one more", &new(7)).unwrap();
    assert_eq!(used(&fs, QuotaType::User, 7), (0, 31));
    fs.unmount().unwrap();
    let fs = mount(&ram, false);
    assert_eq!(used(&fs, QuotaType::User, 7), (0, 31));
    // All that are in use, in order.
    let mut ids = vec![];
    let mut from = 0;
    while let Some((id, q)) = fs.quota_next(QuotaType::Group, from).unwrap() {
        assert_eq!(q, fs.quota(QuotaType::Group, id).unwrap());
        ids.push(id);
        from = id + 1;
    }
    assert_eq!(ids, (0..=100).collect::<Vec<_>>());
}

#[test]
fn many_quotas_leave_memory_and_come_back() {
    let ram = volume(true);
    let fs = mount(&ram, false);
    for i in 0..6000u32 {
        let name = format!("{i}");
        fs.create(ROOT_INO, name.as_bytes(), &new(10 * i)).unwrap();
    }
    assert!(fs.quota_state().cached >= 18_000);
    fs.checkpoint().unwrap();
    assert_eq!(fs.quota_state().cached, 0);
    for i in (0..6000).step_by(501) {
        assert_eq!(
            used(&fs, QuotaType::User, 10 * i),
            (0, 1 + u64::from(i == 0))
        );
        fs.create(ROOT_INO, format!("again {i}").as_bytes(), &new(10 * i))
            .unwrap();
        assert_eq!(
            used(&fs, QuotaType::User, 10 * i),
            (0, 2 + u64::from(i == 0))
        );
    }
}

#[test]
fn quotas_without_use_go() {
    let ram = volume(true);
    let fs = mount(&ram, false);
    let ids = |fs: &Fs| {
        let mut n = 0;
        let mut from = 0;
        while let Some((id, _)) = fs.quota_next(QuotaType::Project, from).unwrap() {
            n += 1;
            from = id + 1;
        }
        n
    };
    for round in 0..3 {
        for i in 0..5000u32 {
            let name = format!("{i}");
            let ino = fs
                .create(ROOT_INO, name.as_bytes(), &new(i))
                .unwrap()
                .attr
                .ino;
            if i % 1000 == 0 {
                fs.checkpoint().unwrap();
            }
            if i % 2 == round % 2 {
                fs.unlink(ROOT_INO, name.as_bytes()).unwrap();
                fs.evict(ino).unwrap();
            }
        }
        assert_eq!(ids(&fs), 2501);
        fs.checkpoint().unwrap();
        assert_eq!(ids(&fs), 2501);
        for i in 0..5000u32 {
            if i % 2 != round % 2 {
                let ino = fs
                    .unlink(ROOT_INO, format!("{i}").as_bytes())
                    .unwrap()
                    .attr
                    .ino;
                fs.evict(ino).unwrap();
            }
        }
        // The root directory's is left.
        assert_eq!(ids(&fs), 1);
        fs.checkpoint().unwrap();
        let again = mount(&ram.crash(), false);
        assert_eq!(ids(&again), 1);
    }
}

#[test]
fn limits_bind() {
    let ram = volume(true);
    let fs = mount(&ram, false);
    let owner = Owner {
        uid: USER,
        gid: 1,
        project: 2,
    };
    let hold = |space, inodes| fs.quota_hold(&owner, QuotaTypes::MAX, space, inodes, false);
    let limit = SetQuota {
        space_hard: Some(8192),
        inodes_hard: Some(2),
        ..SetQuota::default()
    };
    fs.set_quota(QuotaType::User, USER, &limit).unwrap();
    // Nobody enforces yet.
    assert_eq!(hold(1 << 30, 0).unwrap(), QuotaHold::default());
    fs.quota_enforce(QuotaType::User.bit()).unwrap();
    let a = hold(4096, 1).unwrap();
    assert_eq!(hold(8192, 0), Err(Error::Quota));
    let b = hold(4096, 1).unwrap();
    assert_eq!(hold(0, 1), Err(Error::Quota));
    assert_eq!(hold(1, 0), Err(Error::Quota));
    // Somebody whom limits do not bind.
    let c = fs.quota_hold(&owner, QuotaTypes::MAX, 1, 1, true).unwrap();
    for h in [&a, &b, &c] {
        fs.quota_release(h);
    }
    hold(8192, 2).unwrap();
    // A checkpoint must not forget what is held.
    fs.checkpoint().unwrap();
    assert_eq!(hold(1, 0), Err(Error::Quota));
    fs.quota_enforce(0).unwrap();
    assert_eq!(hold(1, 0).unwrap(), QuotaHold::default());
}

#[test]
fn soft_limits_bind_after_a_time() {
    let ram = volume(true);
    let fs = mount(&ram, false);
    let soft = SetQuota {
        inodes_soft: Some(1),
        ..SetQuota::default()
    };
    fs.set_quota(QuotaType::Group, USER + 1, &soft).unwrap();
    fs.quota_enforce(QuotaType::Group.bit()).unwrap();
    let owner = Owner {
        gid: USER + 1,
        ..Owner::default()
    };
    let create = |name: &[u8]| {
        fs.with_quota(&owner, 0, 1, false, || {
            fs.create(ROOT_INO, name, &new(USER))
        })
    };
    create(b"a").unwrap();
    let deadline = || {
        fs.quota(QuotaType::Group, USER + 1)
            .unwrap()
            .inodes_deadline
    };
    assert_eq!(deadline(), 0);
    create(b"b").unwrap();
    assert!(deadline() > Time::now().sec);
    create(b"c").unwrap();
    // The time is over.
    let over = SetQuota {
        inodes_deadline: Some(1),
        ..SetQuota::default()
    };
    fs.set_quota(QuotaType::Group, USER + 1, &over).unwrap();
    assert_eq!(create(b"d").unwrap_err(), Error::Quota);
    for name in [b"b", b"c"] {
        let ino = fs.unlink(ROOT_INO, name).unwrap().attr.ino;
        fs.evict(ino).unwrap();
    }
    assert_eq!(deadline(), 0);
    create(b"d").unwrap();
}

#[test]
fn growth_is_what_usage_grows_by() {
    let ram = volume(true);
    let fs = mount(&ram, false);
    let f = fs.create(ROOT_INO, b"f", &new(USER)).unwrap().attr;
    let steps: [(u64, usize); 7] = [
        (0, 100),
        (100, 300),
        (300, 400),
        (0, 5000),
        (0, 8192),
        (40_960, 10),
        (20_000, 30_000),
    ];
    for (offset, len) in steps {
        let end = offset + len as u64;
        let growth = fs
            .quota_growth(f.ino, offset / 4096, end.div_ceil(4096), end)
            .unwrap();
        let before = used(&fs, QuotaType::User, USER).0;
        fs.write(f.ino, offset, &vec![3; len]).unwrap();
        assert_eq!(
            used(&fs, QuotaType::User, USER).0,
            before + growth,
            "{offset} {len}"
        );
    }
    let empty = fs.create(ROOT_INO, b"e", &new(USER)).unwrap().attr;
    assert_eq!(fs.quota_growth(empty.ino, 0, 2, u64::MAX).unwrap(), 8192);
    // Blocks 2 and 3 are a hole.
    assert_eq!(fs.quota_growth(f.ino, 0, 12, 49_152).unwrap(), 8192);
}
