//! SFTP servers: OpenSSH's, storage boxes, and their like.
//!
//! `options` decides what the user's settings mean; `connection` makes sessions,
//! with `host_key` and `auth` for who is who; `session` carries requests, which
//! `packet` turns into bytes; `tree`, `download` and `upload` are what replicas
//! need. Version 3 of the protocol is spoken here rather than by a library: what
//! matters for a backup (requests in flight, what happens when a line breaks or a
//! task is dropped, OpenSSH's additions) is below the level that libraries offer.
//!
//! The modification time of a file is its capture time in whole seconds; what
//! needs it exactly (restores by timestamp) reads it from the header inside.
//!
//! Spec: backends §7, store-and-restore §2 and §3.

mod auth;
mod connection;
mod download;
mod host_key;
mod options;
mod packet;
mod session;
mod tree;
mod upload;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use ltx::{FileName, Txid};

use connection::Connector;
pub use connection::{SftpLimits, SftpPool};
use options::Settings;
pub use options::SftpOptions;
pub(crate) use options::parse_url;
use session::Session;
use upload::{Outcome, Progress, Upload};

use crate::clock::{Clock, SystemClock};
use crate::layout::{LTX_DIR, Layout, check_object_key};
use crate::parts::{Source, deleted};
use crate::retry::RetryPolicy;
use crate::{
    ByteStream, ClientContext, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result,
    WriteRequest,
};

/// A [`ReplicaClient`] over one directory of an SFTP server.
///
/// On servers that can neither link nor replace files in one step, an overwrite
/// leaves a moment without either content.
pub struct SftpClient {
    settings: Settings,
    layout: Layout,
    connector: Arc<Connector>,
    retry: RetryPolicy,
    /// Temporary files whose writers are gone, found by listings.
    stale: Mutex<Vec<String>>,
}

impl SftpClient {
    /// Checks settings; contacts nobody yet.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) when settings are missing or malformed.
    pub fn new(options: SftpOptions, context: &ClientContext) -> Result<Self> {
        let agent = context.env_var("SSH_AUTH_SOCK").map(PathBuf::from);
        let settings = Settings::resolve(options, agent)?;
        let connector = context.sftp.connector(settings.destination.clone())?;
        let layout = Layout::nested(&settings.path);
        Ok(Self { settings, layout, connector, retry: context.retry, stale: Mutex::default() })
    }

