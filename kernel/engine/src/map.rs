// SPDX-License-Identifier: GPL-2.0-only
//! A hash map from block addresses to anything, open addressing with linear probing.
//!
//! The kernel offers neither `HashMap` nor `BTreeMap`. Growth is fallible and can be done ahead
//! ([`Map::try_reserve`]), so that insertions inside an operation cannot fail.

#[cfg(test)]
mod tests;

use aegisfs_platform::{AllocError, Vec};

/// Map keyed by `u64`.
pub struct Map<V> {
    slots: Vec<Option<(u64, V)>>,
    len: usize,
}

impl<V> Map<V> {
    /// Empty, without memory.
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
        }
    }

    /// Number of entries.
    pub const fn len(&self) -> usize {
        self.len
    }

    fn home(&self, key: u64) -> usize {
        // Multiplicative hashing: addresses of nodes differ in few low bits.
        let h = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        h as usize & (self.slots.len().wrapping_sub(1))
    }

    fn find(&self, key: u64) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut i = self.home(key);
        loop {
            match self.slots.get(i)? {
                Some((k, _)) if *k == key => return Some(i),
                Some(_) => i = (i + 1) & mask,
                None => return None,
            }
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: u64) -> Option<&V> {
        self.find(key)
            .and_then(|i| self.slots.get(i)?.as_ref())
            .map(|(_, v)| v)
    }

    /// The value of `key`, to change.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let i = self.find(key)?;
        self.slots.get_mut(i)?.as_mut().map(|(_, v)| v)
    }

    /// Makes room: `additional` insertions cannot fail afterwards.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        let need = (self.len + additional) * 4 / 3 + 1;
        if need <= self.slots.len() {
            return Ok(());
        }
        let size = need.next_power_of_two().max(16);
        let mut slots = Vec::try_with_capacity(size)?;
        for _ in 0..size {
            slots.try_push(None)?;
        }
        let old = core::mem::replace(self, Self { slots, len: 0 });
        for (k, v) in old.slots.into_iter().flatten() {
            self.place(k, v);
        }
        Ok(())
    }

    fn place(&mut self, key: u64, value: V) -> Option<V> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut i = self.home(key);
        loop {
            match self.slots.get_mut(i) {
                Some(Some((k, v))) if *k == key => return Some(core::mem::replace(v, value)),
                Some(Some(_)) => i = (i + 1) & mask,
                Some(slot) => {
                    *slot = Some((key, value));
                    self.len += 1;
                    return None;
                }
                None => return None,
            }
        }
    }

    /// Inserts or replaces; gives the value that was there.
    pub fn try_insert(&mut self, key: u64, value: V) -> Result<Option<V>, AllocError> {
        self.try_reserve(1)?;
        Ok(self.place(key, value))
    }

    /// Removes and gives the value of `key`.
    pub fn remove(&mut self, key: u64) -> Option<V> {
        let mut hole = self.find(key)?;
        let (_, value) = self.slots.get_mut(hole)?.take()?;
        self.len -= 1;
        // Close the hole, so that probing needs no tombstones.
        let mask = self.slots.len() - 1;
        let mut i = hole;
        loop {
            i = (i + 1) & mask;
            let Some(Some((k, _))) = self.slots.get(i) else {
                return Some(value);
            };
            let home = self.home(*k);
            // The entry at i may move to the hole unless its home lies cyclically in (hole, i].
            if (i.wrapping_sub(home) & mask) >= (i.wrapping_sub(hole) & mask) {
                let moved = self.slots.get_mut(i).and_then(Option::take);
                if let Some(slot) = self.slots.get_mut(hole) {
                    *slot = moved;
                }
                hole = i;
            }
        }
    }

    /// Drops the entries that `keep` does not want. Without memory for it all of them stay.
    pub fn retain(&mut self, keep: impl Fn(&V) -> bool) -> Result<(), AllocError> {
        let mut kept = Self::new();
        kept.try_reserve(self.iter().filter(|(_, v)| keep(v)).count())?;
        for (k, v) in core::mem::replace(self, kept).slots.into_iter().flatten() {
            if keep(&v) {
                self.place(k, v);
            }
        }
        Ok(())
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.slots.iter().flatten().map(|(k, v)| (*k, v))
    }

    /// Entry at table position `i` (positions run to `positions()`), for sweeping caches.
    pub fn at_mut(&mut self, i: usize) -> Option<(u64, &mut V)> {
        self.slots.get_mut(i)?.as_mut().map(|(k, v)| (*k, v))
    }

    /// Number of table positions.
    pub fn positions(&self) -> usize {
        self.slots.len()
    }
}
