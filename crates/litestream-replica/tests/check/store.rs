//! A store in memory that has the faults it is told to have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use litestream_replica::check::PROBE_DIR;
use litestream_replica::clock::{Clock, ManualClock};
use litestream_replica::lease::{Condition, LOCK_NAME, LockStore, Removal, Stored};
use litestream_replica::{
    Body, ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteMode,
    WriteRequest,
};
use ltx::{FileName, Txid};

/// What can be asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Init,
    List,
    Open,
    Write,
    Delete,
    ListObjects,
    DeleteAll,
    ReadLock,
    PutLock,
    RemoveLock,
}

/// What a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody is there: not even a first call comes through.
    Unresolved,
    /// No permission.
    Refuses(Call),
    /// No permission where probes lie.
    RefusesProbes(Call),
    /// Never answers.
    Hangs(Call),
    /// Listings do not show what was written.
    HidesFiles,
    /// The first byte of each answer is another.
    Garbles,
    /// Every read gives the whole file.
    IgnoresRanges,
    /// Reads that begin inside of a file are refused.
    RefusesParts,
    /// Its clock differs by this many seconds.
    Ahead(i64),
    /// Objects are not listed with their times, nor at all.
    TellsNoTimes,
    /// A taken name is written all the same.
    Replaces,
    /// A taken name is refused for the wrong reason.
    DeniesTakenNames,
    /// Looks whether a name is taken, and writes a moment later.
    LooksFirst,
    /// The second file cannot be written.
    LosesSecondFile,
    /// Deletions are acknowledged and not carried out.
    KeepsDeleted,
    /// There is nothing to keep a lease in.
    NoLock,
    /// Conditional writes never succeed.
    NeverPuts,
    /// Conditional writes of a new object fail on the way while there is one.
    LosesPutsOverOthers,
    /// Conditional writes have their effect, and the answer is lost.
    LosesPutAnswers,
    /// `If-None-Match` is not looked at.
    IgnoresAbsent,
    /// `If-Match` is not looked at.
    IgnoresMatch,
    /// A removal finds another version than was written.
    ChangesBeforeRemoval,
}

struct Object {
    body: Bytes,
    modified: Timestamp,
    etag: String,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    faults: Vec<Fault>,
    versions: u64,
    calls: Vec<Call>,
}

/// What all clients of one store see.
pub(crate) struct Shelf {
    state: Mutex<State>,
    pub(crate) clock: Arc<ManualClock>,
}

impl Shelf {
    pub(crate) fn new(faults: &[Fault]) -> Arc<Self> {
        let state = State { faults: faults.to_vec(), ..State::default() };
        Arc::new(Self { state: Mutex::new(state), clock: Arc::new(ManualClock::new(NOW_MILLIS)) })
    }

    /// From now on it has these faults and no others.
    pub(crate) fn set_faults(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults = faults.to_vec();
    }

    /// A client of the replica in this path.
    pub(crate) fn client(self: &Arc<Self>, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(Store { shelf: self.clone(), path: path.to_owned() })
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(crate) fn body(&self, key: &str) -> Option<Bytes> {
        self.state.lock().unwrap().objects.get(key).map(|object| object.body.clone())
    }

    /// Puts an object there that was written so many seconds ago.
    pub(crate) fn put(&self, key: &str, body: impl Into<Bytes>, seconds_ago: i64) {
        let modified = self.clock.now() - SignedDuration::from_secs(seconds_ago);
        self.insert(key, body.into(), modified);
    }

    pub(crate) fn remove(&self, key: &str) {
        self.state.lock().unwrap().objects.remove(key).unwrap();
    }

    /// How often it was asked for this.
    pub(crate) fn count(&self, call: Call) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|&&seen| seen == call).count()
    }

    fn has(&self, fault: Fault) -> bool {
        self.state.lock().unwrap().faults.contains(&fault)
    }

    fn insert(&self, key: &str, body: Bytes, modified: Timestamp) -> String {
        let mut state = self.state.lock().unwrap();
        state.versions += 1;
        let etag = format!("\"{}\"", state.versions);
        state.objects.insert(key.to_owned(), Object { body, modified, etag: etag.clone() });
        etag
    }

    /// The time as the store has it.
    fn now(&self) -> Timestamp {
        let faults = self.state.lock().unwrap().faults.clone();
        let ahead = faults.iter().find_map(|fault| match fault {
            Fault::Ahead(seconds) => Some(*seconds),
            _ => None,
        });
        self.clock.now() + SignedDuration::from_secs(ahead.unwrap_or_default())
    }

    /// Every call begins here.
    async fn enter(&self, path: &str, call: Call) -> Result<()> {
        self.state.lock().unwrap().calls.push(call);
        if self.has(Fault::Hangs(call)) {
            std::future::pending::<()>().await;
        }
        let is_refused = self.has(Fault::RefusesProbes(call)) && path.contains(PROBE_DIR);
        if is_refused || self.has(Fault::Refuses(call)) { Err(denied(call)) } else { Ok(()) }
    }
}

