//! The store: objects in memory, and requests to them that go wrong.
//!
//! Reads and listings are consistent unless a seed says otherwise. A request may be
//! refused, with the statuses that stores give; have its effect and lose the answer;
//! break off in the midst of a body; have its effect only when its sender has long
//! given up, or twice. Writes are create-only where they say so, decided at the moment
//! of their effect.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use jiff::Timestamp;
use litestream_replica::clock::Clock;
use litestream_replica::{
    Body, ByteStream, Error, ErrorKind, FileId, FileInfo, Inventory, Level, ObjectInfo, ReplicaClient, Result,
    WriteMode, WriteRequest,
};
use ltx::Txid;

use crate::world::{Occasion, World};

/// See the module's description. Outlives every process.
pub(crate) struct Cloud {
    world: Arc<World>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<FileId, Object>,
    /// Deleted a moment ago; a stale listing still has them.
    gone: BTreeMap<FileId, (Object, Timestamp)>,
    /// Effects to come.
    late: Vec<Late>,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    created_at: Timestamp,
    written_at: Timestamp,
}

struct Late {
    due: Timestamp,
    id: FileId,
    mode: WriteMode,
    object: Object,
}

impl Cloud {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up(self.world.clock.now());
        state
    }

    /// What the store really holds.
    pub(crate) fn inventory(&self) -> Inventory {
        Inventory::new(self.state().objects.iter().map(|(id, object)| object.info(*id)))
    }

    /// Whatever was late happens now.
    pub(crate) fn settle(&self) {
        let mut state = self.state();
        state.late.iter_mut().for_each(|late| late.due = Timestamp::UNIX_EPOCH);
        state.catch_up(self.world.clock.now());
    }
}

impl State {
    fn catch_up(&mut self, now: Timestamp) {
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|late: &Late| late.due <= now);
        self.late = late;
        for Late { id, mode, object, .. } in due {
            // Nobody waits for the answer.
            let _ = self.put(id, mode, object);
        }
    }

    fn put(&mut self, id: FileId, mode: WriteMode, object: Object) -> Result<FileInfo> {
        if let Some(known) = self.objects.get(&id)
            && mode == WriteMode::CreateOnly
        {
            if known.bytes == object.bytes {
                return Ok(known.info(id));
            }
            return Err(Error::new(ErrorKind::Conflict, format!("write {id}: 412 precondition failed")));
        }
        let info = object.info(id);
        self.objects.insert(id, object);
        Ok(info)
    }

    /// The files of a level; of those written or deleted at a moment that is `hidden` as
    /// they were before.
    fn list(&self, level: Level, seek: Txid, hidden: impl Fn(Timestamp) -> bool) -> Vec<FileInfo> {
        let is_wanted = |id: &FileId| id.level == level && id.min >= seek;
        let present = self.objects.iter().filter(|(id, object)| is_wanted(id) && !hidden(object.written_at));
        let gone = self.gone.iter().filter(|(id, (_, when))| is_wanted(id) && hidden(*when));
        let mut files: Vec<FileInfo> = present
            .map(|(id, object)| object.info(*id))
            .chain(gone.map(|(id, (object, _))| object.info(*id)))
            .collect();
        files.sort_by_key(|file| file.id);
        files.dedup_by_key(|file| file.id);
        files
    }

    fn delete(&mut self, id: FileId, now: Timestamp) {
        if let Some(object) = self.objects.remove(&id) {
            self.gone.insert(id, (object, now));
        }
    }
}

impl Object {
    fn info(&self, id: FileId) -> FileInfo {
        FileInfo { id, size: self.bytes.len() as u64, created_at: self.created_at }
    }
}

/// One client of the store.
pub(crate) struct CloudClient {
    cloud: Arc<Cloud>,
    /// The process it belongs to can die, and its requests can fail.
    is_mortal: bool,
}

impl CloudClient {
    /// The client of the process under test.
    pub(crate) fn mortal(cloud: Arc<Cloud>) -> Self {
        Self { cloud, is_mortal: true }
    }

