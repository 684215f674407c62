// SPDX-License-Identifier: GPL-2.0-only
//! A tree node in its on-disk form: a slotted page, used in memory as it is.
//!
//! ```text
//! 0    magic u32          4    crc u32 (of all that follows)
//! 8    pool uuid [16]     24   own address, 3 x u64 (as in the pointer to it)
//! 48   generation u64     56   tree u64
//! 64   level u8 (0: leaf) 65   zero u8      66  count u16
//! 68   heap u32: offset of the lowest value byte
//! 72   dead u32: bytes in the heap that no slot uses
//! 76   zero [20]
//! 96   slots, 24 bytes each, ascending by key:
//!      object u64, offset u64, value offset u16, value length u16, kind u8, zero [3]
//! ...  free space
//! heap values, up to the end
//! ```
//!
//! Invariants of a valid node, established by [`validate`] and kept by every change here:
//! 1. slots end at or before `heap`; every value lies in `heap..len`;
//! 2. keys strictly ascend;
//! 3. the lengths of all values plus `dead` make up `len - heap`;
//! 4. in a node of level > 0, every value is a [`Pointer`].

use super::bytes::{
    copy, get_array, get_u16, get_u32, get_u64, get_u8, put_bytes, put_u16, put_u32, put_u64,
    put_u8, sealed,
};
use super::key::{Key, Pointer, MAX_REPLICAS, POINTER_LEN};

/// First bytes of every node.
pub const NODE_MAGIC: u32 = u32::from_le_bytes(*b"AGnd");
/// Bytes before the first slot.
pub const NODE_HEADER: usize = 96;
/// Bytes of a slot.
pub const SLOT_LEN: usize = 24;
/// Smallest node, in bytes.
pub const NODE_MIN: usize = 4096;
/// Largest node, in bytes.
pub const NODE_MAX: usize = 65536;
/// Highest level that a node may have; bounds every descent.
pub const LEVEL_MAX: u8 = 10;

const COUNT_AT: usize = 66;
const HEAP_AT: usize = 68;
const DEAD_AT: usize = 72;

// A value offset of a 64 KiB node must fit its u16 (a value has at least one byte, or offset 0).
const _: () = assert!(NODE_MAX - 1 <= u16::MAX as usize);
const _: () = assert!(NODE_HEADER % 8 == 0 && SLOT_LEN % 8 == 0);

/// Largest value that fits a node of `node_size` bytes at least four times.
#[must_use]
pub const fn max_value(node_size: usize) -> usize {
    let quarter = (node_size - NODE_HEADER) / 4 - SLOT_LEN;
    if quarter < 4000 {
        quarter
    } else {
        4000
    }
}

/// Why a node was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFault {
    /// The magic number is wrong.
    Magic,
    /// The checksum in the header does not fit the content.
    Checksum,
    /// It belongs to another pool.
    Pool,
    /// It is another block, or another version, than the pointer says.
    Misplaced,
    /// It belongs to another tree or level.
    Tree,
    /// Slots or values break an invariant.
    Structure,
}

impl NodeFault {
    /// The reason in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Magic => "wrong magic number",
            Self::Checksum => "checksum mismatch",
            Self::Pool => "block of another pool",
            Self::Misplaced => "stale or misplaced block",
            Self::Tree => "block of another tree or level",
            Self::Structure => "invalid structure",
        }
    }
}

/// What a node must be, from the way that leads to it.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Pool UUID.
    pub pool: [u8; 16],
    /// The pointer that was followed.
    pub pointer: Pointer,
    /// Tree identifier.
    pub tree: u64,
    /// Level, 0 for leaves.
    pub level: u8,
}