    /// Repeats `attempt` over ever new sessions while that may help.
    async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        operation: &str,
        attempt: impl Fn(Arc<Session>) -> F,
    ) -> Result<T> {
        self.retry.run(operation, || async { Ok(attempt(self.connector.session().await?).await?) }).await
    }

    async fn read(&self, path: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.run("read", |session| async move { download::read(&session, path, offset, len).await }).await
    }

    /// The time in a file's own header; `None` for what is no LTX file, or gone.
    async fn header_time(&self, path: &str) -> Result<Option<Timestamp>> {
        let len = ltx::Header::LEN as u64;
        let read = |session| async move {
            let bytes: Vec<bytes::Bytes> = download::read(&session, path, 0, len).await?.try_collect().await?;
            Ok(bytes.concat())
        };
        match self.run("read", read).await {
            Ok(bytes) => Ok(ltx::Header::parse(&bytes).ok().map(|header| header.timestamp)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn upload(&self, mut upload: Upload) -> Result<u64> {
        // Locked by one attempt after the other, never by two.
        let unfinished = Unfinished { connector: self.connector.clone(), path: Some(upload.temporary.clone()) };
        let result = loop {
            let before = upload.progress.answered;
            let shared = tokio::sync::Mutex::new(upload);
            let result = self
                .retry
                .run("store", || async {
                    let session = self.connector.session().await?;
                    Ok(shared.lock().await.attempt(&session).await?)
                })
                .await;
            upload = shared.into_inner();
            match result {
                // A long upload over a bad line may meet many faults, as long as
                // it comes further.
                Err(error) if error.is_retryable() && upload.progress.answered > before => {}
                Err(error) => break Err(error),
                Ok(Outcome::Failed(error)) => break Err(error),
                Ok(Outcome::Stored(size)) => break Ok(size),
            }
        };
        let begun = upload.progress.begun;
        drop(upload);
        match result {
            Err(_) if begun => unfinished.remove().await,
            _ => unfinished.disarm(),
        }
        result
    }

    /// Remembers temporary files whose writers began more than a day ago and have
    /// not written since; the next write removes them.
    fn note_stale(&self, directory: &str, others: &[tree::Member]) {
        let limit = SystemClock.now().as_second() - A_DAY;
        let old = |member: &&tree::Member| {
            tree::begun_at(&member.name).is_some_and(|begun| begun.as_second() < limit)
                && member.modified.as_second() < limit
        };
        let stale = others.iter().filter(old).map(|member| format!("{directory}{}", member.name));
        let mut noted = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|path| !path.starts_with(directory));
        noted.extend(stale);
        noted.truncate(MOST_STALE);
    }

    /// Failures are dropped: a file that stays only takes space.
    async fn remove_stale(&self) {
        let stale = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        if stale.is_empty() {
            return;
        }
        let Ok(session) = self.connector.session().await else { return };
        for (path, result) in tree::remove_all(&session, &stale).await {
            if result.is_ok() {
                tracing::debug!(path, "removed a file whose writer was killed");
            }
        }
    }
}

impl fmt::Debug for SftpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpClient").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl ReplicaClient for SftpClient {
    fn kind(&self) -> &'static str {
        "sftp"
    }

    fn location(&self) -> String {
        let (address, path) = (self.connector.address(), &self.settings.path);
        // `~` is the directory that the user logs into.
        let home = if path.starts_with('/') { "" } else { "/~/" };
        format!("sftp://{address}{home}{path}")
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        let Settings { host, path, destination, .. } = &self.settings;
        vec![("host", host.clone()), ("user", destination.identity.user.clone()), ("path", path.clone())]
    }

    async fn init(&self) -> Result<()> {
        self.run("connect", |_| async { Ok(()) }).await
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        let directory = self.layout.level_prefix(level);
        let path = &directory;
        let members = self.run("list", |session| async move { tree::members(&session, path).await }).await?;
        let (mut files, mut others) = (Vec::new(), Vec::new());
        for member in members.into_iter().filter(|member| member.is_file) {
            match FileName::parse(&member.name) {
                Some(FileName { min, max }) if min >= seek => {
                    let id = FileId { level, min, max };
                    files.push(FileInfo { id, size: member.size, created_at: member.modified });
                }
                Some(_) => {}
                None => others.push(member),
            }
        }
        self.note_stale(&directory, &others);
        files.sort_unstable_by_key(|file| file.id);
        files.dedup_by_key(|file| file.id);
        if !metadata {
            return Ok(files);
        }
        let timed = stream::iter(files).map(|file| async move {
            let time = self.header_time(&self.layout.key(file.id)).await?;
            Ok::<_, Error>(FileInfo { created_at: time.unwrap_or(file.created_at), ..file })
        });
        timed.buffered(LOOKS_IN_FLIGHT).try_collect().await
    }

    /// A listing tells whole seconds; the exact time stands in a file's header.
    fn lists_true_times(&self) -> bool {
        false
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.read(&self.layout.key(id), offset, len).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        if !prefix.is_empty() {
            check_object_key(prefix.strip_suffix('/').unwrap_or(prefix))?;
        }
        let root = self.layout.object_root();
        self.run("list", |session| async move { tree::files_below(&session, root, prefix).await }).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.read(&self.layout.object_key(key)?, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        self.remove_stale().await;
        let WriteRequest { id, timestamp, mode, body } = request;
        let path = self.layout.key(id);
        // Upstream's form, which tells how old an abandoned one is.
        let begun = SystemClock.now().as_nanosecond() + i128::from(fastrand::u16(..));
        let upload = Upload {
            directory: self.layout.level_prefix(id.level),
            temporary: format!("{path}.{}.{begun}.tmp", std::process::id()),
            path,
            source: Source::open(body).await?,
            modified: u32::try_from(timestamp.as_second()).unwrap_or_default(),
            mode,
            window: if self.settings.concurrent_writes { WRITES_IN_FLIGHT } else { 1 },
            progress: Progress::default(),
        };
        let size = self.upload(upload).await?;
        Ok(FileInfo { id, size, created_at: timestamp })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let paths: Vec<String> = files.iter().map(|&id| self.layout.key(id)).collect();
        let paths = &paths;
        self.run("delete", |session| async move { deleted(tree::remove_all(&session, paths).await) }).await
    }

    async fn delete_all(&self) -> Result<()> {
        // Without a path of its own the replica shares its directory with whatever
        // else is there, and only that of its levels is its own.
        let root = match self.layout.root() {
            root @ ("" | "/") => format!("{root}{LTX_DIR}/"),
            root => root.to_owned(),
        };
        let root = &root;
        self.run("delete", |session| async move { tree::remove_tree(&session, root).await }).await
    }
}

/// Removes a file that did not come to its end, even when the future that made
/// it is dropped.
struct Unfinished {
    connector: Arc<Connector>,
    path: Option<String>,
}

impl Unfinished {
    fn disarm(mut self) {
        self.path = None;
    }

    async fn remove(mut self) {
        if let Some(path) = self.path.take() {
            remove_or_warn(&self.connector, path).await;
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let connector = self.connector.clone();
        // Without a runtime the program is ending; a later process removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remove_or_warn(&connector, path).await });
        }
    }
}

async fn remove_or_warn(connector: &Connector, path: String) {
    let result = match connector.session().await {
        Ok(session) => {
            tree::remove_all(&session, std::slice::from_ref(&path)).await.into_iter().try_for_each(|(_, r)| r)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::warn!(path, %error, "cannot remove an unfinished upload, it stays and takes space");
    }
}

/// Seconds.
const A_DAY: i64 = 86_400;
/// Removed per write at most, so that no write waits long for it.
const MOST_STALE: usize = 20;
/// Headers read at once.
const LOOKS_IN_FLIGHT: usize = 16;
/// Requests in flight per upload, as many as upstream has.
const WRITES_IN_FLIGHT: usize = 64;
