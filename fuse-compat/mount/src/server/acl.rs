// SPDX-License-Identifier: GPL-2.0-only
//! POSIX access control lists, in the form of their extended attributes (version 2).
//!
//! The kernel checks them. The server keeps the mode bits and the list in step: the permission
//! bits of owner, group class and others are entries of the list, seen in another way.

use super::refusal::{Refusal, Result};

/// Attribute of the list that decides about access.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Attribute of the list that a directory passes on.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// The identifier of entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// Whom an entry is about. The order is that of a valid list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User,
    Group,
    NamedGroup,
    Mask,
    Other,
}

impl Tag {
    const ALL: [(Self, u16); 6] = [
        (Self::Owner, 0x01),
        (Self::User, 0x02),
        (Self::Group, 0x04),
        (Self::NamedGroup, 0x08),
        (Self::Mask, 0x10),
        (Self::Other, 0x20),
    ];

    fn from_number(n: u16) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, number)| *number == n)
            .map(|(tag, _)| *tag)
    }

    fn number(self) -> u16 {
        Self::ALL
            .iter()
            .find(|(tag, _)| *tag == self)
            .map_or(0, |(_, number)| *number)
    }

    fn is_named(self) -> bool {
        matches!(self, Self::User | Self::NamedGroup)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    permissions: u16,
    id: u32,
}

/// A valid list.
///
/// Invariant: in order of tags and identifiers, without repetition; exactly one entry each for
/// owner, group and others; a mask if anybody is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// Reads an attribute's value. An empty list means no list.
    ///
    /// # Errors
    /// `EINVAL` for bytes that are no valid list, `EOPNOTSUPP` for another version.
    pub fn parse(value: &[u8]) -> Result<Option<Self>> {
        let (header, body) = value.split_at_checked(HEADER).ok_or(Refusal::INVALID)?;
        if header != VERSION.to_le_bytes() {
            return Err(Refusal::UNSUPPORTED);
        }
        let chunks = body.chunks_exact(ENTRY);
        if !chunks.remainder().is_empty() {
            return Err(Refusal::INVALID);
        }
        let entries: Option<Vec<Entry>> = chunks.map(parse_entry).collect();
        let acl = Self(entries.ok_or(Refusal::INVALID)?);
        if acl.0.is_empty() {
            return Ok(None);
        }
        if acl.is_valid() {
            Ok(Some(acl))
        } else {
            Err(Refusal::INVALID)
        }
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|e| e.tag == tag).count();
        let named = self.0.iter().any(|e| e.tag.is_named());
        let ordered = self.0.windows(2).all(|pair| {
            let key = |e: &Entry| (e.tag, if e.tag.is_named() { e.id } else { 0 });
            key(&pair[0]) < key(&pair[1])
        });
        let mask_fits = count(Tag::Mask) == 1 || (count(Tag::Mask) == 0 && !named);
        let complete = [Tag::Owner, Tag::Group, Tag::Other]
            .iter()
            .all(|t| count(*t) == 1);
        ordered && mask_fits && complete
    }

    /// The attribute's value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + ENTRY * self.0.len());
        out.extend(VERSION.to_le_bytes());
        for entry in &self.0 {
            out.extend(entry.tag.number().to_le_bytes());
            out.extend(entry.permissions.to_le_bytes());
            out.extend(entry.id.to_le_bytes());
        }
        out
    }

    /// It says no more than mode bits can: no attribute is needed.
    pub fn is_plain(&self) -> bool {
        self.0.len() == 3
    }

    /// The nine permission bits that the list stands for.
    pub fn mode(&self) -> u32 {
        self.bits(Tag::Owner) << 6 | self.bits(self.group_class()) << 3 | self.bits(Tag::Other)
    }

    /// What the group bits of a mode show: the mask, if there is one.
    fn group_class(&self) -> Tag {
        let masked = self.0.iter().any(|e| e.tag == Tag::Mask);
        if masked {
            Tag::Mask
        } else {
            Tag::Group
        }
    }

    fn bits(&self, tag: Tag) -> u32 {
        self.0
            .iter()
            .find(|e| e.tag == tag)
            .map_or(0, |e| e.permissions.into())
    }

    fn update(&mut self, change: impl Fn(Tag, u32) -> u32) {
        for entry in &mut self.0 {
            let bits = change(entry.tag, entry.permissions.into()) & 7;
            entry.permissions = u16::try_from(bits).unwrap_or(0);
        }
    }

    /// Follows a chmod.
    pub fn set_mode(&mut self, mode: u32) {
        let class = self.group_class();
        self.update(|tag, old| match tag {
            Tag::Owner => mode >> 6,
            Tag::Other => mode,
            tag if tag == class => mode >> 3,
            _ => old,
        });
    }

    /// Becomes the access list of a new inode made with `mode`; gives the mode that results.
    pub fn restrict_to_mode(&mut self, mode: u32) -> u32 {
        let class = self.group_class();
        self.update(|tag, old| match tag {
            Tag::Owner => old & mode >> 6,
            Tag::Other => old & mode,
            tag if tag == class => old & mode >> 3,
            _ => old,
        });
        mode & !0o777 | self.mode()
    }
}

