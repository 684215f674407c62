// SPDX-License-Identifier: GPL-2.0-only
//! Damage to records: inodes, names, attributes, extents, counters.

extern crate std;

use super::*;
use crate::format::bytes::{put_u32, put_u64};
use crate::format::record::{Extent, Xattr};
use crate::object::inode::orphan_key;

#[test]
fn the_sample_is_clean() {
    let ram = sample();
    let (summary, found) = ram.check_with(CheckOptions { data: true });
    assert_eq!(found, []);
    assert_eq!(
        (
            summary.inodes,
            summary.directories,
            summary.files,
            summary.symlinks
        ),
        (FILES + 6, 3, FILES + 2, 1)
    );
    assert_eq!(summary.data_verified, 40);
    assert_eq!(summary.data_blocks, 60);
    assert!(summary.nodes > 10 && summary.entries == FILES + 6);
}

#[test]
fn link_count() {
    for (path, counted) in [("d/inline", 2), ("d", 3), ("d/blocks", 1)] {
        let ram = sample();
        ram.tamper(|fs, tx| change(tx, at(fs, path).ino, |a| a.nlink += 3));
        let ino = stat(&ram, path).ino;
        assert_eq!(
            ram.check(),
            [Problem::LinkCount {
                ino,
                found: counted + 3,
                counted
            }]
        );
        ram.mended(&["link-count"]);
        assert_eq!(stat(&ram, path).nlink, counted);
    }
}

#[test]
fn a_link_count_of_zero_does_not_end_a_file_that_has_a_name() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "d/blocks").ino;
        change(tx, ino, |a| a.nlink = 0);
        tx.put(orphan_key(ino), &[]).unwrap();
    });
    ram.mended(&["link-count", "orphan-useless"]);
    let fs = ram.mount();
    let ino = at(&fs, "d/blocks").ino;
    let mut got = vec![0; content().len()];
    fs.read(ino, 0, &mut got).unwrap();
    assert!(got == content());
}

#[test]
fn block_count() {
    let ram = sample();
    ram.tamper(|fs, tx| change(tx, at(fs, "d/blocks").ino, |a| a.blocks = 7));
    ram.mended(&["block-count"]);
    assert_eq!(stat(&ram, "d/blocks").blocks, 30);
}

#[test]
fn data_beyond_end() {
    let ram = sample();
    ram.tamper(|fs, tx| change(tx, at(fs, "d/blocks").ino, |a| a.size = 5000));
    ram.mended(&["data-beyond-end"]);
    assert_eq!(stat(&ram, "d/blocks").size, 20 * BLOCK_SIZE as u64);
}

#[test]
fn inline_content() {
    let ram = sample();
    ram.tamper(|fs, tx| change(tx, at(fs, "d/inline").ino, |a| a.size = 100));
    ram.mended(&["inline-content"]);
    assert_eq!(stat(&ram, "d/inline").size, 16);
    // A symbolic link without a target cannot be.
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "link").ino;
        tx.delete(Key::new(ino, kind::INLINE, 0)).unwrap();
    });
    ram.left(&["inline-content"]);
}

#[test]
fn inline_flag() {
    let ram = sample();
    ram.tamper(|fs, tx| change(tx, at(fs, "d/inline").ino, |a| a.inline = false));
    ram.mended(&["inline-flag"]);
    assert!(stat(&ram, "d/inline").inline);
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "d/inline").ino;
        tx.delete(Key::new(ino, kind::INLINE, 0)).unwrap();
    });
    ram.mended(&["inline-flag"]);
    // Content of two kinds: nothing says which one is right.
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "d/blocks").ino;
        tx.put(Key::new(ino, kind::INLINE, 0), b"?").unwrap();
    });
    ram.left(&["inline-flag"]);
}

