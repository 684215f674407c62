// SPDX-License-Identifier: GPL-2.0-only
//! The ioctls of the volume: label, trimming, and those of our own. Those of inodes are in [`super::fileattr`].
//!
//! `FS_IOC_SHUTDOWN` is none of them: the kernel does not hand its argument to FUSE servers.

use super::refusal::{Refusal, Result};
use super::Server;
use aegisfs_engine::control::control_len;
use aegisfs_engine::BLOCK_SIZE;

const GET_LABEL: u32 = 0x8100_9431;
const SET_LABEL: u32 = 0x4100_9432;
const TRIM: u32 = 0xc018_5879;
/// Bytes of a label in the ioctls' form.
const LABEL: usize = 256;

impl Server {
    pub fn control(&self, caller: u32, ino: u64, command: u32, input: &[u8]) -> Result<Vec<u8>> {
        let admin = || match caller {
            0 => Ok(()),
            _ => Err(Refusal::NOT_PERMITTED),
        };
        match command {
            GET_LABEL => {
                let mut label = self.fs.label()?.to_vec();
                label.resize(LABEL, 0);
                Ok(label)
            }
            SET_LABEL => {
                admin()?;
                let end = input.iter().position(|c| *c == 0);
                let label = end.and_then(|n| input.get(..n)).ok_or(Refusal::INVALID)?;
                self.fs.set_label(label)?;
                Ok(Vec::new())
            }
            TRIM => {
                admin()?;
                self.trim(input)
            }
            _ if control_len(command).is_some() => {
                admin()?;
                let mut bytes = input.to_vec();
                self.fs.control(command, &mut bytes)?;
                Ok(bytes)
            }
            _ => self.control_inode(caller, ino, command, input),
        }
    }

    /// `struct fstrim_range`: where to start, how much, and the shortest run; the second is replaced
    /// by what was done. All in bytes of the device.
    fn trim(&self, input: &[u8]) -> Result<Vec<u8>> {
        let mut numbers = input.chunks_exact(8).map(|b| {
            let bytes = b.try_into().unwrap_or_default();
            u64::from_le_bytes(bytes)
        });
        let mut next = || numbers.next().ok_or(Refusal::INVALID);
        let (start, len, min) = (next()?, next()?, next()?);
        let info = self.fs.info();
        let longest = u64::from(info.chunk_blocks) * BLOCK_SIZE as u64;
        if start >= info.device_size || len < BLOCK_SIZE as u64 || min > longest {
            return Err(Refusal::INVALID);
        }
        let range = start..start.saturating_add(len);
        let done = self.fs.trim(range, min, &mut || true)?;
        Ok([start, done, min].map(u64::to_le_bytes).concat())
    }
}