struct Store {
    shelf: Arc<Shelf>,
    path: String,
}

impl Store {
    fn key(&self, id: FileId) -> String {
        format!("{}/{}", self.path, file_key(id))
    }

    fn read(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let shelf = &self.shelf;
        let Some(body) = shelf.body(key) else {
            return Err(Error::new(ErrorKind::NotFound, format!("{key}: no such object")));
        };
        if offset > 0 && shelf.has(Fault::RefusesParts) {
            return Err(denied(Call::Open));
        }
        let end = body.len();
        let (from, to) = match (usize::try_from(offset).unwrap().min(end), usize::try_from(len).unwrap()) {
            _ if shelf.has(Fault::IgnoresRanges) => (0, end),
            (from, 0) => (from, end),
            (from, len) => (from, (from + len).min(end)),
        };
        let mut part = body.slice(from..to).to_vec();
        if shelf.has(Fault::Garbles)
            && let Some(first) = part.first_mut()
        {
            *first ^= 1;
        }
        Ok(Box::pin(stream::iter([Ok(Bytes::from(part))])))
    }
}

#[async_trait::async_trait]
impl ReplicaClient for Store {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn location(&self) -> String {
        format!("memory:{}", self.path)
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        vec![("path", self.path.clone())]
    }

    async fn init(&self) -> Result<()> {
        if self.shelf.has(Fault::Unresolved) {
            let text = "list: cannot connect to store:443: dns error: no such host";
            return Err(Error::new(ErrorKind::Transient, text));
        }
        self.shelf.enter(&self.path, Call::Init).await
    }

    async fn list(&self, level: Level, seek: Txid, _metadata: bool) -> Result<Vec<FileInfo>> {
        self.shelf.enter(&self.path, Call::List).await?;
        if self.shelf.has(Fault::HidesFiles) {
            return Ok(Vec::new());
        }
        let prefix = format!("{}/ltx/{level}/", self.path);
        let state = self.shelf.state.lock().unwrap();
        let files = state.objects.iter().filter_map(|(key, object)| {
            let FileName { min, max } = key.strip_prefix(&prefix).and_then(FileName::parse)?;
            let id = FileId { level, min, max };
            Some(FileInfo { id, size: object.body.len() as u64, created_at: object.modified })
        });
        Ok(files.filter(|file| file.id.min >= seek).collect())
    }

    fn lists_true_times(&self) -> bool {
        false
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.shelf.enter(&self.path, Call::Open).await?;
        self.read(&self.key(id), offset, len)
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        self.shelf.enter(&self.path, Call::Write).await?;
        let WriteRequest { id, timestamp, mode, body } = request;
        let Body::Bytes(body) = body else { unreachable!("only bytes are written here") };
        let (shelf, key) = (&self.shelf, self.key(id));
        if id.min == Txid::new(2) && shelf.has(Fault::LosesSecondFile) {
            return Err(Error::new(ErrorKind::Transient, "connection reset"));
        }
        let taken = shelf.body(&key).filter(|there| mode == WriteMode::CreateOnly && *there != body);
        if taken.is_some() && shelf.has(Fault::DeniesTakenNames) {
            return Err(denied(Call::Write));
        }
        if taken.is_some() && !shelf.has(Fault::Replaces) {
            return Err(Error::new(ErrorKind::Conflict, format!("{id}: is there already")));
        }
        if shelf.has(Fault::LooksFirst) {
            tokio::task::yield_now().await;
        }
        let size = body.len() as u64;
        shelf.insert(&key, body, shelf.now());
        Ok(FileInfo { id, size, created_at: timestamp })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.shelf.enter(&self.path, Call::Delete).await?;
        if !self.shelf.has(Fault::KeepsDeleted) {
            let mut state = self.shelf.state.lock().unwrap();
            state.objects.retain(|key, _| !files.iter().any(|&id| self.key(id) == *key));
        }
        Ok(())
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.shelf.enter(&self.path, Call::ListObjects).await?;
        if self.shelf.has(Fault::TellsNoTimes) {
            return Ok(Vec::new());
        }
        let root = format!("{}/", self.path);
        let state = self.shelf.state.lock().unwrap();
        let objects = state.objects.iter().filter_map(|(key, object)| {
            let key = key.strip_prefix(&root)?.to_owned();
            Some(ObjectInfo { key, size: object.body.len() as u64, modified: object.modified })
        });
        Ok(objects.filter(|object| object.key.starts_with(prefix)).collect())
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.shelf.enter(&self.path, Call::Open).await?;
        self.read(&format!("{}/{key}", self.path), offset, len)
    }