    /// A client for which nothing goes wrong.
    pub(crate) fn faithful(cloud: Arc<Cloud>) -> Self {
        Self { cloud, is_mortal: false }
    }

    /// A request begins. A dead process waits for its answer for ever.
    async fn arrive(&self, name: &str) -> Result<Option<Occasion>> {
        if !self.is_mortal {
            return Ok(None);
        }
        let world = &self.cloud.world;
        let at = world.occasion(name);
        if world.is_dead() || world.dies(at, name) {
            return std::future::pending().await;
        }
        world.event(name);
        if world.fails(at, "refused", world.profile.refused) {
            return Err(self.refusal(at, name));
        }
        Ok(Some(at))
    }

    /// An answer is on its way back.
    async fn leave<T>(&self, at: Option<Occasion>, name: &str, answer: Result<T>) -> Result<T> {
        let Some(at) = at else { return answer };
        let world = &self.cloud.world;
        if world.dies(at, &format!("the answer to {name}")) {
            return std::future::pending().await;
        }
        if answer.is_ok() && world.fails(at, "unanswered", world.profile.unanswered) {
            world.tell(|| format!("    answer lost: {name}"));
            return Err(Error::new(ErrorKind::Transient, format!("{name}: connection reset")));
        }
        answer
    }

    fn refusal(&self, at: Occasion, name: &str) -> Error {
        let world = &self.cloud.world;
        let (status, kind) = match world.number(at, "status", 6) {
            0 => ("403 forbidden", ErrorKind::Setup),
            1 => ("408 request timeout", ErrorKind::Transient),
            2 => ("429 too many requests", ErrorKind::Transient),
            3 => ("500 internal error", ErrorKind::Transient),
            4 => ("503 slow down", ErrorKind::Transient),
            _ => {
                // It stalls until its sender gives up.
                world.clock.advance(Duration::from_secs(30));
                ("timed out", ErrorKind::Transient)
            }
        };
        world.tell(|| format!("    {name}: {status}"));
        Error::new(kind, format!("{name}: {status}"))
    }

    fn fails(&self, at: Option<Occasion>, what: &str, per_mille: u32) -> bool {
        at.is_some_and(|at| self.cloud.world.fails(at, what, per_mille))
    }

    /// The bytes of a body, unless it breaks off.
    async fn read(&self, at: Option<Occasion>, body: Body, name: &str) -> Result<Bytes> {
        let cut = self.fails(at, "cut", self.cloud.world.profile.cut);
        let bytes = match body {
            Body::File(path) => {
                Bytes::from(std::fs::read(&path).map_err(|err| Error::with_source(ErrorKind::Transient, "read", err))?)
            }
            Body::Bytes(bytes) => bytes,
            Body::Stream(chunks) => chunks.try_collect::<Vec<Bytes>>().await?.concat().into(),
        };
        if cut {
            return Err(Error::new(ErrorKind::Transient, format!("{name}: broken pipe")));
        }
        Ok(bytes)
    }
}

