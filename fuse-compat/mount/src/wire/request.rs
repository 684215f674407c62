// SPDX-License-Identifier: GPL-2.0-only
//! Requests: a header, fixed fields, names ended by zero bytes, data.

use super::abi::IN_HEADER;

/// Bytes that are missing or left over: not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A request of the kernel's.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Operation, see [`super::abi::op`].
    pub op: u32,
    /// Number that the reply has to bear.
    pub unique: u64,
    /// Inode that it is about.
    pub node: u64,
    /// Caller.
    pub uid: u32,
    /// Caller's group.
    pub gid: u32,
    /// The rest.
    pub body: Fields<'a>,
}

impl<'a> Request<'a> {
    /// Takes the header off.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut head = Fields(bytes.get(..IN_HEADER).ok_or(Malformed)?);
        let len = head.u32()? as usize;
        let request = Self {
            op: head.u32()?,
            unique: head.u64()?,
            node: head.u64()?,
            uid: head.u32()?,
            gid: head.u32()?,
            body: Fields(bytes.get(IN_HEADER..len).ok_or(Malformed)?),
        };
        Ok(request)
    }
}

/// Fields yet to be read, little-endian one after another.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next `N` bytes.
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Passes over fields that do not matter here.
    pub fn skip(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.0 = self.0.get(bytes..).ok_or(Malformed)?;
        Ok(())
    }

    /// A name, up to its zero byte.
    pub fn name(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|c| *c == 0).ok_or(Malformed)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Ok(name)
    }

    /// Exactly `len` bytes of data.
    pub fn data(&mut self, len: u32) -> Result<&'a [u8], Malformed> {
        let (data, rest) = self.0.split_at_checked(len as usize).ok_or(Malformed)?;
        self.0 = rest;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Request};

    fn bytes(len: u32, body: &[u8]) -> Vec<u8> {
        let mut b = len.to_le_bytes().to_vec();
        b.extend(1_u32.to_le_bytes());
        b.extend(77_u64.to_le_bytes());
        b.extend(5_u64.to_le_bytes());
        b.extend(
            [
                1000_u32.to_le_bytes(),
                100_u32.to_le_bytes(),
                [9; 4],
                [0; 4],
            ]
            .concat(),
        );
        b.extend(body);
        b
    }

    #[test]
    fn fields() {
        let raw = bytes(40 + 12, b"\x07\0\0\0ab\0c\0xyz");
        let mut r = Request::parse(&raw).unwrap();
        assert_eq!(
            (r.op, r.unique, r.node, r.uid, r.gid),
            (1, 77, 5, 1000, 100)
        );
        assert_eq!(r.body.u32(), Ok(7));
        assert_eq!(r.body.name(), Ok(&b"ab"[..]));
        assert_eq!(r.body.name(), Ok(&b"c"[..]));
        assert_eq!(r.body.name(), Err(Malformed));
        assert_eq!(r.body.data(4), Err(Malformed));
        assert_eq!(r.body.data(3), Ok(&b"xyz"[..]));
        assert_eq!(r.body.u64(), Err(Malformed));
    }

    #[test]
    fn cut_requests() {
        assert!(Request::parse(&[]).is_err());
        assert!(Request::parse(&bytes(40, b"")[..39]).is_err());
        assert!(Request::parse(&bytes(41, b"")).is_err());
        assert!(Request::parse(&bytes(39, b"")).is_err());
        assert!(Request::parse(&bytes(40, b"")).is_ok());
    }
}