#[test]
fn inode_mode() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        change(tx, at(fs, "d/sub/file number 5").ino, |a| {
            a.mode = 0o030_644
        });
    });
    // The name has the type that it was made with.
    assert_eq!(ram.codes(), ["inode-mode", "entry-kind"]);
    ram.repair(CheckOptions::default());
    ram.left(&["inode-mode"]);
}

#[test]
fn inode_owner() {
    use crate::types::Owner;
    let ram = sample();
    ram.tamper(|fs, tx| {
        change(tx, at(fs, "d/sub/file number 5").ino, |a| {
            a.mode |= 0o6755;
            a.uid = Owner::NOBODY;
            a.gid = 7;
        });
        change(tx, at(fs, "d").ino, |a| {
            a.mode |= 0o2000;
            a.gid = Owner::NOBODY;
            a.project = Owner::NOBODY;
        });
    });
    assert_eq!(ram.check().len(), 2);
    ram.mended(&["inode-owner"]);
    let file = stat(&ram, "d/sub/file number 5");
    // A program is not root's because nobody knows whose it was.
    assert_eq!((file.uid, file.gid, file.mode & 0o7777), (0, 7, 0o755));
    let directory = stat(&ram, "d");
    assert_eq!((directory.gid, directory.project), (0, 0));
    assert_eq!(directory.mode & 0o2000, 0o2000);
}

#[test]
fn inode_invalid_and_unknown_records() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "d/sub/file number 5").ino;
        tx.put(Key::new(ino, kind::INODE, 0), b"no inode").unwrap();
    });
    assert_eq!(ram.codes(), ["record-invalid", "inode-count"]);
    // No inode, but counted as one.
    let ram = sample();
    let astray = Key::new(ROOT_INO, kind::INODE, 1);
    ram.tamper(|_, tx| tx.put(astray, b"what is this").unwrap());
    assert_eq!(ram.codes(), ["record-unknown", "inode-count"]);
    for key in [
        Key::new(0, 99, 3),
        Key::new(ROOT_INO, 77, 0),
        Key::new(ROOT_INO, kind::EXTENT, 0),
        Key::new(ROOT_INO, kind::INLINE, 0),
        Key::new(INO_END, kind::DIRENT, 0),
    ] {
        let ram = sample();
        ram.tamper(|_, tx| tx.put(key, b"what is this").unwrap());
        assert_eq!(ram.check(), [Problem::RecordUnknown { tree: TREE, key }]);
        ram.left(&["record-unknown"]);
    }
    let ram = sample();
    ram.tamper(|fs, tx| {
        let (cookie, _) = entry(fs, ROOT_INO, "link");
        let key = Key::new(ROOT_INO, kind::DIRENT, cookie);
        let mut e = record(tx, key);
        e.push(b'/');
        tx.put(key, &e).unwrap();
    });
    assert_eq!(
        ram.codes(),
        [
            "record-invalid",
            "directory-entries",
            "directory-size",
            "unreachable"
        ]
    );
}

#[test]
fn inode_missing() {
    // The inode's record alone is gone; its names and content are there.
    let ram = sample();
    let before = stat(&ram, "d/blocks");
    ram.tamper(|_, tx| tx.delete(Key::new(before.ino, kind::INODE, 0)).unwrap());
    assert_eq!(ram.codes(), ["inode-missing"]);
    ram.mended(&["inode-missing"]);
    let after = stat(&ram, "d/blocks");
    assert_eq!((after.ino, after.blocks, after.nlink), (before.ino, 30, 1));
    let fs = ram.mount();
    let mut got = vec![0; content().len()];
    fs.read(after.ino, 0, &mut got).unwrap();
    assert!(got == content());
    // A directory, with everything in it.
    let ram = sample();
    let before = stat(&ram, "d/sub");
    ram.tamper(|_, tx| tx.delete(Key::new(before.ino, kind::INODE, 0)).unwrap());
    ram.mended(&["inode-missing"]);
    let after = stat(&ram, "d/sub");
    assert_eq!(
        (after.entries, after.size, after.nlink, after.parent),
        (before.entries, before.size, before.nlink, before.parent)
    );
    // A symbolic link, which only its name tells from a file.
    let ram = sample();
    let ino = stat(&ram, "link").ino;
    ram.tamper(|_, tx| tx.delete(Key::new(ino, kind::INODE, 0)).unwrap());
    ram.mended(&["inode-missing"]);
    let fs = ram.mount();
    let mut out = PVec::new();
    fs.readlink(ino, &mut out).unwrap();
    assert_eq!(&out[..], b"d/inline");
}

