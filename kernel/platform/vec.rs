// SPDX-License-Identifier: GPL-2.0-only
//! A vector whose growth can fail, backed by `kvmalloc`.

use crate::{AllocError, NofsScope};
use core::ops::{Deref, DerefMut};
use kernel::alloc::{flags::__GFP_NOWARN, flags::GFP_KERNEL, KVVec};

/// Growable array; every growing method is fallible, every other one is not.
#[derive(Debug)]
pub struct Vec<T>(KVVec<T>);

impl<T> Vec<T> {
    /// Empty, without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self(KVVec::new())
    }

    /// Empty, with room for `capacity` elements.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_with_capacity(capacity: usize) -> Result<Self, AllocError> {
        let mut v = Self::new();
        v.try_reserve(capacity)?;
        Ok(v)
    }

    /// Makes room for `additional` more elements: that many pushes cannot fail.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        if self.0.capacity() - self.0.len() >= additional {
            return Ok(());
        }
        let _nofs = NofsScope::enter();
        // Every failure is handled by the caller, so a warning with a stack trace helps nobody.
        Ok(self.0.reserve(additional, GFP_KERNEL | __GFP_NOWARN)?)
    }

    /// Appends `value`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory; `value` is dropped.
    pub fn try_push(&mut self, value: T) -> Result<(), AllocError> {
        self.try_reserve(1)?;
        self.0.push_within_capacity(value).map_err(|_| AllocError)
    }

    /// Inserts `value` before position `at` (at most the length).
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory, or `at` is past the end.
    pub fn try_insert(&mut self, at: usize, value: T) -> Result<(), AllocError> {
        if at > self.0.len() {
            return Err(AllocError);
        }
        self.try_reserve(1)?;
        self.0
            .insert_within_capacity(at, value)
            .map_err(|_| AllocError)
    }

    /// Removes and returns the last element.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Removes the element at `at` by moving the last one there; `None` past the end.
    pub fn swap_remove(&mut self, at: usize) -> Option<T> {
        let last = self.0.len().checked_sub(1)?;
        if at > last {
            return None;
        }
        self.0.swap(at, last);
        self.0.pop()
    }

    /// Removes the element at `at`, keeping the order; `None` past the end.
    pub fn remove(&mut self, at: usize) -> Option<T> {
        self.0.remove(at).ok()
    }

    /// Shortens to `len` elements; does nothing when it is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Drops all elements, keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Number of elements that fit without growing.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<T: Clone> Vec<T> {
    /// Appends copies of all elements of `items`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_extend_from_slice(&mut self, items: &[T]) -> Result<(), AllocError> {
        self.try_reserve(items.len())?;
        // The room is there: this allocates nothing any more.
        Ok(self.0.extend_from_slice(items, GFP_KERNEL)?)
    }

    /// Grows with copies of `value`, or shortens, to `len` elements.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_resize(&mut self, len: usize, value: T) -> Result<(), AllocError> {
        let more = len.saturating_sub(self.0.len());
        self.try_reserve(more)?;
        let room = self.0.spare_capacity_mut().get_mut(..more);
        // The kernel's own `resize` goes byte by byte; this is `memset` for bytes.
        for slot in room.ok_or(AllocError)? {
            slot.write(value.clone());
        }
        // SAFETY: These elements are within the capacity, and were written above.
        unsafe { self.0.inc_len(more) };
        self.0.truncate(len);
        Ok(())
    }

    /// A vector of copies of `items`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_from_slice(items: &[T]) -> Result<Self, AllocError> {
        let mut v = Self::new();
        v.try_extend_from_slice(items)?;
        Ok(v)
    }

    /// `len` copies of `value`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_filled(len: usize, value: T) -> Result<Self, AllocError> {
        let mut v = Self::new();
        v.try_resize(len, value)?;
        Ok(v)
    }
}

impl<T: PartialEq> PartialEq for Vec<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl<T: Eq> Eq for Vec<T> {}

impl<T> Default for Vec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Vec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Vec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> IntoIterator for Vec<T> {
    type Item = T;
    type IntoIter = <KVVec<T> as IntoIterator>::IntoIter;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Vec<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
