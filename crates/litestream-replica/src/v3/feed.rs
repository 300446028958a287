//! Brings the objects of a plan, whole and in order, to the thread that decodes.
//!
//! A backup of one day may have eighty thousand small segments, so ranges are
//! fetched many at once; memory is reserved in the order of use, which keeps the
//! first range from ever waiting for the ones behind it.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::inventory::V3Plan;
use crate::restore::Progress;
use crate::restore::fetch::{Fetcher, MAX_PARALLELISM, MemoryShare};
use crate::restore::task_failed;
use crate::resume::Stored;
use crate::{Error, Result};

/// A stretch of one object.
struct Range {
    /// Which object of the plan.
    number: usize,
    key: Arc<str>,
    offset: u64,
    len: u64,
    is_last: bool,
}

/// Bytes on their way, with the memory they take.
pub(super) struct Part {
    bytes: Bytes,
    is_last: bool,
    _share: MemoryShare,
}

/// Fetches all objects of `plan` and sends them. Ends quietly when the other end
/// is gone, which then knows why.
///
/// # Errors
/// With the number of the object in the plan.
pub(super) async fn run(
    fetcher: Arc<Fetcher>,
    plan: &V3Plan,
    parallelism: usize,
    sender: mpsc::Sender<Part>,
    progress: &dyn Progress,
) -> Result<(), (usize, Error)> {
    let fetched = stream::iter(ranges(plan, fetcher.chunk_len()))
        .then(|range| {
            let fetcher = Arc::clone(&fetcher);
            async move {
                let share = fetcher.reserve(range.len).await;
                (range, share)
            }
        })
        .map(|(range, share)| {
            let fetcher = Arc::clone(&fetcher);
            let number = range.number;
            let task = tokio::spawn(async move {
                let bytes = fetcher.read(Stored::Object(range.key), range.offset, range.len).await?;
                Ok::<_, Error>(Part { bytes, is_last: range.is_last, _share: share? })
            });
            async move { (number, AbortOnDropHandle::new(task).await.unwrap_or_else(|e| Err(task_failed(e)))) }
        })
        .buffered(parallelism.clamp(1, MAX_PARALLELISM));
    let mut fetched = std::pin::pin!(fetched);
    while let Some((number, part)) = fetched.next().await {
        let part = part.map_err(|error| (number, error))?;
        let len = part.bytes.len() as u64;
        if sender.send(part).await.is_err() {
            return Ok(());
        }
        progress.advanced(len);
    }
    Ok(())
}

/// Every object cut into ranges of at most `range_len`; an empty one has a single
/// empty range.
fn ranges(plan: &V3Plan, range_len: u64) -> impl Iterator<Item = Range> {
    plan.objects().enumerate().flat_map(move |(number, object)| {
        let key: Arc<str> = object.key.as_str().into();
        let (size, count) = (object.size, object.size.div_ceil(range_len).max(1));
        (0..count).map(move |at| {
            let offset = at * range_len;
            let len = range_len.min(size - offset);
            Range { number, key: Arc::clone(&key), offset, len, is_last: at + 1 == count }
        })
    })
}

/// The decoder's end: one object after the other, each as a reader.
pub(super) struct Objects {
    receiver: mpsc::Receiver<Part>,
    current: Option<Part>,
    /// The object in hand has been read to its end.
    at_end: bool,
    /// Somebody wanted more than there was.
    overread: bool,
}

impl Objects {
    pub(super) fn new(receiver: mpsc::Receiver<Part>) -> Self {
        Self { receiver, current: None, at_end: true, overread: false }
    }

    /// A single object that is here already.
    #[cfg(test)]
    pub(super) fn of(bytes: Bytes) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let share = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        assert!(sender.try_send(Part { bytes, is_last: true, _share: share }).is_ok());
        Self::new(receiver)
    }

    /// Goes on to the next object. The one before must be at its end.
    pub(super) fn begin(&mut self) {
        debug_assert!(self.at_end, "an object is read to its end");
        (self.at_end, self.overread) = (false, false);
    }

    /// Whether no byte of the object is left; waits to find out.
    pub(super) fn is_at_end(&mut self) -> io::Result<bool> {
        while !self.at_end {
            match &self.current {
                Some(part) if part.bytes.has_remaining() => return Ok(false),
                Some(part) if part.is_last => {
                    self.at_end = true;
                    self.current = None;
                }
                _ => {
                    let part = self.receiver.blocking_recv();
                    self.current = Some(part.ok_or_else(|| io::Error::other(Abandoned))?);
                }
            }
        }
        Ok(true)
    }

    /// Whether the reader was asked for bytes beyond the end.
    pub(super) fn was_overread(&self) -> bool {
        self.overread
    }
}

impl Read for Objects {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.is_at_end()? {
            self.overread = true;
            return Ok(0);
        }
        let Some(part) = &mut self.current else { return Ok(0) };
        let len = part.bytes.len().min(buffer.len());
        part.bytes.copy_to_slice(buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }
}

/// The sender is gone before the end: it failed, and says why.
#[derive(Debug, thiserror::Error)]
#[error("reader abandoned")]
pub(super) struct Abandoned;

impl Abandoned {
    pub(super) fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|source| source.is::<Self>())
    }
}
