//! Byte ranges of stored files, complete or an error.
//!
//! Two limits hold over a whole restore: how many requests run at once (what the
//! user calls parallelism) and how many bytes are in memory between the store
//! and the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::resume::{Stored, resuming};
use crate::{ByteStream, Error, ErrorKind, ReplicaClient, Result};

/// Reads ranges from one store, within the limits.
pub(crate) struct Fetcher {
    client: Arc<dyn ReplicaClient>,
    requests: Semaphore,
    memory: Arc<Semaphore>,
    buffers: Buffers,
    fetched: AtomicU64,
}

/// A share of the memory budget, returned on drop.
pub(crate) type MemoryShare = OwnedSemaphorePermit;

impl Fetcher {
    /// At most `parallelism` requests at once.
    pub(crate) fn new(client: Arc<dyn ReplicaClient>, parallelism: usize) -> Self {
        Self {
            client,
            requests: Semaphore::new(parallelism.clamp(1, MAX_PARALLELISM)),
            memory: Arc::new(Semaphore::new(MEMORY_BUDGET_KIB as usize)),
            buffers: Buffers::default(),
            fetched: AtomicU64::new(0),
        }
    }

    /// Bytes received so far, repeated ones included.
    pub(crate) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// How many bytes to ask for at once: enough that a request pays, little
    /// enough that many fit the memory budget.
    pub(crate) fn chunk_len(&self) -> u64 {
        // A local file costs no round trip, and a read of this length arrives in
        // one piece that need not be copied.
        if self.client.kind() == "file" { LOCAL_CHUNK_LEN } else { REMOTE_CHUNK_LEN }
    }

    /// Waits until `len` more bytes may be in memory.
    pub(crate) async fn reserve(&self, len: u64) -> Result<MemoryShare> {
        let kib = u32::try_from(len.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, MEMORY_BUDGET_KIB);
        Arc::clone(&self.memory).acquire_many_owned(kib).await.map_err(closed)
    }

    /// Bytes `offset .. offset + len` of a file.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) when the file ends before that.
    pub(crate) async fn read(&self, file: impl Into<Stored>, offset: u64, len: u64) -> Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let _request = self.requests.acquire().await.map_err(closed)?;
        let mut stream = self.stream(file, offset, len);
        let first = stream.next().await?.unwrap_or_default();
        if first.len() as u64 == len {
            return Ok(first);
        }
        let mut buffer = self.buffers.take();
        buffer.extend_from_slice(&first);
        while let Some(part) = stream.next().await? {
            buffer.extend_from_slice(&part);
        }
        Ok(self.buffers.freeze(buffer))
    }

    /// Holds one of the request slots, for [`stream`](Self::stream).
    pub(crate) async fn request(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.requests.acquire().await.map_err(closed)
    }

    /// The same bytes as they arrive. The caller holds a [`request`](Self::request).
    pub(crate) fn stream(&self, file: impl Into<Stored>, offset: u64, len: u64) -> RangeStream<'_> {
        let stream = resuming(Arc::clone(&self.client), file, offset, offset.saturating_add(len));
        RangeStream { fetched: &self.fetched, stream }
    }
}

/// A range as it arrives, counted.
pub(crate) struct RangeStream<'a> {
    fetched: &'a AtomicU64,
    stream: ByteStream,
}

impl RangeStream<'_> {
    /// The next bytes; `None` once the range is complete.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let bytes = self.stream.next().await.transpose()?;
        self.fetched.fetch_add(bytes.as_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Buffers used over and over. Allocating megabytes on one thread and freeing
/// them on another made the allocator keep several times of what was in use.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Bytes that return their buffer when the last of them is dropped.
    fn freeze(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Filled { buffer, home: self.clone() })
    }
}

/// A buffer in use.
struct Filled {
    buffer: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

fn closed(_: tokio::sync::AcquireError) -> Error {
    Error::new(ErrorKind::Cancelled, "restore cancelled")
}

/// Memory between the store and the disk, files read whole and chunks together.
const MEMORY_BUDGET_KIB: u32 = 24 << 10;

const LOCAL_CHUNK_LEN: u64 = 1 << 20;
const REMOTE_CHUNK_LEN: u64 = 2 << 20;

/// More connections than this never helped anybody.
pub(crate) const MAX_PARALLELISM: usize = 256;