    async fn delete_all(&self) -> Result<()> {
        self.shelf.enter(&self.path, Call::DeleteAll).await?;
        let root = format!("{}/", self.path);
        self.shelf.state.lock().unwrap().objects.retain(|key, _| !key.starts_with(&root));
        Ok(())
    }

    fn lock(&self) -> Option<Box<dyn LockStore>> {
        let lock = Lock { shelf: self.shelf.clone(), path: self.path.clone() };
        (!self.shelf.has(Fault::NoLock)).then(|| Box::new(lock) as Box<dyn LockStore>)
    }
}

struct Lock {
    shelf: Arc<Shelf>,
    path: String,
}

impl Lock {
    fn key(&self) -> String {
        format!("{}/{LOCK_NAME}", self.path)
    }

    fn etag(&self) -> Option<String> {
        self.shelf.state.lock().unwrap().objects.get(&self.key()).map(|object| object.etag.clone())
    }
}

#[async_trait::async_trait]
impl LockStore for Lock {
    fn location(&self) -> String {
        format!("memory:{}", self.key())
    }

    async fn read(&self) -> Result<Option<Stored>> {
        self.shelf.enter(&self.path, Call::ReadLock).await?;
        let body = self.shelf.body(&self.key());
        Ok(body.zip(self.etag()).map(|(body, etag)| Stored { body, etag }))
    }

    async fn put(&self, body: Bytes, condition: Condition) -> Result<Option<String>> {
        self.shelf.enter(&self.path, Call::PutLock).await?;
        let (shelf, there) = (&self.shelf, self.etag());
        let holds = match condition {
            _ if shelf.has(Fault::NeverPuts) => false,
            Condition::Absent if there.is_some() && shelf.has(Fault::LosesPutsOverOthers) => {
                return Err(Error::new(ErrorKind::Transient, "connection reset"));
            }
            Condition::Absent => there.is_none() || shelf.has(Fault::IgnoresAbsent),
            Condition::Unchanged(etag) => there == Some(etag) || shelf.has(Fault::IgnoresMatch),
        };
        let etag = holds.then(|| shelf.insert(&self.key(), body, shelf.now()));
        if shelf.has(Fault::LosesPutAnswers) {
            return Err(Error::new(ErrorKind::Transient, "connection reset"));
        }
        Ok(etag)
    }

    async fn remove(&self, etag: &str) -> Result<Removal> {
        self.shelf.enter(&self.path, Call::RemoveLock).await?;
        let Some(there) = self.etag() else { return Ok(Removal::Gone) };
        if there != etag || self.shelf.has(Fault::ChangesBeforeRemoval) {
            return Ok(Removal::Changed);
        }
        self.shelf.remove(&self.key());
        Ok(Removal::Removed)
    }
}

/// Below the replica's path.
pub(crate) fn file_key(id: FileId) -> String {
    format!("ltx/{}/{}", id.level, id.name())
}

pub(crate) fn id(level: u8, min: u64, max: u64) -> FileId {
    FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) }
}

fn denied(call: Call) -> Error {
    Error::new(ErrorKind::Setup, format!("{call:?}: access denied"))
}

/// 2027-01-15T08:00:00Z.
const NOW_MILLIS: i64 = 1_800_000_000_000;
