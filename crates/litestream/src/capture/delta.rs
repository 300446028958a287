//! Pages that were captured but are not a transaction yet.
//!
//! While writers are fast the pin has to move many times a second, or the WAL
//! grows; a file for each move would mean that many uploads. So pages collect in
//! a scratch file and become one level-0 file when `sync-interval` says so. What
//! is captured under the write lock goes here too: it costs two system calls a
//! page and no flush of the disk.
//!
//! The scratch file dies with the process although its frames may have left the
//! WAL. That is safe: position and page sums still describe the last file, so the
//! next start finds the gap, compares all pages and captures what differs
//! (docs/decisions/0003-position.md).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ltx::{PageSize, Pgno};

use super::Capture;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::wal::{Frames, WalPosition};

/// See the module's description.
pub(super) struct OpenDelta {
    scratch: Arc<File>,
    page_size: PageSize,
    /// Where each page stands in the scratch file.
    pages: BTreeMap<Pgno, u64>,
    /// Length of the scratch file in use.
    len: u64,
    commit: u32,
    /// The place in the WAL behind what was captured.
    pub(super) end: WalPosition,
}

impl OpenDelta {
    /// Takes over the pages of a range of frames; the newest version wins.
    fn absorb(&mut self, frames: &Frames, wal: &File) -> Result<()> {
        let mut page = vec![0; self.page_size.len()];
        for (&pgno, &offset) in &frames.pages {
            wal.read_exact_at(&mut page, offset).map_err(|e| Error::io("read wal page", e))?;
            let slot = *self.pages.entry(pgno).or_insert_with(|| {
                self.len += u64::from(self.page_size.get());
                self.len - u64::from(self.page_size.get())
            });
            self.scratch.write_all_at(&page, slot).map_err(|e| Error::io("stage-write open delta", e))?;
        }
        self.pages.retain(|pgno, _| pgno.get() <= frames.commit);
        self.commit = frames.commit;
        self.end = frames.end;
        Ok(())
    }
}

impl Capture {
    /// The position with what the open delta holds on top: where capture goes on.
    pub(super) fn captured(&self) -> Result<Position> {
        let position = self.known()?;
        Ok(match &self.delta {
            Some(delta) => Position { commit: delta.commit, wal: delta.end, ..position },
            None => position,
        })
    }

    /// True when captured pages wait to become a transaction.
    pub(crate) fn has_open_delta(&self) -> bool {
        self.delta.is_some()
    }

    /// True when the open delta is large enough to become a transaction early.
    pub(super) fn is_delta_full(&self) -> bool {
        self.delta.as_ref().is_some_and(|delta| delta.len >= MAX_DELTA_LEN)
    }

    /// Adds a range of frames to the open delta. On failure nothing captured since
    /// the last file is believed any more.
    pub(super) fn absorb(&mut self, frames: &Frames) -> Result<()> {
        let position = self.captured()?;
        let wal = self.live()?.wal.clone();
        let mut delta = match self.delta.take() {
            Some(delta) => delta,
            None => {
                let scratch = self.local()?.meta.open_side_file("open-delta")?;
                scratch.set_len(0).map_err(|e| Error::io("stage-open open delta", e))?;
                OpenDelta {
                    scratch: Arc::new(scratch),
                    page_size: position.page_size,
                    pages: BTreeMap::new(),
                    len: 0,
                    commit: position.commit,
                    end: position.wal,
                }
            }
        };
        match delta.absorb(frames, &wal) {
            Ok(()) => {
                self.delta = Some(delta);
                Ok(())
            }
            Err(err) => {
                self.forget();
                Err(err)
            }
        }
    }

    /// Makes the open delta the next transaction. On failure it stays open and can
    /// be tried again; its TXID is not used up.
    pub(super) fn publish_delta(&mut self) -> Result<()> {
        let position = self.known()?;
        let Some(delta) = &self.delta else { return Ok(()) };
        let (scratch, commit, end) = (delta.scratch.clone(), delta.commit, delta.end);
        let pages = delta.pages.clone();
        self.write_l0(&position, commit, end, &pages, &scratch)?;
        self.delta = None;
        // The space is wanted back, but the pages are safe whether or not it comes.
        scratch.set_len(0).map_err(|e| Error::io("empty open delta", e))
    }
}

/// Bytes of pages after which a delta becomes a transaction before its time. Encoding
/// and flushing it holds up capture, and a fast writer fills the WAL meanwhile: with
/// 64 MiB it reached 160 MB, with 8 MiB it stays below 64 MB.
const MAX_DELTA_LEN: u64 = 8 << 20;
