//! Counts what goes through a client.
//!
//! A wrapper round any [`ReplicaClient`]; names of operations are those of the
//! `operation` label in the metrics.
//!
//! Spec: backends §1.8.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use ltx::Txid;

use crate::{ByteStream, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};

/// A client that counts operations, bytes and errors of the one inside.
pub struct Metered {
    inner: Arc<dyn ReplicaClient>,
    counters: Arc<Counters>,
}

/// What was counted, per operation, since the client was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Files stored.
    pub put: OperationCounts,
    /// Files opened for reading; bytes are counted as they arrive.
    pub get: OperationCounts,
    /// Files deleted.
    pub delete: OperationCounts,
    /// Levels and prefixes listed; bytes stay zero.
    pub list: OperationCounts,
}

impl Snapshot {
    /// Every operation with the name that metrics give it.
    pub fn operations(&self) -> [(&'static str, OperationCounts); 4] {
        [("PUT", self.put), ("GET", self.get), ("DELETE", self.delete), ("LIST", self.list)]
    }
}

/// Counts of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Operations that succeeded.
    pub count: u64,
    /// Payload bytes moved.
    pub bytes: u64,
    /// Operations that failed, streams that broke included.
    pub errors: u64,
}

#[derive(Debug, Default)]
struct Counters {
    put: Counter,
    get: Counter,
    delete: Counter,
    list: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl Counter {
    fn record<T>(&self, result: Result<T>, count: u64) -> Result<T> {
        match &result {
            Ok(_) => self.count.fetch_add(count, Ordering::Relaxed),
            Err(_) => self.errors.fetch_add(1, Ordering::Relaxed),
        };
        result
    }

    fn snapshot(&self) -> OperationCounts {
        OperationCounts {
            count: self.count.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }
}

impl Metered {
    /// Counts from zero what `inner` does.
    pub fn new(inner: Arc<dyn ReplicaClient>) -> Self {
        Self { inner, counters: Arc::default() }
    }

    /// The counts at this moment.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            put: self.counters.put.snapshot(),
            get: self.counters.get.snapshot(),
            delete: self.counters.delete.snapshot(),
            list: self.counters.list.snapshot(),
        }
    }

    /// Counts one opened file, and its bytes as they come.
    fn count_bytes(&self, opened: Result<ByteStream>) -> Result<ByteStream> {
        let stream = self.counters.get.record(opened, 1)?;
        let counters = self.counters.clone();
        Ok(Box::pin(stream.inspect(move |chunk| {
            match chunk {
                Ok(chunk) => counters.get.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed),
                Err(_) => counters.get.errors.fetch_add(1, Ordering::Relaxed),
            };
        })))
    }
}

#[async_trait::async_trait]
impl ReplicaClient for Metered {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        self.inner.log_fields()
    }

    async fn init(&self) -> Result<()> {
        self.inner.init().await
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        self.counters.list.record(self.inner.list(level, seek, metadata).await, 1)
    }

    fn lists_true_times(&self) -> bool {
        self.inner.lists_true_times()
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.count_bytes(self.inner.open(id, offset, len).await)
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.counters.list.record(self.inner.list_objects(prefix).await, 1)
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.count_bytes(self.inner.open_object(key, offset, len).await)
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        let info = self.counters.put.record(self.inner.write(request).await, 1)?;
        self.counters.put.bytes.fetch_add(info.size, Ordering::Relaxed);
        Ok(info)
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.counters.delete.record(self.inner.delete(files).await, files.len() as u64)
    }

    async fn delete_all(&self) -> Result<()> {
        self.counters.delete.record(self.inner.delete_all().await, 0)
    }
}
