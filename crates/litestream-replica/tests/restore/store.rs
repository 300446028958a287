//! A store in memory that counts, stalls, fails and loses files as told.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use litestream_replica::{
    ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest,
};
use ltx::Txid;
use tokio::sync::Semaphore;

#[derive(Default)]
pub(crate) struct Store {
    files: Mutex<BTreeMap<FileId, Bytes>>,
    script: Mutex<Script>,
    /// What was asked for and given.
    pub(crate) seen: Seen,
}

#[derive(Default)]
struct Script {
    vanish_on_open: HashMap<FileId, ()>,
    fail_after: Option<u64>,
    fail_times: u64,
    hide_once: Vec<FileId>,
    listed_longer: HashMap<FileId, u64>,
    gate: Option<Arc<Semaphore>>,
    tracked: Option<Arc<InMemory>>,
    stored_at: Option<Timestamp>,
    opens_left: Option<u64>,
}

/// Bytes handed out and not yet dropped.
#[derive(Default)]
pub(crate) struct InMemory {
    now: AtomicU64,
    pub(crate) most: AtomicU64,
}

struct Tracked(Bytes, Arc<InMemory>);

impl Tracked {
    fn hand_out(bytes: Bytes, memory: &Arc<InMemory>) -> Bytes {
        let now = memory.now.fetch_add(bytes.len() as u64, Ordering::SeqCst) + bytes.len() as u64;
        memory.most.fetch_max(now, Ordering::SeqCst);
        // A copy, so that the memory is really there.
        Bytes::from_owner(Self(Bytes::from(bytes.to_vec()), Arc::clone(memory)))
    }
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.1.now.fetch_sub(self.0.len() as u64, Ordering::SeqCst);
    }
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) lists: AtomicU64,
    pub(crate) lists_now: AtomicU64,
    pub(crate) lists_most: AtomicU64,
    pub(crate) opens: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) open_now: AtomicU64,
    pub(crate) open_most: AtomicU64,
    pub(crate) longest_read: AtomicU64,
    pub(crate) opens_of: Mutex<HashMap<FileId, u64>>,
}

impl Store {
    pub(crate) fn new(files: impl IntoIterator<Item = (FileId, Vec<u8>)>) -> Arc<Self> {
        let store = Self::default();
        *store.files.lock().unwrap() = files.into_iter().map(|(id, bytes)| (id, Bytes::from(bytes))).collect();
        Arc::new(store)
    }

    pub(crate) fn put(&self, id: FileId, bytes: Vec<u8>) {
        self.files.lock().unwrap().insert(id, Bytes::from(bytes));
    }

    pub(crate) fn get(&self, id: FileId) -> Vec<u8> {
        self.files.lock().unwrap()[&id].to_vec()
    }

    pub(crate) fn ids(&self) -> Vec<FileId> {
        self.files.lock().unwrap().keys().copied().collect()
    }

    /// The first time this file is opened it is gone, and stays gone.
    pub(crate) fn vanish_on_open(&self, id: FileId) {
        self.script.lock().unwrap().vanish_on_open.insert(id, ());
    }

    /// The next listing of its level does not show this file.
    pub(crate) fn hide_once(&self, id: FileId) {
        self.script.lock().unwrap().hide_once.push(id);
    }

    /// Listings show the file longer than it is.
    pub(crate) fn list_longer(&self, id: FileId, by: u64) {
        self.script.lock().unwrap().listed_longer.insert(id, by);
    }

    /// After so many further opens the store cannot be reached; `None` is never.
    pub(crate) fn go_away_after(&self, opens: Option<u64>) {
        self.script.lock().unwrap().opens_left = opens;
    }

    /// From now on listings show when objects were stored, as S3 does: all at once.
    pub(crate) fn list_stored_at(&self, time: Timestamp) {
        self.script.lock().unwrap().stored_at = Some(time);
    }

    /// The next `times` transfers break off after `bytes` bytes.
    pub(crate) fn break_transfers(&self, times: u64, bytes: u64) {
        let mut script = self.script.lock().unwrap();
        script.fail_after = Some(bytes);
        script.fail_times = times;
    }

    /// From now on each open waits for a permit of the semaphore.
    pub(crate) fn gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.script.lock().unwrap().gate = Some(Arc::clone(&gate));
        gate
    }

    /// Opens wait no longer.
    pub(crate) fn ungate(&self) {
        self.script.lock().unwrap().gate = None;
    }

    /// From now on each transfer comes in one part, and is followed until dropped.
    pub(crate) fn track_memory(&self) -> Arc<InMemory> {
        let memory = Arc::new(InMemory::default());
        self.script.lock().unwrap().tracked = Some(Arc::clone(&memory));
        memory
    }

    /// Waits until `count` opens stand before the gate.
    pub(crate) async fn until_waiting(&self, count: u64) {
        for _ in 0..1_000_000 {
            if self.seen.open_now.load(Ordering::SeqCst) == count {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{} opens wait, not {count}", self.seen.open_now.load(Ordering::SeqCst));
    }

    /// When a transaction was captured: one a second.
    pub(crate) fn time_of(txid: Txid) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(txid.get() as i64)
    }
}

