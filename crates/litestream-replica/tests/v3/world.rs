//! A backup in a directory, clients on it, and restores from it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures_util::StreamExt;
use jiff::Timestamp;
use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::restore::{NoProgress, RestoreOptions, Restored};
use litestream_replica::v3::{self, V3Inventory};
use litestream_replica::{
    ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, Target, WriteRequest,
};
use litestream_testkit::scenario::{CheckpointMode, commit};
use litestream_testkit::v3_backup::V3Writer;
use ltx::Txid;

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) writer: V3Writer,
}

pub(crate) const FIRST: &str = "00000000000000aa";
pub(crate) const SECOND: &str = "0123456789abcdef";

impl World {
    pub(crate) fn new(page_size: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let writer = V3Writer::begin(dir.path(), page_size).unwrap();
        Self { dir, writer }
    }

    /// One generation from index 5 on: two logs of three segments, and a third one.
    pub(crate) fn small() -> Self {
        let mut world = Self::new(4096);
        world.commit(3);
        world.writer.start_generation(FIRST, 5).unwrap();
        world.logs(&[CheckpointMode::Truncate, CheckpointMode::Restart]);
        world.commit(1);
        world.writer.ship().unwrap();
        world
    }

    pub(crate) fn commit(&self, count: u32) {
        commit(self.writer.connection(), count).unwrap();
    }

    /// For each mode a log of three segments that ends with such a checkpoint.
    pub(crate) fn logs(&mut self, modes: &[CheckpointMode]) {
        for mode in modes {
            for count in [1, 4, 2] {
                self.commit(count);
                self.writer.ship().unwrap();
            }
            self.writer.checkpoint(*mode).unwrap();
        }
    }

    pub(crate) fn client(&self) -> FileClient {
        FileClient::new(FileOptions::new(self.writer.replica())).unwrap()
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.dir.path().join("out/restored.db")
    }

    pub(crate) async fn restore(&self, target: Target) -> Result<Restored> {
        self.restore_from(Arc::new(self.client()), target).await
    }

    /// Restores to [`output`](Self::output), which must not exist.
    pub(crate) async fn restore_from(&self, client: Arc<dyn ReplicaClient>, target: Target) -> Result<Restored> {
        let inventory = V3Inventory::load(&*client).await?;
        let options = RestoreOptions { target, ..RestoreOptions::new(self.output()) };
        v3::restore(client, &inventory, options, Arc::new(NoProgress)).await
    }

    /// Restores, expects failure, and that nothing at all is left behind.
    pub(crate) async fn fails(&self, target: Target) -> Error {
        let error = self.restore(target).await.unwrap_err();
        assert!(!self.output().parent().unwrap().exists(), "left behind after: {error}");
        error
    }

    /// The object whose key ends so.
    pub(crate) fn object(&self, end: &str) -> PathBuf {
        let all = self.writer.objects().unwrap();
        let found: Vec<&String> = all.iter().filter(|key| key.ends_with(end)).collect();
        assert_eq!(found.len(), 1, "{end} among {all:?}");
        self.writer.replica().join(found[0])
    }

    /// The WAL segments of one index, in order.
    pub(crate) fn segments(&self, index: u32) -> Vec<PathBuf> {
        let all = self.writer.objects().unwrap();
        let found = all.iter().filter(|key| key.contains(&format!("/wal/{index:08x}_")));
        found.map(|key| self.writer.replica().join(key)).collect()
    }
}

pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap()
}

/// Puts other content in an object and keeps its time.
pub(crate) fn replace(path: &Path, content: &[u8]) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    litestream_testkit::v3_backup::store(path, content, time).unwrap();
}

/// A client whose objects fail as told.
pub(crate) struct Faulty {
    pub(crate) inner: FileClient,
    /// Keys that cannot be read at all.
    pub(crate) forbidden: HashSet<String>,
    /// Every stream of these keys breaks once, after this many bytes.
    pub(crate) breaks: Mutex<HashSet<String>>,
    pub(crate) break_after: usize,
    pub(crate) opened: AtomicU64,
}

impl Faulty {
    pub(crate) fn new(world: &World) -> Self {
        Self {
            inner: world.client(),
            forbidden: HashSet::new(),
            breaks: Mutex::default(),
            break_after: 100,
            opened: AtomicU64::new(0),
        }
    }
}

#[async_trait::async_trait]
impl ReplicaClient for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn init(&self) -> Result<()> {
        Ok(())
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        self.inner.list(level, seek, metadata).await
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.inner.open(id, offset, len).await
    }

    async fn write(&self, _request: WriteRequest) -> Result<FileInfo> {
        unreachable!("a restore writes nothing")
    }

    async fn delete(&self, _files: &[FileId]) -> Result<()> {
        unreachable!("a restore deletes nothing")
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list_objects(prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        if self.forbidden.contains(key) {
            return Err(Error::new(ErrorKind::Setup, format!("open {key}: permission denied")));
        }
        let stream = self.inner.open_object(key, offset, len).await?;
        if !self.breaks.lock().unwrap().remove(key) {
            return Ok(stream);
        }
        let mut left = self.break_after;
        Ok(Box::pin(stream.map(move |chunk| {
            let chunk = chunk?;
            if left == 0 {
                return Err(Error::new(ErrorKind::Transient, "connection reset"));
            }
            let part = chunk.slice(..chunk.len().min(left));
            left -= part.len();
            Ok(part)
        })))
    }

    async fn delete_all(&self) -> Result<()> {
        unreachable!("a restore deletes nothing")
    }
}
