// SPDX-License-Identifier: GPL-2.0-only
//! Inodes, directories, extended attributes and file data, as records in the tree.

pub mod clone;
pub mod data;
pub mod deletion;
pub mod dir;
pub mod extent;
pub mod inode;
pub mod quota;
pub mod quota_file;
pub mod relocate;
pub mod rename;
pub mod shift;
pub mod xattr;
