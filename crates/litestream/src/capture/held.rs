//! Frames copied as they are while the write lock is held.
//!
//! Under the lock every millisecond counts: the tail of the WAL is copied into a
//! scratch file at its own offsets, and is read, checked and captured from there
//! when writers go on. By then its frames may have left the WAL. If that fails,
//! nothing captured since the last file is believed, and all pages are compared.

use std::os::unix::fs::FileExt;

use super::l0::Into;
use super::{Capture, PassReport};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::wal::{self, WalHeader};
use crate::wal_index::WalIndex;

/// See the module's description.
pub(super) struct HeldTail {
    copy: DiskFile,
    header: WalHeader,
    target: WalIndex,
}

impl Capture {
    /// Copies what is not captured yet. False when it must be captured at once,
    /// because the WAL has started over.
    pub(super) fn hold_tail(&mut self, target: &WalIndex) -> Result<bool> {
        let here = self.captured()?;
        if here.wal.salts != target.end.salts || here.wal.frame > target.end.frame {
            return Ok(false);
        }
        if here.wal.frame == target.end.frame || self.held.is_some() {
            return Ok(true);
        }
        let live = self.live()?;
        let copy = self.local()?.meta.open_side_file("held-tail")?;
        let start = wal::frame_offset(live.page_size, here.wal.frame);
        let end = wal::frame_offset(live.page_size, target.end.frame);
        let mut buffer = vec![0; COPY_LEN];
        let mut offset = start;
        while offset < end {
            let len = usize::try_from(end - offset).unwrap_or(COPY_LEN).min(COPY_LEN);
            let chunk = buffer.get_mut(..len).unwrap_or_default();
            live.wal.read_exact_at(chunk, offset).map_err(|e| Error::io("read wal", e))?;
            copy.write_all_at(chunk, offset).map_err(|e| Error::io("stage-write held tail", e))?;
            offset += len as u64;
        }
        let header = live.header(target.end.salts)?;
        self.held = Some(HeldTail { copy, header, target: *target });
        Ok(true)
    }

    /// Captures what was copied under the lock.
    ///
    /// # Errors
    /// After any error the capture state is forgotten: the WAL may not have the
    /// frames any more.
    pub(super) fn capture_held(&mut self, report: &mut PassReport) -> Result<()> {
        let Some(held) = self.held.take() else { return Ok(()) };
        let result = self.try_capture_held(&held, report);
        if result.is_err() {
            self.forget();
        }
        result
    }

    fn try_capture_held(&mut self, held: &HeldTail, report: &mut PassReport) -> Result<()> {
        while let Some(captured) =
            self.capture_from(held.copy.as_file(), Some(held.header), &held.target, Into::Delta)?
        {
            report.wal_bytes += captured;
        }
        held.copy.set_len(0).map_err(|e| Error::io("empty held tail", e))
    }
}

const COPY_LEN: usize = 1 << 20;
