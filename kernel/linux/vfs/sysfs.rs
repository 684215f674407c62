// SPDX-License-Identifier: GPL-2.0-only
//! What stands in the files of `/sys/fs/aegisfs/DEVICE`; `sysfs.c` has their names.

use super::volume::Volume;
use crate::linux::ffi::bindings;
use aegisfs_engine::DeviceEvent;
use core::ffi::CStr;
use core::fmt::{self, Write as _};
use kernel::error::code::EIO;
use kernel::ffi::{c_char, c_void};

/// The files of a mounted volume; they go when this is dropped.
pub(super) struct Sysfs(*mut bindings::aegisfs_sysfs);

// SAFETY: May be dropped from any task.
unsafe impl Send for Sysfs {}
// SAFETY: There is nothing to call on a shared reference.
unsafe impl Sync for Sysfs {}

impl Sysfs {
    /// Makes them, if that is possible.
    ///
    /// # Safety
    /// `volume` outlives the result, and `id` is NUL-terminated.
    pub(super) unsafe fn add(volume: &Volume, id: *const c_char) -> Self {
        let volume = core::ptr::from_ref(volume).cast();
        // SAFETY: By contract; `show` takes what is passed with it.
        Self(unsafe { bindings::aegisfs_sysfs_add(id, volume, Some(show)) })
    }
}

impl Drop for Sysfs {
    fn drop(&mut self) {
        // SAFETY: From `add`, removed once. `show` is not called any more after that.
        unsafe { bindings::aegisfs_sysfs_remove(self.0) }
    }
}

/// Text in the page of a file.
struct Page<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl fmt::Write for Page<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.len.checked_add(s.len()).ok_or(fmt::Error)?;
        let to = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        to.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

unsafe extern "C" fn show(
    volume: *const c_void,
    name: *const c_char,
    out: *mut c_char,
    len: usize,
) -> isize {
    // SAFETY: `add` passed the volume, which is alive; the name is a string of `sysfs.c`, and `out` has
    // `len` bytes for us.
    let (volume, name, bytes) = unsafe {
        (
            &*volume.cast::<Volume>(),
            CStr::from_ptr(name.cast()),
            core::slice::from_raw_parts_mut(out.cast::<u8>(), len),
        )
    };
    let mut page = Page { bytes, len: 0 };
    match write(volume, name.to_bytes(), &mut page).and_then(|()| page.write_str("\n")) {
        Ok(()) => page.len as isize,
        Err(fmt::Error) => EIO.to_errno() as isize,
    }
}

fn write(volume: &Volume, name: &[u8], page: &mut Page<'_>) -> fmt::Result {
    let fs = &volume.fs;
    let mut events = DeviceEvent::ALL.into_iter();
    if let Some(event) = events.find(|e| e.as_str().as_bytes() == name) {
        let stats = fs.device_stats(0).unwrap_or_default();
        return write!(page, "{}", stats.get(event));
    }
    match name {
        b"uuid" => {
            for (i, byte) in fs.info().uuid.into_iter().enumerate() {
                let dash = if [4, 6, 8, 10].contains(&i) { "-" } else { "" };
                write!(page, "{dash}{byte:02x}")?;
            }
            return Ok(());
        }
        b"label" => {
            let label = fs.info().label;
            // Bytes that would break the line do not come through mkfs, but from strange images.
            for byte in label.into_iter().take_while(|b| *b != 0) {
                let shown = if byte.is_ascii_control() { b'?' } else { byte };
                page.push(shown)?;
            }
            return Ok(());
        }
        b"generation" => return write!(page, "{}", fs.info().generation),
        _ => {}
    }
    let s = fs.scrub_status();
    match name {
        b"state" => page.write_str(s.state.as_str()),
        b"bytes_done" => write!(page, "{}", s.done),
        b"bytes_total" => write!(page, "{}", s.total),
        b"errors_found" => write!(page, "{}", s.metadata_errors.saturating_add(s.data_errors)),
        b"errors_healed" => write!(page, "{}", s.healed),
        b"uncorrectable" => write!(page, "{}", s.metadata_lost.saturating_add(s.data_lost)),
        _ => Err(fmt::Error),
    }
}

impl Page<'_> {
    fn push(&mut self, byte: u8) -> fmt::Result {
        *self.bytes.get_mut(self.len).ok_or(fmt::Error)? = byte;
        self.len += 1;
        Ok(())
    }
}
