//! NATS: the object store of JetStream.
//!
//! `options` decides what the user's settings mean, `auth` says who we are, `link`
//! keeps the connection, `api` asks JetStream, `object` knows how a bucket lies in
//! its stream; `consume` reads messages in their order, `read` makes objects of
//! them, `upload` the reverse; `sweep` clears away what was never finished.
//!
//! A bucket holds one replica, at its root: upstream ignores `path`, and so must
//! who shares buckets with it.
//!
//! Spec: backends §8, store-and-restore §2 and §3.

mod api;
mod auth;
mod consume;
mod link;
mod object;
mod options;
mod read;
mod sweep;
mod upload;

use std::fmt;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use ltx::Txid;
use tokio::sync::OnceCell;

use api::Api;
use consume::{Consumer, Start};
use object::Meta;
pub use options::NatsOptions;
use options::Settings;
pub(crate) use options::parse_url;
use sweep::Sweeps;

use crate::layout::{Layout, check_object_key};
use crate::listing::Pages;
use crate::parts::deleted;
use crate::retry::RetryPolicy;
use crate::{
    ByteStream, ClientContext, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result,
    WriteRequest,
};

/// A [`ReplicaClient`] over one object-store bucket.
///
/// Holds one connection from the first operation on, which reports a sign of life
/// every two minutes and dials again by itself when it is lost.
pub struct NatsClient {
    layout: Layout,
    api: Arc<Api>,
    retry: RetryPolicy,
    found: OnceCell<()>,
    sweeps: Sweeps,
}

impl NatsClient {
    /// Checks settings; contacts nobody yet.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) when settings are missing or malformed.
    pub fn new(options: NatsOptions, context: &ClientContext) -> Result<Self> {
        let settings = Arc::new(Settings::resolve(options)?);
        let api = Arc::new(Api::new(&settings));
        Ok(Self {
            layout: Layout::nested(""),
            api,
            retry: context.retry,
            found: OnceCell::new(),
            sweeps: Sweeps::default(),
        })
    }

    /// Makes sure once that the bucket exists: most requests say less when it does not.
    async fn find_bucket(&self) -> Result<()> {
        let find = || self.repeat("look up bucket", || self.api.check_bucket());
        self.found.get_or_try_init(find).await.map(|&()| ())
    }

    async fn repeat<T, F: Future<Output = Result<T>>>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T> {
        self.retry
            .run(what, || {
                let attempt = attempt();
                async { Ok(attempt.await?) }
            })
            .await
    }

    async fn read(&self, object: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.find_bucket().await?;
        self.repeat("read", || self.api.read(object, offset, len)).await
    }

    /// All objects, and when the stream stored them.
    async fn objects(&self) -> Result<Vec<(Meta, Timestamp)>> {
        self.find_bucket().await?;
        self.repeat("list", || self.api.list()).await
    }
}

impl fmt::Debug for NatsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsClient").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl ReplicaClient for NatsClient {
    fn kind(&self) -> &'static str {
        "nats"
    }

    fn location(&self) -> String {
        format!("nats://{}/{}", self.api.server, self.api.bucket.name)
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        vec![("bucket", self.api.bucket.name.clone()), ("url", format!("nats://{}", self.api.server))]
    }

    async fn init(&self) -> Result<()> {
        self.find_bucket().await
    }

    async fn list(&self, level: Level, seek: Txid, _metadata: bool) -> Result<Vec<FileInfo>> {
        let file = |(meta, time): (Meta, Timestamp)| {
            let id = self.layout.file_of(level, &meta.name).filter(|id| id.min >= seek)?;
            Some(FileInfo { id, size: meta.size, created_at: meta.timestamp().unwrap_or(time) })
        };
        let mut files: Vec<FileInfo> = self.objects().await?.into_iter().filter_map(file).collect();
        files.sort_unstable_by_key(|file| file.id);
        Ok(files)
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.read(&self.layout.key(id), offset, len).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        if !prefix.is_empty() {
            check_object_key(prefix.strip_suffix('/').unwrap_or(prefix))?;
        }
        let object = |(meta, modified): (Meta, Timestamp)| {
            let ours = meta.name.starts_with(prefix) && check_object_key(&meta.name).is_ok();
            ours.then_some(ObjectInfo { key: meta.name, size: meta.size, modified })
        };
        let mut objects: Vec<ObjectInfo> = self.objects().await?.into_iter().filter_map(object).collect();
        objects.sort_unstable();
        Ok(objects)
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.read(&self.layout.object_key(key)?, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        self.find_bucket().await?;
        let WriteRequest { id, timestamp, mode, body } = request;
        let size = self.api.write(self.retry, &self.layout.key(id), timestamp, mode, body).await?;
        Ok(FileInfo { id, size, created_at: timestamp })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.delete_keys(files.iter().map(|&id| self.layout.key(id)).collect()).await
    }

    /// Whatever else stands in the bucket is not ours.
    async fn delete_all(&self) -> Result<()> {
        let own = self.layout.own_prefix();
        let names = self.objects().await?.into_iter().map(|(meta, _)| meta.name);
        self.delete_keys(names.filter(|name| name.starts_with(&own)).collect()).await
    }
}