fn object_key(id: FileId) -> String {
    format!("ltx/{}/{}", id.level, id.name())
}

/// Parts in which a transfer arrives.
const PART_LEN: usize = 16 << 10;

#[async_trait::async_trait]
impl ReplicaClient for Store {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn init(&self) -> Result<()> {
        Ok(())
    }

    fn lists_true_times(&self) -> bool {
        self.script.lock().unwrap().stored_at.is_none()
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        self.seen.lists.fetch_add(1, Ordering::SeqCst);
        let now = self.seen.lists_now.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.lists_most.fetch_max(now, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.seen.lists_now.fetch_sub(1, Ordering::SeqCst);
        let mut script = self.script.lock().unwrap();
        assert!(!(metadata && script.stored_at.is_some()), "asks for each file's time");
        let files = self.files.lock().unwrap();
        let shown = files.iter().filter(|(id, _)| id.level == level && id.min >= seek);
        let listing = shown
            .filter(|(id, _)| !script.hide_once.contains(id))
            .map(|(id, bytes)| {
                let size = bytes.len() as u64 + script.listed_longer.get(id).copied().unwrap_or_default();
                FileInfo { id: *id, size, created_at: script.stored_at.unwrap_or(Self::time_of(id.max)) }
            })
            .collect();
        script.hide_once.retain(|id| id.level != level);
        Ok(listing)
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        let gate = self.script.lock().unwrap().gate.clone();
        self.seen.opens.fetch_add(1, Ordering::SeqCst);
        *self.seen.opens_of.lock().unwrap().entry(id).or_default() += 1;
        let now = self.seen.open_now.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.open_most.fetch_max(now, Ordering::SeqCst);
        self.seen.longest_read.fetch_max(len, Ordering::SeqCst);
        // Let others open too, so that what can run at once does.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        self.seen.open_now.fetch_sub(1, Ordering::SeqCst);
        let mut script = self.script.lock().unwrap();
        let mut files = self.files.lock().unwrap();
        if let Some(left) = &mut script.opens_left {
            let Some(fewer) = left.checked_sub(1) else {
                return Err(Error::new(ErrorKind::Transient, "connection refused"));
            };
            *left = fewer;
        }
        if script.vanish_on_open.remove(&id).is_some() {
            files.remove(&id);
        }
        let Some(bytes) = files.get(&id) else {
            return Err(Error::new(ErrorKind::NotFound, format!("open {id}: no such file")));
        };
        let start = (offset as usize).min(bytes.len());
        let end = if len == 0 { bytes.len() } else { bytes.len().min(start + len as usize) };
        let mut parts: Vec<Result<Bytes>> = Vec::new();
        let mut rest = bytes.slice(start..end);
        if script.fail_times > 0 {
            script.fail_times -= 1;
            let kept = (script.fail_after.unwrap() as usize).min(rest.len());
            rest = rest.slice(..kept);
            parts.push(Err(Error::new(ErrorKind::Transient, "connection reset")));
        }
        let mut good = Vec::new();
        if let Some(memory) = &script.tracked {
            good.push(Ok(Tracked::hand_out(std::mem::take(&mut rest), memory)));
        }
        while !rest.is_empty() {
            good.push(Ok(rest.split_to(rest.len().min(PART_LEN))));
        }
        self.seen.bytes.fetch_add((end - start) as u64, Ordering::SeqCst);
        Ok(Box::pin(stream::iter(good.into_iter().chain(parts))))
    }

    async fn write(&self, _request: WriteRequest) -> Result<FileInfo> {
        unreachable!("a restore writes nothing")
    }

    async fn delete(&self, _files: &[FileId]) -> Result<()> {
        unreachable!("a restore deletes nothing")
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let files = self.files.lock().unwrap();
        let all = files.iter().map(|(id, bytes)| ObjectInfo {
            key: object_key(*id),
            size: bytes.len() as u64,
            modified: Self::time_of(id.max),
        });
        let mut found: Vec<ObjectInfo> = all.filter(|object| object.key.starts_with(prefix)).collect();
        found.sort();
        Ok(found)
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let id = self.files.lock().unwrap().keys().copied().find(|id| object_key(*id) == key);
        match id {
            Some(id) => self.open(id, offset, len).await,
            None => Err(Error::new(ErrorKind::NotFound, format!("open {key}: no such object"))),
        }
    }

    async fn delete_all(&self) -> Result<()> {
        unreachable!("a restore deletes nothing")
    }
}
