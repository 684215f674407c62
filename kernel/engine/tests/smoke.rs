// SPDX-License-Identifier: GPL-2.0-only
//! A volume in memory through the facade: the shortest way to see that all layers work together.

use aegisfs_engine::*;
use aegisfs_platform::Vec as PVec;
use common::Ram;

mod common;

fn new_volume(size: usize, node_size: u32) -> Ram {
    let options = FormatOptions {
        node_size,
        ..FormatOptions::new()
    };
    Ram::format(size, &options)
}

fn file(mode: u32) -> NewInode<'static> {
    NewInode {
        mode: MODE_FILE | mode,
        ..NewInode::default()
    }
}

fn directory() -> NewInode<'static> {
    NewInode {
        mode: MODE_DIR | 0o755,
        ..NewInode::default()
    }
}

fn names(fs: &Fs, dir: u64) -> Vec<String> {
    let mut v = vec![];
    fs.readdir(dir, 0, &mut |e| {
        v.push(String::from_utf8(e.name.to_vec()).unwrap());
        true
    })
    .unwrap();
    v.sort();
    v
}

#[test]
fn many_files_survive_remount_and_crash() {
    for node_size in [4096, 16384, 65536] {
        let ram = new_volume(256 << 20, node_size);
        {
            let fs = ram.mount();
            for i in 0..5000u32 {
                let name = format!("file-{i}");
                let a = fs
                    .create(ROOT_INO, name.as_bytes(), &file(0o644))
                    .unwrap()
                    .attr;
                let data = vec![i as u8; (i as usize * 7) % 20_000];
                fs.write(a.ino, 0, &data).unwrap();
            }
            fs.sync().unwrap();
            // No unmount: the next mount replays the journal.
        }
        let fs = ram.mount();
        assert_eq!(names(&fs, ROOT_INO).len(), 5000);
        for i in 0..5000u32 {
            let a = fs.lookup(ROOT_INO, format!("file-{i}").as_bytes()).unwrap();
            let want = vec![i as u8; (i as usize * 7) % 20_000];
            let mut got = vec![0; want.len() + 10];
            assert_eq!(fs.read(a.ino, 0, &mut got).unwrap(), want.len(), "file {i}");
            assert_eq!(&got[..want.len()], &want[..], "file {i}");
        }
        fs.unmount().unwrap();
        let fs = ram.mount();
        let before = fs.statfs();
        for i in 0..5000u32 {
            let a = fs
                .unlink(ROOT_INO, format!("file-{i}").as_bytes())
                .unwrap()
                .attr;
            assert_eq!(a.nlink, 0);
            fs.evict(a.ino).unwrap();
        }
        fs.checkpoint().unwrap();
        fs.checkpoint().unwrap();
        let after = fs.statfs();
        assert_eq!(after.inodes, 1);
        assert!(after.free > before.free);
        // All that is left are the two trees' single nodes.
        let per_node = u64::from(node_size) / 4096 * 2;
        assert!(after.total - after.free <= 2 * per_node, "{after:?}");
        fs.unmount().unwrap();
    }
}

#[test]
fn full_volume_can_be_emptied() {
    let ram = new_volume(48 << 20, 16384);
    let fs = ram.mount();
    let start = fs.statfs();
    let data = vec![0x5a; 1 << 20];
    let mut n = 0;
    let error = loop {
        let name = format!("f{n}");
        let a = match fs.create(ROOT_INO, name.as_bytes(), &file(0o600)) {
            Ok(a) => a,
            Err(e) => break e,
        };
        n += 1;
        if let Err(e) = fs.write(a.attr.ino, 0, &data) {
            break e;
        }
    };
    assert_eq!(error, Error::NoSpace);
    let full = fs.statfs();
    assert!(full.available < 300, "{full:?}");
    for i in 0..n {
        let a = fs
            .unlink(ROOT_INO, format!("f{i}").as_bytes())
            .unwrap()
            .attr;
        fs.evict(a.ino).unwrap();
    }
    fs.checkpoint().unwrap();
    fs.checkpoint().unwrap();
    let end = fs.statfs();
    assert!(end.free + 8 >= start.free, "{start:?} {end:?}");
    fs.unmount().unwrap();
}

