// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs inspect trees`: shape and content of the trees of the last checkpoint.

use super::{record, Verdict};
use crate::cli::Style;
use crate::reader::{Reader, Table};
use aegisfs_engine::format::key::{kind, Key, Pointer, POOL_TREE};
use aegisfs_engine::format::node;
use aegisfs_engine::format::record::Subvolume;
use aegisfs_tools::{output, Failure};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

#[derive(Serialize)]
struct Document {
    trees: Vec<Tree>,
}

#[derive(Serialize)]
struct Tree {
    id: u64,
    levels: u8,
    root: Vec<u64>,
    birth: u64,
    nodes: u64,
    /// Bytes of slots and values, of all nodes.
    used_bytes: u64,
    size: u64,
    records: BTreeMap<&'static str, u64>,
    bad_replicas: u64,
    damaged_nodes: Vec<Damaged>,
}

#[derive(Serialize)]
struct Damaged {
    addresses: Vec<u64>,
    level: u8,
    reason: &'static str,
}

pub fn show(device: &Path, records: Option<u64>, style: Style) -> anyhow::Result<Verdict> {
    let reader = Reader::open(device)?;
    let table = reader.table();
    let mut walk = Walk {
        reader: &reader,
        table: &table,
        seen: HashSet::new(),
        subvolumes: Vec::new(),
        print: None,
    };
    let sb = &reader.superblock;
    if let Some(tree) = records {
        return print_records(walk, tree);
    }
    let mut trees = vec![walk.tree(POOL_TREE, sb.pool_root, sb.pool_level)?];
    for (id, subvolume) in std::mem::take(&mut walk.subvolumes) {
        trees.push(walk.tree(id, subvolume.root, subvolume.level)?);
    }
    let damaged = trees
        .iter()
        .any(|t| !t.damaged_nodes.is_empty() || t.bad_replicas > 0);
    if style.json {
        output::json(&Document { trees })?;
    } else {
        for tree in &trees {
            print_tree(tree, style)?;
        }
    }
    Ok(Verdict::damaged_if(damaged))
}

fn print_records(mut walk: Walk<'_>, tree: u64) -> anyhow::Result<Verdict> {
    let sb = &walk.reader.superblock;
    let (root, level) = if tree == POOL_TREE {
        (sb.pool_root, sb.pool_level)
    } else {
        walk.tree(POOL_TREE, sb.pool_root, sb.pool_level)?;
        let subvolumes = std::mem::take(&mut walk.subvolumes);
        let (_, subvolume) = subvolumes
            .into_iter()
            .find(|(id, _)| *id == tree)
            .ok_or_else(|| Failure::new(format!("there is no tree {tree}")))?;
        (subvolume.root, subvolume.level)
    };
    walk.print = Some(tree);
    walk.seen.clear();
    let found = walk.tree(tree, root, level)?;
    Ok(Verdict::damaged_if(!found.damaged_nodes.is_empty()))
}

fn print_tree(t: &Tree, style: Style) -> std::io::Result<()> {
    let name = if t.id == POOL_TREE {
        "pool".into()
    } else {
        format!("subvolume {}", t.id)
    };
    let fill = (t.used_bytes * 100).checked_div(t.size).unwrap_or(0);
    output::line(format_args!(
        "tree {} ({name}): {} levels, {} nodes, {} ({fill}% used), root {:?} of generation {}",
        t.id,
        t.levels,
        t.nodes,
        style.bytes(t.size),
        t.root,
        t.birth
    ))?;
    for (kind, count) in &t.records {
        output::line(format_args!("  {count:>12} {kind}"))?;
    }
    if t.bad_replicas > 0 {
        output::line(format_args!(
            "  {} nodes have a damaged replica",
            t.bad_replicas
        ))?;
    }
    for d in &t.damaged_nodes {
        output::line(format_args!(
            "  damaged: node {:?}, level {}: {}",
            d.addresses, d.level, d.reason
        ))?;
    }
    Ok(())
}

struct Walk<'a> {
    reader: &'a Reader,
    table: &'a Table,
    /// Nodes that were visited: a damaged volume must not lead in circles.
    seen: HashSet<u64>,
    subvolumes: Vec<(u64, Subvolume)>,
    /// Tree whose records are to be printed.
    print: Option<u64>,
}

impl Walk<'_> {
    fn tree(&mut self, tree: u64, root: Pointer, level: u8) -> std::io::Result<Tree> {
        let mut found = Tree {
            id: tree,
            levels: level.saturating_add(1),
            root: root.replicas().collect(),
            birth: root.birth,
            nodes: 0,
            used_bytes: 0,
            size: 0,
            records: BTreeMap::new(),
            bad_replicas: 0,
            damaged_nodes: Vec::new(),
        };
        if root.id() != 0 {
            self.node(&mut found, root, level)?;
        }
        Ok(found)
    }

    fn node(&mut self, found: &mut Tree, pointer: Pointer, level: u8) -> std::io::Result<()> {
        let mut damaged = |reason| {
            found.damaged_nodes.push(Damaged {
                addresses: pointer.replicas().collect(),
                level,
                reason,
            });
        };
        if !self.seen.insert(pointer.id()) {
            damaged("reached twice");
            return Ok(());
        }
        let expected = self.reader.expected(pointer, found.id, level);
        let good = match self.reader.node(self.table, &expected) {
            Ok(good) => good,
            Err(fault) => {
                damaged(fault.map_or("cannot be read", |f| f.as_str()));
                return Ok(());
            }
        };
        let b = &good.bytes;
        found.bad_replicas += good.bad_replicas;
        found.nodes += 1;
        found.size += b.len() as u64;
        found.used_bytes += (b.len() - node::room(b)) as u64;
        for i in 0..node::count(b) {
            if level > 0 {
                self.node(found, node::child(b, i), level - 1)?;
            } else {
                self.record(found, &node::key(b, i), node::value(b, i))?;
            }
        }
        Ok(())
    }

    fn record(&mut self, found: &mut Tree, key: &Key, value: &[u8]) -> std::io::Result<()> {
        *found
            .records
            .entry(record::kind_name(key.kind))
            .or_default() += 1;
        if found.id == POOL_TREE && key.kind == kind::SUBVOLUME {
            self.subvolumes
                .extend(Subvolume::decode(value).map(|s| (key.object, s)));
        }
        if self.print == Some(found.id) {
            let text = record::describe(key, value).unwrap_or_else(|| "(invalid)".into());
            let name = record::kind_name(key.kind);
            output::line(format_args!(
                "({}, {name}, {}) {text}",
                key.object, key.offset
            ))?;
        }
        Ok(())
    }
}
