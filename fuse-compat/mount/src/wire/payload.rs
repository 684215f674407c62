// SPDX-License-Identifier: GPL-2.0-only
//! Replies: what follows the header. One buffer a thread, which grows to the largest reply and
//! is not cleared between them.

/// Alignment of directory entries.
const ENTRY_ALIGN: usize = 8;

/// The reply under construction.
#[derive(Debug, Default)]
pub struct Payload {
    bytes: Vec<u8>,
    len: usize,
}

impl Payload {
    /// Begins anew.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// What is to be sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Appends `len` bytes of any content, to be filled in; [`Payload::cut`] takes unused ones away.
    pub fn space(&mut self, len: usize) -> &mut [u8] {
        let from = self.len;
        self.len += len;
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len, 0);
        }
        &mut self.bytes[from..self.len]
    }

    /// Shortens to `len` bytes.
    pub fn cut(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub fn put(&mut self, data: &[u8]) {
        self.space(data.len()).copy_from_slice(data);
    }

    pub fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// The lower half of `value`.
    pub fn low(&mut self, value: u64) {
        self.u32(u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0));
    }

    pub fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }

    pub fn zeros(&mut self, len: usize) {
        self.space(len).fill(0);
    }

    /// Bytes of a directory entry with a name of `name` bytes.
    pub const fn entry_len(name: usize) -> usize {
        (24 + name).next_multiple_of(ENTRY_ALIGN)
    }

    /// Appends a directory entry; `next` is the position after it.
    pub fn entry(&mut self, ino: u64, next: u64, kind: u8, name: &[u8]) {
        self.u64(ino);
        self.u64(next);
        self.u32(u32::try_from(name.len()).unwrap_or(0));
        self.u32(kind.into());
        self.put(name);
        self.zeros(Self::entry_len(name.len()) - 24 - name.len());
    }
}

#[cfg(test)]
mod tests {
    use super::Payload;

    #[test]
    fn grows_and_begins_anew() {
        let mut p = Payload::default();
        p.u32(0x0102_0304);
        p.space(10).fill(9);
        p.cut(6);
        assert_eq!(p.bytes(), [4, 3, 2, 1, 9, 9]);
        p.clear();
        assert!(p.bytes().is_empty());
        p.zeros(2);
        assert_eq!(p.bytes(), [0, 0]);
    }

    #[test]
    fn directory_entries_are_padded() {
        let mut p = Payload::default();
        for name in [&b"a"[..], b"12345678", b"123456789"] {
            let before = p.bytes().len();
            p.entry(5, 6, 4, name);
            assert_eq!(p.bytes().len() - before, Payload::entry_len(name.len()));
            assert_eq!(p.bytes().len() % 8, 0);
        }
        assert_eq!(&p.bytes()[16..25], b"\x01\0\0\0\x04\0\0\0a");
    }
}