#[test]
fn sparse_holes_punch_and_truncate() {
    let ram = new_volume(64 << 20, 16384);
    let fs = ram.mount();
    let a = fs.create(ROOT_INO, b"sparse", &file(0o644)).unwrap().attr;
    fs.write(a.ino, (16 << 40) - 5, b"hello").unwrap();
    assert_eq!(fs.getattr(a.ino).unwrap().size, 16 << 40);
    assert_eq!(fs.getattr(a.ino).unwrap().blocks, 1);
    let mut buf = [1; 16];
    assert_eq!(fs.read(a.ino, (16 << 40) - 10, &mut buf).unwrap(), 10);
    assert_eq!(&buf[..10], b"\0\0\0\0\0hello");
    let b = fs.create(ROOT_INO, b"b", &file(0o644)).unwrap().attr;
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    fs.write(b.ino, 0, &data).unwrap();
    fs.punch(b.ino, 10_000, 1_500_000).unwrap();
    fs.truncate(b.ino, 2_500_001).unwrap();
    fs.truncate(b.ino, 2_600_000).unwrap();
    fs.fallocate(b.ino, 0, 4_000_000, true).unwrap();
    let mut want = data.clone();
    want[10_000..1_510_000].fill(0);
    want.truncate(2_500_001);
    want.resize(2_600_000, 0);
    drop(fs);
    let fs = ram.mount(); // nothing was synced: the file may be in any earlier state
    drop(fs);
    let ram = new_volume(64 << 20, 16384);
    let fs = ram.mount();
    let b = fs.create(ROOT_INO, b"b", &file(0o644)).unwrap().attr;
    fs.write(b.ino, 0, &data).unwrap();
    fs.punch(b.ino, 10_000, 1_500_000).unwrap();
    fs.truncate(b.ino, 2_500_001).unwrap();
    fs.truncate(b.ino, 2_600_000).unwrap();
    fs.fallocate(b.ino, 0, 4_000_000, true).unwrap();
    fs.write(b.ino, 20_000, b"in the unwritten part").unwrap();
    want[20_000..20_021].copy_from_slice(b"in the unwritten part");
    fs.sync().unwrap();
    drop(fs);
    let fs = ram.mount();
    let mut got = vec![0; 3_000_000];
    assert_eq!(fs.read(b.ino, 0, &mut got).unwrap(), 2_600_000);
    assert!(got[..2_600_000] == want[..]);
    fs.unmount().unwrap();
}

#[test]
fn names_links_and_renames() {
    let ram = new_volume(64 << 20, 16384);
    let fs = ram.mount();
    let d1 = fs.create(ROOT_INO, b"d1", &directory()).unwrap().attr;
    let d2 = fs.create(ROOT_INO, b"d2", &directory()).unwrap().attr;
    let sub = fs.create(d1.ino, b"sub", &directory()).unwrap().attr;
    let f = fs.create(d1.ino, b"f", &file(0o644)).unwrap().attr;
    assert_eq!(fs.getattr(d1.ino).unwrap().nlink, 3);
    assert_eq!(
        fs.create(d1.ino, b"f", &file(0)).unwrap_err(),
        Error::Exists
    );
    assert_eq!(fs.link(f.ino, d2.ino, b"g").unwrap().attr.nlink, 2);
    assert_eq!(fs.rmdir(ROOT_INO, b"d1").unwrap_err(), Error::NotEmpty);
    assert_eq!(fs.unlink(ROOT_INO, b"d1").unwrap_err(), Error::IsDirectory);
    fs.rename(d1.ino, b"sub", d2.ino, b"sub2", RenameMode::Replace)
        .unwrap();
    assert_eq!(fs.getattr(d1.ino).unwrap().nlink, 2);
    assert_eq!(fs.getattr(d2.ino).unwrap().nlink, 3);
    assert_eq!(fs.getattr(sub.ino).unwrap().parent, d2.ino);
    fs.rename(d2.ino, b"g", d2.ino, b"sub2", RenameMode::Exchange)
        .unwrap();
    assert_eq!(fs.lookup(d2.ino, b"g").unwrap().ino, sub.ino);
    assert_eq!(
        fs.rename(d1.ino, b"f", d2.ino, b"g", RenameMode::NoReplace)
            .unwrap_err(),
        Error::Exists
    );
    assert_eq!(
        fs.rename(d1.ino, b"f", d2.ino, b"g", RenameMode::Replace)
            .unwrap_err(),
        Error::IsDirectory
    );
    let long = vec![b'x'; 4000];
    let link = NewInode {
        mode: MODE_SYMLINK | 0o777,
        target: &long,
        xattrs: &[(b"user.a", b"1"), (b"user.b", &[7; 60_000])],
        ..NewInode::default()
    };
    let l = fs.create(ROOT_INO, b"link", &link).unwrap().attr;
    fs.sync().unwrap();
    drop(fs);
    let fs = ram.mount();
    let mut out = PVec::new();
    fs.readlink(l.ino, &mut out).unwrap();
    assert_eq!(&out[..], &long[..]);
    fs.getxattr(l.ino, b"user.b", &mut out).unwrap();
    assert_eq!(&out[..], &[7; 60_000][..]);
    fs.setxattr(l.ino, b"user.b", b"small", XattrMode::Replace)
        .unwrap();
    fs.getxattr(l.ino, b"user.b", &mut out).unwrap();
    assert_eq!(&out[..], b"small");
    fs.removexattr(l.ino, b"user.a").unwrap();
    assert_eq!(fs.getxattr(l.ino, b"user.a", &mut out), Err(Error::NoData));
    let mut listed = vec![];
    fs.listxattr(l.ino, &mut |n| listed.push(n.to_vec()))
        .unwrap();
    assert_eq!(listed, [b"user.b".to_vec()]);
    fs.unmount().unwrap();
}