#[test]
fn root_missing() {
    let ram = sample();
    ram.tamper(|_, tx| tx.delete(Key::new(ROOT_INO, kind::INODE, 0)).unwrap());
    ram.mended(&["inode-missing"]);
    assert_eq!(stat(&ram, "d/sub/hard link").nlink, 2);
}

#[test]
fn inode_counters() {
    let ram = sample();
    let fs = ram.mount();
    fs.state.write().subvolume.inodes += 11;
    fs.unmount().unwrap();
    ram.mended(&["inode-count"]);
    let ram = sample();
    let fs = ram.mount();
    fs.state.write().subvolume.next_ino = 5;
    fs.unmount().unwrap();
    assert_eq!(
        ram.check(),
        [Problem::NextInode {
            found: 5,
            needed: FILES + 7
        }]
    );
    ram.mended(&["next-inode"]);
}

#[test]
fn directory_counters() {
    let ram = sample();
    ram.tamper(|fs, tx| change(tx, at(fs, "d/sub").ino, |a| a.entries += 1));
    ram.mended(&["directory-entries"]);
    let ram = sample();
    ram.tamper(|fs, tx| change(tx, at(fs, "d/sub").ino, |a| a.size += 1));
    ram.mended(&["directory-size"]);
    let ram = sample();
    ram.tamper(|fs, tx| change(tx, at(fs, "d/sub").ino, |a| a.parent = 99));
    ram.mended(&["directory-parent"]);
    assert_eq!(stat(&ram, "d/sub").parent, stat(&ram, "d").ino);
}

#[test]
fn entry_dangling() {
    for ino in [4711, 1 << 62] {
        let ram = sample();
        ram.tamper(|fs, tx| {
            let cookie = name_cookie(fs.hash_seed, b"nowhere");
            add_entry(tx, ROOT_INO, cookie, "nowhere", ino, 8);
        });
        ram.mended(&["entry-dangling"]);
    }
}

#[test]
fn entry_kind() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let (cookie, mut e) = entry(fs, ROOT_INO, "link");
        e[8] = 8;
        tx.put(Key::new(ROOT_INO, kind::DIRENT, cookie), &e)
            .unwrap();
    });
    ram.mended(&["entry-kind"]);
}

#[test]
fn entry_cookie() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let (cookie, e) = entry(fs, ROOT_INO, "link");
        tx.delete(Key::new(ROOT_INO, kind::DIRENT, cookie)).unwrap();
        tx.put(Key::new(ROOT_INO, kind::DIRENT, 5000), &e).unwrap();
    });
    ram.mended(&["entry-cookie"]);
    stat(&ram, "link");
}

#[test]
fn entry_duplicate() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let (cookie, _) = entry(fs, ROOT_INO, "link");
        let ino = at(fs, "d/blocks").ino;
        add_entry(tx, ROOT_INO, cookie + 1, "link", ino, 8);
        change(tx, ino, |a| a.nlink += 1);
    });
    ram.mended(&["entry-duplicate"]);
    assert_eq!(stat(&ram, "link~1").ino, stat(&ram, "d/blocks").ino);
}

