// SPDX-License-Identifier: GPL-2.0-only
//! Heap sort: the standard library's sorts take more stack than a kernel thread can spare.

/// Sorts a list, ascending.
pub fn sort<T>(list: &mut [T], less: &dyn Fn(&T, &T) -> bool) {
    for root in (0..list.len() / 2).rev() {
        sift(list, root, less);
    }
    for end in (1..list.len()).rev() {
        list.swap(0, end);
        if let Some(rest) = list.get_mut(..end) {
            sift(rest, 0, less);
        }
    }
}

/// Moves an element of a heap down to its place.
fn sift<T>(heap: &mut [T], mut root: usize, less: &dyn Fn(&T, &T) -> bool) {
    loop {
        let mut largest = root;
        for child in [2 * root + 1, 2 * root + 2] {
            if let (Some(a), Some(b)) = (heap.get(largest), heap.get(child)) {
                if less(a, b) {
                    largest = child;
                }
            }
        }
        if largest == root {
            return;
        }
        heap.swap(root, largest);
        root = largest;
    }
}

#[cfg(test)]
mod tests {
    use super::sort;
    use crate::testing::Rng;

    #[test]
    fn sorting_sorts() {
        for len in 0..200 {
            let mut rng = Rng(len);
            let mut list: std::vec::Vec<u64> = (0..len).map(|_| rng.next() % 50).collect();
            let mut right = list.clone();
            right.sort_unstable();
            sort(&mut list, &|a, b| a < b);
            assert_eq!(list, right);
        }
    }
}