/// Checks bytes from a device against everything that is known of the node.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(b: &[u8], expected: &Expected) -> Result<(), NodeFault> {
    if get_u32(b, 0) != NODE_MAGIC {
        return Err(NodeFault::Magic);
    }
    if !sealed(b) {
        return Err(NodeFault::Checksum);
    }
    if get_array::<16>(b, 8) != expected.pool {
        return Err(NodeFault::Pool);
    }
    let p = &expected.pointer;
    if get_u32(b, 4) != p.crc || addresses(b) != p.addr || generation(b) != p.birth {
        return Err(NodeFault::Misplaced);
    }
    if tree(b) != expected.tree || level(b) != expected.level {
        return Err(NodeFault::Tree);
    }
    validate(b)
}

/// Checks the structure alone (invariants 1 to 4).
///
/// # Errors
/// [`NodeFault::Structure`].
pub fn validate(b: &[u8]) -> Result<(), NodeFault> {
    let bad = Err(NodeFault::Structure);
    let len = b.len();
    if !(NODE_MIN..=NODE_MAX).contains(&len) || level(b) > LEVEL_MAX {
        return bad;
    }
    let n = count(b);
    let (heap, dead) = (heap(b), dead(b));
    if slot_at(n) > heap || heap > len {
        return bad;
    }
    let mut used = 0usize;
    let mut last: Option<Key> = None;
    for i in 0..n {
        let (from, size) = value_range(b, i);
        if size > 0 && (from < heap || from.saturating_add(size) > len) {
            return bad;
        }
        if level(b) > 0 && size != POINTER_LEN {
            return bad;
        }
        used = used.saturating_add(size);
        let key = key(b, i);
        if last.is_some_and(|l| l >= key) {
            return bad;
        }
        last = Some(key);
    }
    if used.saturating_add(dead) != len.saturating_sub(heap) {
        return bad;
    }
    if level(b) > 0 && n == 0 {
        return bad;
    }
    Ok(())
}

/// Makes `b` an empty node.
pub fn init(b: &mut [u8], pool: &[u8; 16], tree: u64, level: u8) {
    b.fill(0);
    put_u32(b, 0, NODE_MAGIC);
    put_bytes(b, 8, pool);
    put_u64(b, 56, tree);
    put_u8(b, 64, level);
    let len = b.len();
    set_heap(b, len);
}

/// Sets where the node stands and which generation writes it.
pub fn set_place(b: &mut [u8], addr: &[u64; MAX_REPLICAS], generation: u64) {
    for (i, a) in addr.iter().enumerate() {
        put_u64(b, 24 + i * 8, *a);
    }
    put_u64(b, 48, generation);
}

/// Own addresses.
#[must_use]
pub fn addresses(b: &[u8]) -> [u64; MAX_REPLICAS] {
    [get_u64(b, 24), get_u64(b, 32), get_u64(b, 40)]
}

/// Generation that wrote the node.
#[must_use]
pub fn generation(b: &[u8]) -> u64 {
    get_u64(b, 48)
}

/// Tree that the node belongs to.
#[must_use]
pub fn tree(b: &[u8]) -> u64 {
    get_u64(b, 56)
}

/// Height above the leaves.
#[inline]
#[must_use]
pub fn level(b: &[u8]) -> u8 {
    get_u8(b, 64)
}

/// Number of slots.
#[inline]
#[must_use]
pub fn count(b: &[u8]) -> usize {
    usize::from(get_u16(b, COUNT_AT))
}

fn heap(b: &[u8]) -> usize {
    get_u32(b, HEAP_AT) as usize
}

fn dead(b: &[u8]) -> usize {
    get_u32(b, DEAD_AT) as usize
}

fn set_count(b: &mut [u8], n: usize) {
    put_u16(b, COUNT_AT, n as u16);
}

fn set_heap(b: &mut [u8], heap: usize) {
    put_u32(b, HEAP_AT, heap as u32);
}

fn set_dead(b: &mut [u8], dead: usize) {
    put_u32(b, DEAD_AT, dead as u32);
}

const fn slot_at(i: usize) -> usize {
    NODE_HEADER + i * SLOT_LEN
}