fn parse_entry(bytes: &[u8]) -> Option<Entry> {
    let number = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let tag = Tag::from_number(number(0)?)?;
    let permissions = number(2)?;
    let id = u32::from_le_bytes(bytes.get(4..ENTRY)?.try_into().ok()?);
    let id = if tag.is_named() { id } else { NOBODY };
    let named_is_somebody = !tag.is_named() || id != NOBODY;
    (permissions <= 7 && named_is_somebody).then_some(Entry {
        tag,
        permissions,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::Acl;

    /// A list from (tag number, permissions, identifier).
    fn bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(permissions.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    const PLAIN: [(u16, u16, u32); 3] = [(1, 6, u32::MAX), (4, 4, u32::MAX), (0x20, 0, u32::MAX)];
    const NAMED: [(u16, u16, u32); 5] = [
        (1, 7, u32::MAX),
        (2, 6, 1000),
        (4, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 5, u32::MAX),
    ];

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl::parse(&bytes(entries)).unwrap().unwrap()
    }

    #[test]
    fn round_trip() {
        for entries in [&PLAIN[..], &NAMED[..]] {
            assert_eq!(acl(entries).to_bytes(), bytes(entries));
        }
        assert_eq!(Acl::parse(&bytes(&[])), Ok(None));
    }

    #[test]
    fn invalid_lists() {
        let mut unordered = NAMED;
        unordered.swap(0, 1);
        let twice = [NAMED[0], NAMED[1], NAMED[1], NAMED[2], NAMED[3], NAMED[4]];
        let without_mask = [NAMED[0], NAMED[1], NAMED[2], NAMED[4]];
        let without_other = [PLAIN[0], PLAIN[1]];
        let too_much = [(1, 8, u32::MAX), PLAIN[1], PLAIN[2]];
        let nobody = [NAMED[0], (2, 6, u32::MAX), NAMED[2], NAMED[3], NAMED[4]];
        let lists: [&[_]; 6] = [
            &unordered,
            &twice,
            &without_mask,
            &without_other,
            &too_much,
            &nobody,
        ];
        for list in lists {
            assert!(Acl::parse(&bytes(list)).is_err(), "{list:?}");
        }
        for cut in [0, 3, 5, 11] {
            assert!(Acl::parse(&bytes(&PLAIN)[..cut]).is_err(), "{cut}");
        }
        assert!(Acl::parse(&[9, 0, 0, 0]).is_err());
    }

    #[test]
    fn modes() {
        assert_eq!(acl(&PLAIN).mode(), 0o640);
        assert!(acl(&PLAIN).is_plain());
        assert_eq!(acl(&NAMED).mode(), 0o775);
        assert!(!acl(&NAMED).is_plain());
        let mut changed = acl(&NAMED);
        changed.set_mode(0o600);
        // The mask goes to nothing; the group's own entry stays.
        let expected = [
            (1, 6, u32::MAX),
            NAMED[1],
            NAMED[2],
            (0x10, 0, u32::MAX),
            (0x20, 0, u32::MAX),
        ];
        assert_eq!(changed.to_bytes(), bytes(&expected));
    }

    #[test]
    fn inheritance() {
        let mut access = acl(&NAMED);
        assert_eq!(access.restrict_to_mode(0o100_666), 0o100_664);
        let expected = [
            (1, 6, u32::MAX),
            NAMED[1],
            NAMED[2],
            (0x10, 6, u32::MAX),
            (0x20, 4, u32::MAX),
        ];
        assert_eq!(access.to_bytes(), bytes(&expected));
    }
}
