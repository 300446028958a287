//! Reads that survive a dropped connection.
//!
//! A restore keeps many files open and drinks from each in turn; stores close
//! downloads that stand idle. The reader here knows how long the file is, so an
//! early end is a drop, and it goes on where the last stream stopped.
//!
//! Spec: store-and-restore §3 (resumable reads), backends §1.7.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{ByteStream, Error, ErrorKind, FileId, FileInfo, ReplicaClient, Result};

/// What a store holds and a listing gave the size of.
#[derive(Clone, Debug)]
pub enum Stored {
    /// An LTX file.
    File(FileId),
    /// An object of another layout, by its key.
    Object(Arc<str>),
}

impl From<FileId> for Stored {
    fn from(id: FileId) -> Self {
        Self::File(id)
    }
}

impl From<&FileInfo> for Stored {
    fn from(file: &FileInfo) -> Self {
        Self::File(file.id)
    }
}

impl Stored {
    async fn open(&self, client: &dyn ReplicaClient, offset: u64, len: u64) -> Result<ByteStream> {
        match self {
            Self::File(id) => client.open(*id, offset, len).await,
            Self::Object(key) => client.open_object(key, offset, len).await,
        }
    }

    /// Names a place in it, in upstream's words where it has any.
    fn describe(&self, offset: u64) -> String {
        match self {
            Self::File(FileId { level, min, max }) => {
                format!("ltx file (level={level}, min={min}, max={max}, offset={offset})")
            }
            Self::Object(key) => format!("object {key} (offset={offset})"),
        }
    }
}

/// Reads the bytes of `file` from `start` up to, not including, `end`.
///
/// `end` is at most the size that the listing gave. Nothing is opened before the
/// first poll. Each stretch without progress may fail three times, with waits of
/// 250, 500 and 1000 ms; progress restores the budget, since a long read over a
/// poor line sees many drops. The stream yields exactly `end - start` bytes or
/// an error, after which it ends.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound), [`Cancelled`](ErrorKind::Cancelled) and
/// every other kind but [`Transient`](ErrorKind::Transient) at once; `Transient`
/// as `max retries exceeded reading …`. When every attempt ended
/// cleanly and early at the same place, the file is shorter than its listing:
/// the same text, but [`Corrupt`](ErrorKind::Corrupt).
pub fn resuming(client: Arc<dyn ReplicaClient>, file: impl Into<Stored>, start: u64, end: u64) -> ByteStream {
    let state = Reader { client, file: file.into(), offset: start, end, current: None, failures: 0, early_ends: 0 };
    Box::pin(stream::try_unfold(state, |mut reader| async move {
        let chunk = reader.next().await?;
        Ok(chunk.map(|chunk| (chunk, reader)))
    }))
}

struct Reader {
    client: Arc<dyn ReplicaClient>,
    file: Stored,
    offset: u64,
    end: u64,
    current: Option<ByteStream>,
    /// Attempts in a row that brought nothing.
    failures: u32,
    /// How many of them ended without an error.
    early_ends: u32,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.offset < self.end {
            let error = match self.attempt().await {
                Ok(chunk) if chunk.is_empty() => continue,
                Ok(chunk) => {
                    self.failures = 0;
                    self.early_ends = 0;
                    return Ok(Some(chunk));
                }
                Err(error) => error,
            };
            self.current = None;
            if !error.is_retryable() {
                return Err(error);
            }
            if self.failures == MAX_FAILURES {
                let kind = if self.early_ends > MAX_FAILURES { ErrorKind::Corrupt } else { error.kind() };
                let context = format!("max retries exceeded reading {}", self.file.describe(self.offset));
                return Err(Error::with_source(kind, context, error));
            }
            let wait = FIRST_WAIT * 2u32.pow(self.failures);
            self.failures += 1;
            tracing::debug!(file = ?self.file, offset = self.offset, attempt = self.failures, %error, "read interrupted, resuming");
            tokio::time::sleep(wait).await;
        }
        Ok(None)
    }

    /// The next bytes of the open stream, opening it first if there is none.
    async fn attempt(&mut self) -> Result<Bytes> {
        let wanted = self.end - self.offset;
        let current = match &mut self.current {
            Some(current) => current,
            empty => empty.insert(self.file.open(&*self.client, self.offset, wanted).await?),
        };
        let Some(chunk) = current.next().await else {
            self.early_ends += 1;
            return Err(Error::new(ErrorKind::Transient, "unexpected EOF"));
        };
        let mut chunk = chunk?;
        // A store may answer with more than was asked for.
        chunk.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        self.offset += chunk.len() as u64;
        Ok(chunk)
    }
}

const MAX_FAILURES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(250);