/// Key of slot `i`.
#[inline]
#[must_use]
pub fn key(b: &[u8], i: usize) -> Key {
    let Some(s) = b
        .get(slot_at(i)..)
        .and_then(|s| s.first_chunk::<SLOT_LEN>())
    else {
        return Key::default();
    };
    Key::new(get_u64(s, 0), s[20], get_u64(s, 8))
}

fn value_range(b: &[u8], i: usize) -> (usize, usize) {
    let at = slot_at(i);
    (
        usize::from(get_u16(b, at + 16)),
        usize::from(get_u16(b, at + 18)),
    )
}

/// Value of slot `i`; empty past the end.
#[inline]
#[must_use]
pub fn value(b: &[u8], i: usize) -> &[u8] {
    if i >= count(b) {
        return &[];
    }
    let (from, len) = value_range(b, i);
    b.get(from..from + len).unwrap_or(&[])
}

/// Child pointer of slot `i` of an inner node.
#[inline]
#[must_use]
pub fn child(b: &[u8], i: usize) -> Pointer {
    Pointer::decode(value(b, i))
}

/// Overwrites the child pointer of slot `i`.
pub fn set_child(b: &mut [u8], i: usize, pointer: &Pointer) {
    let (from, _) = value_range(b, i);
    put_bytes(b, from, &pointer.encode());
}

/// Lowers the key of the first slot to `key`, which is smaller.
pub fn lower_first_key(b: &mut [u8], key: &Key) {
    let (from, len) = value_range(b, 0);
    write_slot(b, 0, key, from, len);
}

/// Position of `key` (`Ok`), or where it would be inserted (`Err`).
#[inline]
pub fn search(b: &[u8], key_wanted: &Key) -> Result<usize, usize> {
    let (mut low, mut high) = (0, count(b));
    while low < high {
        let mid = low + (high - low) / 2;
        match key(b, mid).cmp(key_wanted) {
            core::cmp::Ordering::Less => low = mid + 1,
            core::cmp::Ordering::Greater => high = mid,
            core::cmp::Ordering::Equal => return Ok(mid),
        }
    }
    Err(low)
}

/// The child of an inner node under which `key` belongs: the last one whose key is not greater,
/// or the first.
#[inline]
#[must_use]
pub fn child_index(b: &[u8], key: &Key) -> usize {
    match search(b, key) {
        Ok(i) => i,
        Err(i) => i.saturating_sub(1),
    }
}

/// Bytes that new slots and values can take (after compaction).
#[must_use]
pub fn room(b: &[u8]) -> usize {
    heap(b).saturating_sub(slot_at(count(b))) + dead(b)
}

/// Bytes that slots and values take.
#[must_use]
pub fn used(b: &[u8]) -> usize {
    b.len().saturating_sub(NODE_HEADER).saturating_sub(room(b))
}

/// Inserts at position `i`, which [`search`] gave. `false` (and nothing is changed) without room.
/// `scratch` has the size of the node and any content.
#[must_use]
pub fn insert(b: &mut [u8], i: usize, key: &Key, value: &[u8], scratch: &mut [u8]) -> bool {
    let need = SLOT_LEN + value.len();
    let n = count(b);
    if room(b) < need || i > n {
        return false;
    }
    if heap(b) - slot_at(n) < need {
        compact(b, scratch);
    }
    let from = heap(b) - value.len();
    set_heap(b, from);
    put_bytes_at(b, from, value);
    b.copy_within(slot_at(i)..slot_at(n), slot_at(i + 1));
    write_slot(b, i, key, from, value.len());
    set_count(b, n + 1);
    true
}

fn put_bytes_at(b: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = b.get_mut(at..at + value.len()) {
        target.copy_from_slice(value);
    }
}

fn write_slot(b: &mut [u8], i: usize, key: &Key, from: usize, len: usize) {
    let at = slot_at(i);
    put_u64(b, at, key.object);
    put_u64(b, at + 8, key.offset);
    set_value_range(b, i, from, len);
    put_u32(b, at + 20, u32::from(key.kind));
}

