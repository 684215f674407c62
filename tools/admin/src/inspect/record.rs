// SPDX-License-Identifier: GPL-2.0-only
//! Records of the trees in words.

use aegisfs_engine::format::health::{
    decode_bad_block, decode_device_stats, decode_scrub, decode_scrub_damage,
};
use aegisfs_engine::format::key::{kind, Key};
use aegisfs_engine::format::quota::{decode_grace, decode_quota};
use aegisfs_engine::format::record::{
    decode_inode, Dirent, Extent, ExtentKind, Shared, Shift, Subvolume, Xattr,
};
use aegisfs_engine::{DeviceEvent, QuotaType};
use aegisfs_tools::output::printable;

/// What a record of a kind is called.
pub fn kind_name(n: u8) -> &'static str {
    match n {
        kind::INODE => "inode",
        kind::INLINE => "inline",
        kind::XATTR => "xattr",
        kind::XATTR_BODY => "xattr_body",
        kind::DIRENT => "dirent",
        kind::EXTENT => "extent",
        kind::ORPHAN => "orphan",
        kind::SHIFT => "shift",
        kind::SUBVOLUME => "subvolume",
        kind::DEADLIST => "deadlist",
        kind::SHARED => "shared",
        kind::QUOTA => "quota",
        kind::QUOTA_INFO => "quota_info",
        kind::SCRUB => "scrub",
        kind::SCRUB_DAMAGE => "scrub_damage",
        kind::DEVICE_STATS => "device_stats",
        kind::BAD_BLOCK => "bad_block",
        _ => "unknown",
    }
}

/// The value in words; `None` for bytes that are no such record.
pub fn describe(key: &Key, value: &[u8]) -> Option<String> {
    Some(match key.kind {
        kind::INODE => {
            let a = decode_inode(key.object, value)?;
            format!(
                "mode {:o} links {} owner {}:{} project {} size {} blocks {} generation {}{}",
                a.mode,
                a.nlink,
                a.uid,
                a.gid,
                a.project,
                a.size,
                a.blocks,
                a.generation,
                if a.inline { " inline" } else { "" }
            )
        }
        kind::DIRENT => {
            let d = Dirent::decode(value)?;
            format!(
                "\"{}\" -> inode {} type {}",
                printable(d.name),
                d.ino,
                d.kind
            )
        }
        kind::XATTR => {
            let x = Xattr::decode(value)?;
            format!("{} {} bytes", printable(x.name), x.len)
        }
        kind::EXTENT => {
            let e = Extent::decode(value)?;
            let what = match e.kind {
                ExtentKind::Data => "data",
                ExtentKind::Unwritten => "unwritten",
            };
            let at: Vec<u64> = e.replicas().collect();
            let shared = if e.shared { " may be shared" } else { "" };
            format!(
                "{what} {} blocks at {at:?} birth {}{shared}",
                e.blocks, e.birth
            )
        }
        kind::SHIFT => {
            let s = Shift::decode(value)?;
            format!(
                "{} {} blocks at {}, cursor {}",
                if s.insert { "put in" } else { "take out" },
                s.blocks,
                s.at,
                s.cursor
            )
        }
        kind::SHARED => {
            let s = Shared::decode(value)?;
            format!("{} blocks, {} references", s.blocks, s.count)
        }
        kind::SUBVOLUME => {
            let s = Subvolume::decode(value)?;
            let at: Vec<u64> = s.root.replicas().collect();
            format!(
                "root {at:?} level {} inodes {} next {}",
                s.level, s.inodes, s.next_ino
            )
        }
        kind::QUOTA => {
            let q = decode_quota(value)?;
            let of = QuotaType::from_number(key.object)?;
            format!(
                "{} {}: {} bytes (soft {} hard {} deadline {}), {} inodes (soft {} hard {} deadline {})",
                of.as_str(),
                key.offset,
                q.space,
                q.space_soft,
                q.space_hard,
                q.space_deadline,
                q.inodes,
                q.inodes_soft,
                q.inodes_hard,
                q.inodes_deadline
            )
        }
        kind::QUOTA_INFO => {
            let grace = decode_grace(value)?;
            let text = QuotaType::ALL.iter().zip(grace).map(|(of, g)| {
                format!("{} {} s space, {} s inodes", of.as_str(), g.space, g.inodes)
            });
            format!("grace times: {}", text.collect::<Vec<_>>().join("; "))
        }
        kind::SCRUB | kind::SCRUB_DAMAGE | kind::DEVICE_STATS | kind::BAD_BLOCK => {
            describe_health(key, value)?
        }
        _ => format!("{} bytes", value.len()),
    })
}

/// Records of health in words.
fn describe_health(key: &Key, value: &[u8]) -> Option<String> {
    Some(match key.kind {
        kind::SCRUB => {
            let (s, cursor) = decode_scrub(value)?;
            format!(
                "job {} {}, {} of {} bytes, bad copies: metadata {} data {} rewritten {}, lost: \
                 metadata {} data {}, goes on with {:?} {} ({}, {}, {})",
                s.id,
                s.state.as_str(),
                s.done,
                s.total,
                s.metadata_errors,
                s.data_errors,
                s.healed,
                s.metadata_lost,
                s.data_lost,
                cursor.phase,
                cursor.index,
                cursor.key.object,
                cursor.key.kind,
                cursor.key.offset
            )
        }
        kind::SCRUB_DAMAGE => {
            let d = decode_scrub_damage(value)?;
            format!("inode {}, {} blocks at {}", d.ino, d.blocks, d.block)
        }
        kind::BAD_BLOCK => {
            let bad = decode_bad_block(key, value)?;
            let (device, block) = (bad.device, bad.block);
            format!("device {device}, block {block}: {}", bad.cause.as_str())
        }
        _ => {
            let stats = decode_device_stats(value)?;
            let text = DeviceEvent::ALL.map(|e| format!("{} {}", e.as_str(), stats.get(e)));
            format!("device {}: {}", key.object, text.join(" "))
        }
    })
}