#[test]
fn directories_do_not_move_below_themselves() {
    let ram = new_volume(64 << 20, 16384);
    let fs = ram.mount();
    let mut at = ROOT_INO;
    let mut all = vec![];
    for _ in 0..40 {
        at = fs.create(at, b"d", &directory()).unwrap().attr.ino;
        all.push(at);
    }
    let other = fs.create(ROOT_INO, b"other", &directory()).unwrap().attr;
    fs.create(at, b"file", &file(0)).unwrap();
    for &below in &all {
        for mode in [RenameMode::Replace, RenameMode::NoReplace] {
            let moved = fs.rename(ROOT_INO, b"d", below, b"x", mode);
            assert_eq!(moved.unwrap_err(), Error::Invalid);
        }
    }
    for (a, b) in [
        ((ROOT_INO, &b"d"[..]), (at, &b"file"[..])),
        ((at, b"file"), (ROOT_INO, b"d")),
    ] {
        let swapped = fs.rename(a.0, a.1, b.0, b.1, RenameMode::Exchange);
        assert_eq!(swapped.unwrap_err(), Error::Invalid);
    }
    fs.rename(all[2], b"d", other.ino, b"moved", RenameMode::Replace)
        .unwrap();
    fs.rename(ROOT_INO, b"d", at, b"x", RenameMode::Replace)
        .unwrap();
    assert_eq!(fs.lookup(at, b"x").unwrap().ino, all[0]);
    fs.unmount().unwrap();
}

/// An access control list and the mode that goes with it are one operation: no crash parts them.
#[test]
fn attributes_change_with_an_extended_one() {
    let ram = new_volume(64 << 20, 16384);
    let fs = ram.mount();
    let f = fs.create(ROOT_INO, b"f", &file(0o600)).unwrap().attr;
    let mode = |mode| SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    let change = |value| XattrChange {
        name: b"system.posix_acl_access",
        value,
    };
    let mut out = PVec::new();
    for (bits, value) in [
        (0o640, Some(&b"small"[..])),
        (0o644, Some(&[5; 9000][..])),
        (0o600, None),
        (0o700, None),
        (0o777, Some(b"again")),
    ] {
        let before = fs.sequence();
        let attr = fs
            .setattr_with(f.ino, &mode(bits), Some(&change(value)))
            .unwrap();
        assert_eq!(fs.sequence(), before + 1, "one record");
        assert_eq!(attr.mode & 0o7777, bits);
        let got = fs.getxattr(f.ino, b"system.posix_acl_access", &mut out);
        match value {
            Some(value) => assert_eq!((got, &out[..]), (Ok(()), value)),
            None => assert_eq!(got, Err(Error::NoData)),
        }
    }
    let long = [0; 65537];
    let refused = fs.setattr_with(f.ino, &mode(0), Some(&change(Some(&long))));
    assert_eq!(refused.unwrap_err(), Error::Range);
    assert_eq!(fs.getattr(f.ino).unwrap().mode & 0o7777, 0o777);
    fs.unmount().unwrap();
}