fn set_value_range(b: &mut [u8], i: usize, from: usize, len: usize) {
    let at = slot_at(i);
    put_u16(b, at + 16, if len == 0 { 0 } else { from as u16 });
    put_u16(b, at + 18, len as u16);
}

/// No slot uses these bytes of the heap any more.
fn release(b: &mut [u8], from: usize, len: usize) {
    if len > 0 && from == heap(b) {
        // The lowest ones: the heap shrinks at once, so that stacks of changes need no compaction.
        set_heap(b, from + len);
    } else {
        let dead = dead(b) + len;
        set_dead(b, dead);
    }
}

/// Replaces the value of slot `i`, which exists. `false` (and nothing is changed) without room.
#[must_use]
pub fn replace(b: &mut [u8], i: usize, value: &[u8], scratch: &mut [u8]) -> bool {
    let (old, len) = value_range(b, i);
    if room(b) + len < value.len() {
        return false;
    }
    let from = if let Some(less) = len.checked_sub(value.len()) {
        release(b, old, less);
        old + less
    } else {
        release(b, old, len);
        set_value_range(b, i, 0, 0);
        if heap(b) - slot_at(count(b)) < value.len() {
            compact(b, scratch);
        }
        let from = heap(b) - value.len();
        set_heap(b, from);
        from
    };
    put_bytes_at(b, from, value);
    set_value_range(b, i, from, value.len());
    true
}

/// Removes slot `i`.
pub fn remove(b: &mut [u8], i: usize) {
    let n = count(b);
    if i >= n {
        return;
    }
    let (from, len) = value_range(b, i);
    b.copy_within(slot_at(i + 1)..slot_at(n), slot_at(i));
    set_count(b, n - 1);
    release(b, from, len);
}

/// Moves all values together at the end.
fn compact(b: &mut [u8], scratch: &mut [u8]) {
    copy(scratch, b);
    pack(b, scratch, count(scratch));
}

/// Rebuilds the heap of `b` from the values of the first `n` slots of its copy `source`.
fn pack(b: &mut [u8], source: &[u8], n: usize) {
    let mut heap = b.len();
    for i in 0..n {
        let v = value(source, i);
        heap -= v.len();
        put_bytes_at(b, heap, v);
        put_u16(
            b,
            slot_at(i) + 16,
            if v.is_empty() { 0 } else { heap as u16 },
        );
    }
    set_heap(b, heap);
    set_dead(b, 0);
}

/// Appends all slots of `from` (whose keys are all greater) to `b`. `false` without room.
#[must_use]
pub fn append_all(b: &mut [u8], from: &[u8], scratch: &mut [u8]) -> bool {
    if room(b) < used(from) {
        return false;
    }
    (0..count(from)).all(|i| {
        let n = count(b);
        insert(b, n, &key(from, i), value(from, i), scratch)
    })
}

/// Where to split so that both halves hold about the same, given that `extra` bytes will be
/// inserted at position `i`. Between 1 and count - 1 for nodes with two slots or more; splitting
/// at the end for ascending insertions leaves the left node full.
#[must_use]
pub fn split_point(b: &[u8], i: usize) -> usize {
    let n = count(b);
    if n < 2 {
        return n;
    }
    if i == n {
        return n - 1;
    }
    let half = used(b) / 2;
    let mut sum = 0;
    for at in 0..n {
        sum += SLOT_LEN + value_range(b, at).1;
        if sum >= half {
            return (at + 1).clamp(1, n - 1);
        }
    }
    n - 1
}

/// Moves slots `at..` of `left` to the empty node `right`.
pub fn split(left: &mut [u8], right: &mut [u8], at: usize, scratch: &mut [u8]) {
    copy(scratch, left);
    let n = count(scratch);
    for i in at..n {
        let ok = insert(right, i - at, &key(scratch, i), value(scratch, i), &mut []);
        debug_assert!(ok);
    }
    // Everything that stays is packed anew from the copy.
    set_count(left, at);
    pack(left, scratch, at);
}