impl NatsClient {
    async fn delete_keys(&self, keys: Vec<String>) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        self.find_bucket().await?;
        let deletions =
            stream::iter(keys.clone()).map(|key| async move { self.repeat("delete", || self.api.remove(&key)).await });
        let results: Vec<Result<()>> = deletions.buffered(DELETES_IN_FLIGHT).collect().await;
        deleted(keys.into_iter().zip(results).collect())?;
        self.sweeps.sweep_daily(&self.api).await;
        Ok(())
    }
}

impl Api {
    /// All objects that are not deleted.
    async fn list(self: &Arc<Self>) -> Result<Vec<(Meta, Timestamp)>> {
        let mut objects = self.descriptions().await?;
        objects.retain(|object| !object.meta.deleted);
        Ok(objects.into_iter().map(|object| (object.meta, object.time)).collect())
    }

    /// The newest description of every name. The server has no index of names: it
    /// sends them all.
    async fn descriptions(self: &Arc<Self>) -> Result<Vec<Described>> {
        let session = self.link.session().await?;
        let mut consumer = Consumer::create(self, &session, &self.bucket.all_meta(), Start::LastPerSubject).await?;
        let mut objects = Vec::new();
        let mut pages = Pages::default();
        let mut left = consumer.found;
        let mut awaited = 0;
        while left > 0 {
            if awaited == 0 {
                awaited = left.min(LIST_BATCH);
                consumer.request(awaited).await?;
            }
            let Some(delivery) = consumer.next().await? else {
                // What was counted may be replaced or deleted before it is sent.
                pages.add(0, || "nats: list".to_owned())?;
                awaited = 0;
                left = consumer.pending().await?;
                continue;
            };
            pages.add(1, || "nats: list".to_owned())?;
            (left, awaited) = (delivery.pending, awaited - 1);
            match serde_json::from_slice::<Meta>(&delivery.payload) {
                Ok(meta) => objects.push(Described { meta, time: delivery.time, sequence: delivery.sequence }),
                Err(error) => {
                    return Err(Error::with_source(ErrorKind::Corrupt, "list: a description cannot be read", error));
                }
            }
        }
        Ok(objects)
    }

    /// Removes an object and every trace of it: first what makes it visible, then
    /// its chunks. The usual marker of a deleted object would be listed for ever.
    async fn remove(self: &Arc<Self>, object: &str) -> Result<()> {
        let session = self.link.session().await?;
        let Some((meta, seq)) = self.meta(&session, object).await? else { return Ok(()) };
        self.purge(&session, &self.bucket.meta(object), Some(seq.saturating_add(1))).await?;
        if !meta.deleted && !meta.nuid.is_empty() {
            self.purge(&session, &self.bucket.chunks(&meta.nuid), None).await?;
        }
        Ok(())
    }
}

/// A description, and when and where the stream stored it.
struct Described {
    meta: Meta,
    time: Timestamp,
    sequence: u64,
}

const DELETES_IN_FLIGHT: usize = 16;
/// Descriptions asked for at a time; each has some four hundred bytes.
const LIST_BATCH: u64 = 500;
