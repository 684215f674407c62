// SPDX-License-Identifier: GPL-2.0-only
//! The map against the standard library's.

use super::Map;
use crate::testing::{seed, Rng};
use std::collections::HashMap;

#[test]
fn behaves_as_a_map() {
    let mut rng = Rng(seed());
    for keys in [3, 17, 60, 2000] {
        let mut map = Map::new();
        let mut want = HashMap::new();
        for n in 0..20_000u64 {
            // Addresses of nodes: multiples of a power of two.
            let key = rng.below(keys) as u64 * 4 + 8;
            match rng.below(5) {
                0 | 1 => assert_eq!(map.try_insert(key, n).unwrap(), want.insert(key, n)),
                2 | 3 => assert_eq!(map.remove(key), want.remove(&key)),
                _ => {
                    assert_eq!(map.get(key), want.get(&key));
                    if let Some(v) = map.get_mut(key) {
                        *v += 1;
                    }
                    if let Some(v) = want.get_mut(&key) {
                        *v += 1;
                    }
                }
            }
            assert_eq!(map.len(), want.len());
        }
        assert_eq!(map.iter().count(), want.len());
        assert!(map.iter().all(|(k, v)| want.get(&k) == Some(v)));
        let all = (0..map.positions()).filter(|i| map.at_mut(*i).is_some());
        assert_eq!(all.count(), want.len());
    }
}

#[test]
fn reserved_room_is_room() {
    let mut map = Map::new();
    map.try_reserve(1000).unwrap();
    let positions = map.positions();
    for n in 0..1000 {
        map.try_insert(n, n).unwrap();
    }
    assert_eq!(map.positions(), positions);
}

#[test]
fn retain_drops_the_others() {
    let mut map = Map::new();
    for k in 0..500u64 {
        map.try_insert(k * 4096, k).unwrap();
    }
    map.retain(|v| v % 3 == 0).unwrap();
    assert_eq!(map.len(), 167);
    for k in 0..500 {
        assert_eq!(map.get(k * 4096).copied(), (k % 3 == 0).then_some(k));
    }
    map.retain(|_| false).unwrap();
    assert_eq!(map.len(), 0);
    assert_eq!(map.get(0), None);
    map.try_insert(1, 2).unwrap();
    assert_eq!(map.get(1), Some(&2));
}
