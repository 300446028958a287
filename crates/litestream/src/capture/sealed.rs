//! A delta on its way to becoming a level-0 file.
//!
//! Encoding and flushing megabytes takes tens of milliseconds, in which a fast
//! writer fills the WAL and the pin has to move: so it happens on a thread of its
//! own. Only the file is made there. Position and page sums are written by whoever
//! collects the result, in the order that must never change: file, sums, position.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use ltx::{Checksum, Header, Pgno, Txid};

use super::delta::OpenDelta;
use super::l0;
use crate::error::{Error, ErrorKind, Result};
use crate::meta::{MetaDir, Pace};
use crate::position::Position;
use crate::wal::WalPosition;

/// See the module's description. Dropping it waits for the thread: a file must not
/// appear later under a TXID that another has taken.
pub(super) struct SealedDelta {
    pub(super) delta: OpenDelta,
    header: Header,
    meta: Arc<MetaDir>,
    task: Option<JoinHandle<Result<Written>>>,
}

/// A level-0 file that is durable under its final name.
pub(super) struct Written {
    pub(super) txid: Txid,
    pub(super) file_checksum: Checksum,
    /// Sums of its pages.
    pub(super) sums: Vec<(Pgno, Checksum)>,
}

impl Written {
    /// The position behind this file; `from` is the one before it.
    pub(super) fn position(&self, from: Position, commit: u32, wal: WalPosition) -> Position {
        Position { txid: self.txid, file_checksum: self.file_checksum, commit, wal, ..from }
    }
}

impl SealedDelta {
    /// Starts writing `delta` as the file that `header` describes.
    pub(super) fn start(meta: Arc<MetaDir>, header: Header, delta: OpenDelta) -> Self {
        let mut sealed = Self { delta, header, meta, task: None };
        sealed.spawn();
        sealed
    }

    fn spawn(&mut self) {
        let (meta, header) = (self.meta.clone(), self.header.clone());
        let (pages, scratch) = (self.delta.pages.clone(), self.delta.scratch.clone());
        let write = move || {
            step_back();
            l0::write_file(&meta, header, &pages, scratch.as_file(), Pace::Aside, || Ok(()))
        };
        // Without a thread to be had it is written when the result is asked for.
        self.task = thread::Builder::new().name("seal".to_owned()).spawn(write).ok();
    }

    /// The finished file; `None` while it is being written, unless told to wait.
    ///
    /// # Errors
    /// What kept it from being written. The next call starts over.
    pub(super) fn written(&mut self, wait: bool) -> Result<Option<Written>> {
        if !wait && self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(None);
        }
        match self.task.take() {
            Some(task) => match task.join() {
                Ok(written) => written.map(Some),
                Err(_) => Err(Error::new(ErrorKind::Transient, "the thread that writes ltx files panicked")),
            },
            None => {
                let OpenDelta { pages, scratch, .. } = &self.delta;
                l0::write_file(&self.meta, self.header.clone(), pages, scratch.as_file(), Pace::AtOnce, || Ok(()))
                    .map(Some)
            }
        }
    }
}

impl Drop for SealedDelta {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            // A result nobody wants any more.
            drop(task.join());
        }
    }
}

/// Lets the application and the capture of what it writes go first.
fn step_back() {
    // Linux gives each thread a priority of its own. Elsewhere, or if it is refused,
    // the file is written all the same.
    #[cfg(target_os = "linux")]
    if rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS).is_err() {
        tracing::trace!("thread priority not changed");
    }
}

#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;
