// SPDX-License-Identifier: GPL-2.0-only
//! Free-space maps against what the trees use.

use super::problem::Problem;
use super::{Checker, Phase};
use crate::error::Result;
use crate::space::{Audit, Space};
use aegisfs_platform::{Mutex, Vec};

/// Compares the maps of all chunks.
pub fn check(cx: &mut Checker<'_>, space: &Mutex<Space>) -> Result<()> {
    let space = space.lock();
    let chunks = space.chunks();
    let shift = cx.pool.chunk_shift();
    cx.summary.total_blocks = space.total();
    for index in 0..chunks {
        if index % 64 == 0 {
            cx.progress(Phase::Space, index as u64, chunks as u64)?;
        }
        let chunk = index as u32;
        let blocks = space.chunk_blocks(index);
        let used = cx.usage.chunk(index, blocks)?;
        cx.summary.used_blocks += u64::from(blocks - used.free().min(blocks))
            - u64::from(space.header_blocks().min(blocks));
        let (map, noted, counted) = match space.audit(index)? {
            Audit::Bad => {
                cx.report(&Problem::BitmapBad { chunk })?;
                continue;
            }
            Audit::Map {
                map,
                noted,
                counted,
            } => (map, noted, counted),
        };
        if noted != counted {
            cx.report(&Problem::FreeCount {
                chunk,
                found: noted,
                counted,
            })?;
        }
        let first = (index as u64) << shift;
        let mut found: Vec<Problem> = Vec::new();
        let mut memory = Ok(());
        used.runs_without(&map, &mut |block, blocks| {
            let block = first | u64::from(block);
            memory = memory.and(found.try_push(Problem::BlocksUnmarked { block, blocks }));
        });
        // With nodes lost, what they used cannot be told from what is leaked.
        if !cx.summary.incomplete {
            map.runs_without(&used, &mut |block, blocks| {
                let block = first | u64::from(block);
                memory = memory.and(found.try_push(Problem::BlocksLeaked { block, blocks }));
            });
        }
        memory?;
        for problem in &found {
            cx.report(problem)?;
        }
    }
    Ok(())
}