#[test]
fn directory_linked() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let cookie = name_cookie(fs.hash_seed, b"second");
        add_entry(tx, ROOT_INO, cookie, "second", at(fs, "d/sub").ino, 4);
    });
    ram.mended(&["directory-linked", "link-count"]);
    stat(&ram, "d/sub");
    // A name of the root itself.
    let ram = sample();
    ram.tamper(|fs, tx| {
        let cookie = name_cookie(fs.hash_seed, b"root");
        add_entry(tx, at(fs, "d").ino, cookie, "root", ROOT_INO, 4);
    });
    ram.mended(&["directory-linked", "link-count"]);
}

#[test]
fn unreachable() {
    // A file, and a directory with what is in it.
    for (dir, name) in [("d", "blocks"), ("d", "sub")] {
        let ram = sample();
        let before = stat(&ram, &format!("{dir}/{name}"));
        ram.tamper(|fs, tx| {
            let d = at(fs, dir).ino;
            let (cookie, _) = entry(fs, d, name);
            remove_entry(fs, tx, d, cookie, name);
        });
        ram.mended(&["unreachable"]);
        let after = stat(&ram, &format!("lost+found/#{}", before.ino));
        assert_eq!((after.ino, after.nlink), (before.ino, before.nlink));
        assert_eq!(stat(&ram, "lost+found").mode, MODE_DIR | 0o700);
    }
    // The name of the directory for it is taken by something else.
    let ram = sample();
    let fs = ram.mount();
    fs.create(ROOT_INO, b"lost+found", &file()).unwrap();
    let a = fs.create_unnamed(ROOT_INO, &file()).unwrap();
    let mut tx = fs.begin(Class::Reserve).unwrap();
    tx.delete(orphan_key(a.ino)).unwrap();
    tx.commit().unwrap();
    fs.unmount().unwrap();
    ram.mended(&["unreachable"]);
    stat(&ram, &format!("lost+found~/#{}", a.ino));
}

#[test]
fn directory_loop() {
    let ram = sample();
    let fs = ram.mount();
    let sub = at(&fs, "d/sub").ino;
    let deep = fs.create(sub, b"deep", &directory()).unwrap().attr;
    fs.create(deep.ino, b"file", &file()).unwrap();
    fs.unmount().unwrap();
    // "sub" goes from "d" into "deep", which is in it.
    ram.tamper(|fs, tx| {
        let d = at(fs, "d").ino;
        let (cookie, _) = entry(fs, d, "sub");
        remove_entry(fs, tx, d, cookie, "sub");
        add_entry(tx, deep.ino, cookie, "sub", sub, 4);
        change(tx, sub, |a| a.parent = deep.ino);
    });
    ram.mended(&["directory-loop"]);
    assert_eq!(stat(&ram, &format!("lost+found/#{sub}/deep")).ino, deep.ino);
}

#[test]
fn orphans() {
    // All in one mount: the next one finishes what is unfinished.
    let ram = sample();
    let fs = ram.mount();
    let a = fs.create_unnamed(ROOT_INO, &file()).unwrap();
    fs.write(a.ino, 0, &content()).unwrap();
    let mut tx = fs.begin(Class::Reserve).unwrap();
    tx.put(orphan_key(999_999), &[]).unwrap();
    tx.commit().unwrap();
    fs.unmount().unwrap();
    assert_eq!(ram.codes(), ["orphan-useless", "unfinished-deletion"]);
    ram.mended(&["orphan-useless", "unfinished-deletion"]);
    assert_eq!(ram.mount_read_only().getattr(a.ino), Err(Error::Stale));
    // A directory that has names is not being deleted.
    let ram = sample();
    ram.tamper(|fs, tx| tx.put(orphan_key(at(fs, "d").ino), &[]).unwrap());
    ram.mended(&["orphan-useless"]);
}