#[test]
fn a_bad_copy_of_metadata_is_healed() {
    let ram = new_volume(64 << 20, 16384);
    let fs = ram.mount();
    for i in 0..2000 {
        fs.create(ROOT_INO, format!("n{i}").as_bytes(), &file(0o644))
            .unwrap();
    }
    fs.unmount().unwrap();
    // Every node's first copy is damaged.
    let mut damaged = 0;
    {
        let mut d = ram.0.lock().unwrap();
        let magic = u32::to_le_bytes(aegisfs_engine::format::node::NODE_MAGIC);
        let mut seen = std::collections::HashSet::new();
        for at in (0..d.len()).step_by(4096) {
            if d[at..at + 4] == magic && seen.insert(d[at + 24..at + 48].to_vec()) {
                d[at + 3000] ^= 0x10;
                damaged += 1;
            }
        }
    }
    assert!(damaged > 10);
    let fs = ram.mount();
    assert_eq!(names(&fs, ROOT_INO).len(), 2000);
    assert!(fs.counters().healed > 5, "{:?}", fs.counters());
    fs.unmount().unwrap();
}

/// The VFS shows what the operation gave, and does not ask again.
#[test]
fn operations_on_names_give_what_getattr_gives() {
    let ram = new_volume(64 << 20, 16384);
    let fs = ram.mount();
    let named = |got: Named| {
        assert_eq!(fs.getattr(got.attr.ino).unwrap(), got.attr);
        assert_eq!(fs.getattr(got.dir.ino).unwrap(), got.dir);
        got.attr.ino
    };
    let renamed = |from: (u64, &[u8]), to: (u64, &[u8]), mode| {
        let got = fs.rename(from.0, from.1, to.0, to.1, mode).unwrap();
        assert_eq!(got.from.ino, from.0);
        assert_eq!(got.to.map_or(from.0, |dir| dir.ino), to.0);
        for attr in [Some(got.from), got.to, Some(got.moved), got.target]
            .into_iter()
            .flatten()
        {
            assert_eq!(fs.getattr(attr.ino).unwrap(), attr);
        }
        (got.moved.ino, got.target.map(|attr| (attr.ino, attr.nlink)))
    };
    let a = named(fs.create(ROOT_INO, b"a", &directory()).unwrap());
    let b = named(fs.create(ROOT_INO, b"b", &directory()).unwrap());
    let f = named(fs.create(a, b"f", &file(0o644)).unwrap());
    let g = named(fs.create(a, b"g", &file(0o644)).unwrap());
    let sub = named(fs.create(b, b"sub", &directory()).unwrap());
    assert_eq!(named(fs.link(f, b, b"f2").unwrap()), f);

    let replace = RenameMode::Replace;
    assert_eq!(renamed((a, b"f"), (b, b"f2"), replace), (f, None)); // One inode: nothing is done.
    assert_eq!(renamed((a, b"g"), (a, b"h"), replace), (g, None));
    assert_eq!(renamed((b, b"sub"), (a, b"sub"), replace), (sub, None));
    let exchanged = renamed((a, b"sub"), (b, b"f2"), RenameMode::Exchange);
    assert_eq!(exchanged, (sub, Some((f, 2))));
    let within = renamed((a, b"f"), (a, b"h"), RenameMode::Exchange);
    assert_eq!(within, (f, Some((g, 1))));
    assert_eq!(renamed((a, b"f"), (a, b"h"), replace), (g, Some((f, 1))));
    assert_eq!(renamed((a, b"h"), (a, b"sub"), replace), (g, Some((f, 0))));
    let whiteout = RenameMode::Whiteout { uid: 1, gid: 2 };
    assert_eq!(renamed((a, b"sub"), (b, b"i"), whiteout), (g, None));

    assert_eq!(named(fs.unlink(b, b"i").unwrap()), g);
    assert_eq!(named(fs.rmdir(b, b"f2").unwrap()), sub);
    fs.unmount().unwrap();
}
