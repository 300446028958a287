//! Counts what goes through a client.
//!
//! A wrapper round any [`ReplicaClient`]; names of operations are those of the
//! `operation` label in the metrics.
//!
//! Spec: backends §1.8.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ltx::Txid;

use crate::lease::LockStore;
use crate::{ByteStream, Error, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};

/// A client that counts what the one inside does.
pub struct Metered {
    inner: Arc<dyn ReplicaClient>,
    operations: Arc<Operations>,
}

/// Running counts, shared by any number of clients.
#[derive(Debug, Default)]
pub struct Operations {
    put: Counter,
    get: Counter,
    delete: Counter,
    list: Counter,
}

/// What was counted, per operation, since the counters were made.
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
    /// How long calls took, successful or not. A `GET` ends here when its bytes
    /// begin to arrive.
    pub durations: Durations,
}

/// How long calls took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// Calls that took at most as long as the bound of the same index; each call
    /// is in one bucket only.
    pub buckets: [u64; BOUNDS_SECONDS.len()],
    /// All calls.
    pub count: u64,
    /// All their time.
    pub sum: Duration,
}

/// Upper bounds of [`Durations::buckets`].
pub const BOUNDS_SECONDS: [f64; 9] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    calls: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BOUNDS_SECONDS.len()],
    /// Failures by [`Error::code`]. Stores have a few dozen codes.
    codes: Mutex<BTreeMap<String, u64>>,
}

impl Counter {
    fn record<T>(&self, began: Instant, result: Result<T>, count: u64) -> Result<T> {
        let took = began.elapsed();
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let bucket = BOUNDS_SECONDS.iter().position(|&bound| took.as_secs_f64() <= bound);
        if let Some(bucket) = bucket.and_then(|at| self.buckets.get(at)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        match &result {
            Ok(_) => {
                self.count.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) => self.failed(error),
        }
        result
    }

    fn failed(&self, error: &Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = codes.get_mut(error.code()) {
            *count += 1;
        } else if codes.len() < MAX_CODES {
            codes.insert(error.code().to_owned(), 1);
        } else {
            // Whatever a store invents, the number of series stays bounded.
            *codes.entry("other".to_owned()).or_default() += 1;
        }
    }

    fn snapshot(&self) -> OperationCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OperationCounts {
            count: get(&self.count),
            bytes: get(&self.bytes),
            errors: get(&self.errors),
            durations: Durations {
                buckets: self.buckets.each_ref().map(get),
                count: get(&self.calls),
                sum: Duration::from_nanos(get(&self.nanos)),
            },
        }
    }
}

impl Operations {
    /// The counts at this moment.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            put: self.put.snapshot(),
            get: self.get.snapshot(),
            delete: self.delete.snapshot(),
            list: self.list.snapshot(),
        }
    }

    /// Failures by operation and [`Error::code`].
    pub fn failures(&self) -> Vec<(&'static str, String, u64)> {
        let counters = [("PUT", &self.put), ("GET", &self.get), ("DELETE", &self.delete), ("LIST", &self.list)];
        counters
            .into_iter()
            .flat_map(|(operation, counter)| {
                let codes = counter.codes.lock().unwrap_or_else(PoisonError::into_inner).clone();
                codes.into_iter().map(move |(code, count)| (operation, code, count))
            })
            .collect()
    }
}

impl Metered {
    /// Counts from zero what `inner` does.
    pub fn new(inner: Arc<dyn ReplicaClient>) -> Self {
        Self::sharing(inner, Arc::default())
    }

    /// Adds what `inner` does to counters that others use too.
    pub fn sharing(inner: Arc<dyn ReplicaClient>, operations: Arc<Operations>) -> Self {
        Self { inner, operations }
    }

    /// The counts at this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.operations.snapshot()
    }

    /// Counts one opened file, and its bytes as they come.
    fn count_bytes(&self, began: Instant, opened: Result<ByteStream>) -> Result<ByteStream> {
        let stream = self.operations.get.record(began, opened, 1)?;
        let operations = self.operations.clone();
        Ok(Box::pin(stream.inspect(move |chunk| match chunk {
            Ok(chunk) => {
                operations.get.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            Err(error) => operations.get.failed(error),
        })))
    }
}

/// Different error codes that are kept apart for one operation.
const MAX_CODES: usize = 64;

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
        let began = Instant::now();
        self.operations.list.record(began, self.inner.list(level, seek, metadata).await, 1)
    }

    fn lists_true_times(&self) -> bool {
        self.inner.lists_true_times()
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        let began = Instant::now();
        self.count_bytes(began, self.inner.open(id, offset, len).await)
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let began = Instant::now();
        self.operations.list.record(began, self.inner.list_objects(prefix).await, 1)
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let began = Instant::now();
        self.count_bytes(began, self.inner.open_object(key, offset, len).await)
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        let began = Instant::now();
        let info = self.operations.put.record(began, self.inner.write(request).await, 1)?;
        self.operations.put.bytes.fetch_add(info.size, Ordering::Relaxed);
        Ok(info)
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let began = Instant::now();
        self.operations.delete.record(began, self.inner.delete(files).await, files.len() as u64)
    }

    async fn delete_all(&self) -> Result<()> {
        let began = Instant::now();
        self.operations.delete.record(began, self.inner.delete_all().await, 0)
    }

    async fn claim(&self) -> Result<bool> {
        self.inner.claim().await
    }

    async fn release(&self) -> Result<()> {
        self.inner.release().await
    }

    fn lock(&self) -> Option<Box<dyn LockStore>> {
        self.inner.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn codes_that_a_store_invents_do_not_grow_the_metrics_without_end() {
        let operations = Operations::default();
        for number in 0..MAX_CODES + 3 {
            let error = Error::new(ErrorKind::Transient, "x").with_code(&format!("Code{number:03}"));
            operations.put.failed(&error);
        }
        // One that is known already is still kept apart.
        operations.put.failed(&Error::new(ErrorKind::Transient, "x").with_code("Code000"));
        let failures = operations.failures();
        assert_eq!(failures.len(), MAX_CODES + 1);
        assert_eq!(failures.first(), Some(&("PUT", "Code000".to_owned(), 2)));
        assert_eq!(failures.last(), Some(&("PUT", "other".to_owned(), 3)));
        assert_eq!(operations.snapshot().put.errors, MAX_CODES as u64 + 4);
    }
}