#[async_trait::async_trait]
impl ReplicaClient for CloudClient {
    fn kind(&self) -> &'static str {
        "sim"
    }

    fn location(&self) -> String {
        "sim://replica".to_owned()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn init(&self) -> Result<()> {
        Ok(())
    }

    async fn list(&self, level: Level, seek: Txid, _metadata: bool) -> Result<Vec<FileInfo>> {
        let name = format!("list {level}");
        let at = self.arrive(&name).await?;
        let is_stale = self.fails(at, "stale", self.cloud.world.profile.stale);
        let now = self.cloud.world.clock.now();
        let is_recent = |moment: Timestamp| now.duration_since(moment) < jiff::SignedDuration::from_secs(STALE_SECONDS);
        let files = self.cloud.state().list(level, seek, |moment| is_stale && is_recent(moment));
        self.leave(at, &name, Ok(files)).await
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        let name = format!("read {id}");
        let at = self.arrive(&name).await.map_err(final_failure)?;
        let found = self.cloud.state().objects.get(&id).map(|object| object.bytes.clone());
        let bytes = found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name}: 404 not found")))?;
        let end = bytes.len() as u64;
        let first = offset.min(end);
        let last = if len == 0 { end } else { (offset + len).min(end) };
        let wanted = bytes.slice(usize::try_from(first).unwrap_or(0)..usize::try_from(last).unwrap_or(0));
        if self.fails(at, "cut", self.cloud.world.profile.cut) {
            let half = wanted.slice(..wanted.len() / 2);
            let broken = final_failure(Error::new(ErrorKind::Transient, format!("{name}: connection reset")));
            return Ok(Box::pin(stream::iter([Ok(half), Err(broken)])));
        }
        let answer = Ok(Box::pin(stream::iter([Ok(wanted)])) as ByteStream);
        self.leave(at, &name, answer).await.map_err(final_failure)
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        let WriteRequest { id, timestamp, mode, body } = request;
        let name = format!("write {id}");
        let is_alone = !matches!(body, Body::Stream(_));
        let body = match body {
            // To its end before anything is decided, so that the thread that feeds it has
            // done all it does.
            Body::Stream(chunks) => Body::Bytes(chunks.try_collect::<Vec<Bytes>>().await?.concat().into()),
            body => body,
        };
        let at = self.arrive(&name).await?;
        let world = &self.cloud.world;
        let bytes = self.read(at, body, &name).await?;
        if let Some(at) = at.filter(|_| is_alone) {
            world.interleave(at, "an upload");
        }
        let now = world.clock.now();
        let object = Object { bytes, created_at: timestamp, written_at: now };
        if let Some(at) = at
            && self.fails(Some(at), "late", world.profile.late)
        {
            let pause = jiff::SignedDuration::from_secs(i64::try_from(world.number(at, "pause", 120)).unwrap_or(0) + 1);
            let late = Late { due: now + pause, id, mode, object: object.clone() };
            self.cloud.state().late.push(late);
            if world.number(at, "twice", 2) == 0 {
                world.tell(|| format!("    {name}: will come late"));
                return Err(Error::new(ErrorKind::Transient, format!("{name}: timed out")));
            }
            world.tell(|| format!("    {name}: will come twice"));
        }
        let stored = self.cloud.state().put(id, mode, object);
        self.leave(at, &name, stored).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let name = "delete";
        let at = self.arrive(name).await?;
        let now = self.cloud.world.clock.now();
        let cut = self.fails(at, "cut", self.cloud.world.profile.cut);
        let count = if cut { files.len() / 2 } else { files.len() };
        for id in files.iter().take(count) {
            self.cloud.state().delete(*id, now);
            self.cloud.world.tell(|| format!("    deleted {id}"));
        }
        if cut {
            return Err(Error::new(ErrorKind::Transient, "delete: connection reset"));
        }
        self.leave(at, name, Ok(())).await
    }

    async fn list_objects(&self, _prefix: &str) -> Result<Vec<ObjectInfo>> {
        Ok(Vec::new())
    }

    async fn open_object(&self, key: &str, _offset: u64, _len: u64) -> Result<ByteStream> {
        Err(Error::new(ErrorKind::NotFound, format!("read {key}: 404 not found")))
    }

    async fn delete_all(&self) -> Result<()> {
        self.cloud.state().objects.clear();
        Ok(())
    }
}

/// A failure that a reader does not try to overcome by itself: its pauses would stand
/// still with the clock, because threads wait for it meanwhile. Resuming reads have
/// tests of their own.
fn final_failure(err: Error) -> Error {
    match err.kind() {
        ErrorKind::Transient => Error::new(ErrorKind::Setup, format!("{err}, for good")),
        _ => err,
    }
}

/// How long a listing may be behind.
const STALE_SECONDS: i64 = 20;
