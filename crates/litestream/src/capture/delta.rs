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

use super::sealed::SealedDelta;
use super::{Base, Capture};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::wal::{Frames, WalPosition};

/// See the module's description.
pub(super) struct OpenDelta {
    name: &'static str,
    pub(super) scratch: Arc<DiskFile>,
    page_size: PageSize,
    /// Where each page stands in the scratch file.
    pub(super) pages: BTreeMap<Pgno, u64>,
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
    /// The position with what the deltas hold on top: where capture goes on.
    pub(super) fn captured(&self) -> Result<Position> {
        let position = self.known()?;
        let newest = self.delta.as_ref().or(self.sealed.as_ref().map(|sealed| &sealed.delta));
        Ok(match newest {
            Some(delta) => Position { commit: delta.commit, wal: delta.end, ..position },
            None => position,
        })
    }

    /// True when captured pages wait to become a transaction.
    pub(crate) fn has_open_delta(&self) -> bool {
        self.delta.is_some() || self.sealed.is_some()
    }

    /// Moves the place behind what was captured, when the WAL has started over.
    pub(super) fn move_captured(&mut self, here: Position) -> Result<()> {
        let newest = self.delta.as_mut().or(self.sealed.as_mut().map(|sealed| &mut sealed.delta));
        match newest {
            Some(delta) => delta.end = here.wal,
            None => {
                self.base = Base::Known(here);
                self.local_mut()?.position_file.store(&here)?;
            }
        }
        Ok(())
    }

    /// True when the open delta is large enough to become a transaction early.
    pub(super) fn is_delta_full(&self) -> bool {
        self.delta.as_ref().is_some_and(|delta| delta.len >= MAX_DELTA_LEN)
    }

    /// The scratch file that no sealed delta is read from.
    fn free_scratch(&self) -> &'static str {
        let [first, second] = SCRATCH;
        if self.sealed.as_ref().is_some_and(|sealed| sealed.delta.name == first) { second } else { first }
    }

    /// Adds a range of frames to the open delta. On failure nothing captured since
    /// the last file is believed any more.
    pub(super) fn absorb(&mut self, frames: &Frames, wal: &File) -> Result<()> {
        let position = self.captured()?;
        let mut delta = match self.delta.take() {
            Some(delta) => delta,
            None => {
                let name = self.free_scratch();
                let scratch = self.local()?.meta.open_side_file(name)?;
                scratch.set_len(0).map_err(|e| Error::io("stage-open open delta", e))?;
                OpenDelta {
                    name,
                    scratch: Arc::new(scratch),
                    page_size: position.page_size,
                    pages: BTreeMap::new(),
                    len: 0,
                    commit: position.commit,
                    end: position.wal,
                }
            }
        };
        match delta.absorb(frames, wal) {
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

    /// Makes everything captured so far transactions, and waits for them. On failure
    /// nothing is lost and it can be tried again; no TXID is used up.
    pub(super) fn publish_delta(&mut self) -> Result<()> {
        self.finish_sealed(true)?;
        if self.delta.is_some() {
            self.seal_delta()?;
            self.finish_sealed(true)?;
        }
        Ok(())
    }

    /// Lets the open delta become a transaction on the side, if it is worth a thread
    /// and the one before it is done; capture goes on meanwhile.
    pub(super) fn publish_delta_aside(&mut self) -> Result<()> {
        self.finish_sealed(false)?;
        let Some(delta) = &self.delta else { return Ok(()) };
        if self.sealed.is_some() {
            return Ok(());
        }
        if delta.len < ASIDE_LEN { self.publish_delta() } else { self.seal_delta() }
    }

    fn seal_delta(&mut self) -> Result<()> {
        let position = self.known()?;
        let Some(delta) = self.delta.take() else { return Ok(()) };
        let header = self.l0_header(&position, delta.commit, delta.end);
        let meta = self.local()?.meta.clone();
        self.sealed = Some(SealedDelta::start(meta, header, delta));
        Ok(())
    }

    /// Makes a sealed delta the new position when its file is durable; waits for that
    /// if told to. After a failure the next call tries again.
    pub(super) fn finish_sealed(&mut self, wait: bool) -> Result<()> {
        let Some(sealed) = &mut self.sealed else { return Ok(()) };
        let Some(written) = sealed.written(wait)? else { return Ok(()) };
        let (commit, end) = (sealed.delta.commit, sealed.delta.end);
        let scratch = sealed.delta.scratch.clone();
        let from = self.known()?;
        self.publish(written.position(from, commit, end), &written.sums)?;
        self.sealed = None;
        // The space is wanted back, but the pages are safe whether or not it comes.
        scratch.set_len(0).map_err(|e| Error::io("empty open delta", e))
    }

    /// Forgets pages that are no transaction yet. A file that was being written may
    /// still appear; it is then found like one from before a crash.
    pub(super) fn drop_deltas(&mut self) {
        self.delta = None;
        self.sealed = None;
    }
}

/// Names of the two scratch files: one fills while the other becomes a file.
const SCRATCH: [&str; 2] = ["open-delta", "sealed-delta"];
/// Bytes of pages after which a delta becomes a transaction before its time.
const MAX_DELTA_LEN: u64 = 32 << 20;
/// Bytes of pages that are worth a thread: less is written sooner than handed over.
const ASIDE_LEN: u64 = 512 << 10;
