// SPDX-License-Identifier: GPL-2.0-only
//! Which volume is mounted where, from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// What: a device or an image file.
    pub source: PathBuf,
    /// Type of filesystem.
    pub kind: String,
    /// Options of the mount and of the filesystem.
    pub options: String,
}

impl Mount {
    /// An AegisFS, through the kernel or through FUSE.
    #[must_use]
    pub fn is_aegisfs(&self) -> bool {
        matches!(self.kind.as_str(), "aegisfs" | "fuse.aegisfs")
    }
}

/// All mounts that this process sees, in order of mounting.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn all() -> io::Result<Vec<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|c| *c == b'\n').filter_map(parse).collect())
}

/// The AegisFS mounted at `point`, if there is one (the topmost of several).
///
/// # Errors
/// When `/proc` or `point` cannot be read.
pub fn at(point: &Path) -> io::Result<Option<Mount>> {
    let point = point.canonicalize()?;
    Ok(all()?
        .into_iter()
        .rev()
        .find(|m| m.point == point)
        .filter(Mount::is_aegisfs))
}

/// All mounts of the AegisFS on `source`.
///
/// # Errors
/// When `/proc` or `source` cannot be read.
pub fn of(source: &Path) -> io::Result<Vec<Mount>> {
    let source = source.canonicalize()?;
    let same = |m: &Mount| m.source.canonicalize().is_ok_and(|s| s == source);
    Ok(all()?
        .into_iter()
        .filter(|m| m.is_aegisfs() && same(m))
        .collect())
}

/// `36 35 98:0 /root /point options optional... - type source super-options`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|c| *c == b' ');
    let point = unescape(fields.nth(4)?);
    let own = String::from_utf8_lossy(fields.next()?).into_owned();
    fields.find(|f| *f == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    let shared = String::from_utf8_lossy(fields.next().unwrap_or(&[])).into_owned();
    Some(Mount {
        point: point.into(),
        source: source.into(),
        kind,
        options: format!("{own},{shared}"),
    })
}

/// The kernel writes blanks, newlines and backslashes as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0_u8, |n, d| match d {
                b'0'..=b'7' => n.checked_mul(8)?.checked_add(d - b'0'),
                _ => None,
            })
        };
        let escaped = tail.get(..3).filter(|_| first == b'\\');
        out.push(escaped.and_then(octal).unwrap_or(first));
        rest = match escaped.and_then(octal) {
            Some(_) => &tail[3..],
            None => tail,
        };
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::{parse, Mount};

    #[test]
    fn lines_of_mountinfo() {
        let line =
            br"66 29 0:53 / /mnt/a\040b rw,nosuid shared:32 - fuse.aegisfs /img\134x rw,user_id=0";
        let expected = Mount {
            point: "/mnt/a b".into(),
            source: r"/img\x".into(),
            kind: "fuse.aegisfs".into(),
            options: "rw,nosuid,rw,user_id=0".into(),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b"66 29 0:53 / /mnt rw"), None);
        assert_eq!(parse(b""), None);
    }
}