#[test]
fn xattr_cookie() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "link").ino;
        let cookie = name_cookie(fs.hash_seed, b"user.small");
        let value = record(tx, Key::new(ino, kind::XATTR, cookie));
        tx.delete(Key::new(ino, kind::XATTR, cookie)).unwrap();
        tx.put(Key::new(ino, kind::XATTR, 3), &value).unwrap();
    });
    ram.mended(&["xattr-cookie"]);
    let fs = ram.mount();
    let mut out = PVec::new();
    fs.getxattr(at(&fs, "link").ino, b"user.small", &mut out)
        .unwrap();
    assert_eq!(&out[..], b"1");
}

#[test]
fn xattr_body() {
    let ram = sample();
    let body = |fs: &Fs| {
        let ino = at(fs, "link").ino;
        let all = keys(fs);
        let mut parts = all
            .iter()
            .filter(|k| k.object == ino && k.kind == kind::XATTR_BODY);
        parts.nth(1).copied().unwrap()
    };
    ram.tamper(|fs, tx| tx.delete(body(fs)).unwrap());
    ram.mended(&["xattr-body"]);
    let fs = ram.mount();
    let mut out = PVec::new();
    let ino = at(&fs, "link").ino;
    assert_eq!(
        fs.getxattr(ino, b"user.large", &mut out),
        Err(Error::NoData)
    );
    fs.getxattr(ino, b"user.small", &mut out).unwrap();
}

#[test]
fn xattr_body_unused() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "link").ino;
        tx.put(Key::new(ino, kind::XATTR_BODY, 9 << 16), b"whose?")
            .unwrap();
    });
    ram.mended(&["xattr-body-unused"]);
}

#[test]
fn xattr_flag_and_invalid() {
    let ram = sample();
    ram.tamper(|fs, tx| change(tx, at(fs, "link").ino, |a| a.has_xattrs = false));
    ram.mended(&["xattr-flag"]);
    let ram = sample();
    ram.tamper(|fs, tx| {
        let x = Xattr {
            name: b"a\0b",
            len: 0,
            body: 0,
            value: &[],
        };
        let mut value = x.encode_header().to_vec();
        value.extend_from_slice(x.name);
        let cookie = name_cookie(fs.hash_seed, x.name);
        tx.put(Key::new(at(fs, "link").ino, kind::XATTR, cookie), &value)
            .unwrap();
    });
    ram.left(&["record-invalid"]);
}

/// The first extent of the file "blocks", changed.
fn tamper_extent(ram: &Ram, f: impl FnOnce(&mut Vec<u8>)) {
    ram.tamper(|fs, tx| {
        let key = Key::new(at(fs, "d/blocks").ino, kind::EXTENT, 0);
        let mut value = record(tx, key);
        assert_eq!(Extent::decode(&value).unwrap().blocks, 20);
        f(&mut value);
        tx.put(key, &value).unwrap();
    });
}

#[test]
fn extent_address() {
    let ram = sample();
    tamper_extent(&ram, |v| put_u64(v, 24, 1 << 40));
    assert_eq!(ram.codes(), ["extent-address", "blocks-leaked"]);
    ram.repair(CheckOptions::default());
    ram.left(&["extent-address"]);
}

#[test]
fn extent_birth() {
    let ram = sample();
    tamper_extent(&ram, |v| put_u64(v, 8, 1 << 40));
    ram.mended(&["extent-birth"]);
}

#[test]
fn extent_invalid() {
    let ram = sample();
    tamper_extent(&ram, |v| put_u32(v, 0, 21));
    assert_eq!(
        ram.codes(),
        ["record-invalid", "block-count", "blocks-leaked"]
    );
}

#[test]
fn extent_overlap_and_blocks_shared() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "d/blocks").ino;
        let value = record(tx, Key::new(ino, kind::EXTENT, 0));
        tx.put(Key::new(ino, kind::EXTENT, 10), &value).unwrap();
        change(tx, ino, |a| {
            a.blocks += 20;
            a.size = 30 * BLOCK_SIZE as u64;
        });
    });
    ram.left(&["extent-overlap", "blocks-shared"]);
}
