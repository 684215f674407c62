// SPDX-License-Identifier: GPL-2.0-only
//! A vector whose growth can fail. In the kernel it is backed by `kvmalloc`.

use crate::AllocError;
use std::ops::{Deref, DerefMut};

/// Growable array; every growing method is fallible, every other one is not.
#[derive(Debug, PartialEq, Eq)]
pub struct Vec<T>(std::vec::Vec<T>);

impl<T> Vec<T> {
    /// Empty, without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::vec::Vec::new())
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
        self.0.try_reserve(additional).map_err(|_| AllocError)
    }

    /// Appends `value`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory; `value` is dropped.
    pub fn try_push(&mut self, value: T) -> Result<(), AllocError> {
        self.try_reserve(1)?;
        self.0.push(value);
        Ok(())
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
        self.0.insert(at, value);
        Ok(())
    }

    /// Removes and returns the last element.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Removes the element at `at` by moving the last one there; `None` past the end.
    pub fn swap_remove(&mut self, at: usize) -> Option<T> {
        (at < self.0.len()).then(|| self.0.swap_remove(at))
    }

    /// Removes the element at `at`, keeping the order; `None` past the end.
    pub fn remove(&mut self, at: usize) -> Option<T> {
        (at < self.0.len()).then(|| self.0.remove(at))
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
        self.0.extend_from_slice(items);
        Ok(())
    }

    /// Grows with copies of `value`, or shortens, to `len` elements.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_resize(&mut self, len: usize, value: T) -> Result<(), AllocError> {
        self.try_reserve(len.saturating_sub(self.0.len()))?;
        self.0.resize(len, value);
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
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Vec<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
