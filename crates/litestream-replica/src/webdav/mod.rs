//! WebDAV servers: Apache, nginx, Nextcloud, storage boxes and their like.
//!
//! `options` decides what the user's settings mean, `auth` answers challenges,
//! `api` sends one request and explains a no, `list` reads collections, `upload`
//! writes files.
//!
//! The protocol has no place for a file's time; what needs the true one (restores
//! by timestamp) reads it from the header inside each file.
//!
//! Spec: backends §9, store-and-restore §2 and §3.

mod api;
mod auth;
mod list;
mod options;
mod server;
mod upload;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, stream};
use ltx::Txid;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use api::{Api, Call};
use auth::Auth;
use options::Settings;
pub use options::WebDavOptions;
pub(crate) use options::parse_url;
use upload::{Moves, Uploads, remove};

use crate::http::range;
use crate::layout::{Layout, check_object_key};
use crate::parts::deleted;
use crate::{ByteStream, ClientContext, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};

/// A [`ReplicaClient`] over one collection of a WebDAV server.
///
/// On servers that cannot rename files, two promises are weaker: a reader may see
/// a file while it arrives, and an overwrite that is abandoned may leave part of
/// the new content.
pub struct WebDavClient {
    settings: Settings,
    layout: Layout,
    api: Arc<Api>,
    uploads: Uploads,
    greeted: OnceCell<()>,
}

impl WebDavClient {
    /// Checks settings; contacts nobody yet.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup) when settings are missing or malformed.
    pub fn new(options: WebDavOptions, context: &ClientContext) -> Result<Self> {
        let (settings, user) = Settings::resolve(options)?;
        let layout = Layout::nested(&settings.path);
        let api = Arc::new(Api {
            server: settings.server.clone(),
            auth: Auth::new(user),
            http: context.http.client(false)?,
            retry: context.retry,
        });
        let uploads = Uploads {
            api: api.clone(),
            layout: layout.clone(),
            temp_dir: context.env_var("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from),
            moves: Moves::new(),
            made: AsyncMutex::new(HashSet::new()),
            keeps: AtomicBool::new(false),
            arrives: AtomicBool::new(false),
            stale: Mutex::default(),
        };
        Ok(Self { settings, layout, api, uploads, greeted: OnceCell::new() })
    }

    /// Learns what the server asks for before any file is sent: many servers hang
    /// up on a body that they did not want.
    async fn greet(&self) -> Result<()> {
        let greeting = || async {
            let call = list::propfind(self.layout.root(), "0")?.accept(&[403, 404]);
            self.api.status(&call).await.map(drop)
        };
        self.greeted.get_or_try_init(greeting).await.map(|&()| ())
    }
}

impl fmt::Debug for WebDavClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebDavClient").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl ReplicaClient for WebDavClient {
    fn kind(&self) -> &'static str {
        "webdav"
    }

    fn location(&self) -> String {
        let Settings { server, path } = &self.settings;
        let scheme = if server.scheme == "https" { "webdavs" } else { "webdav" };
        format!("{scheme}://{}{}/{path}", server.authority, server.base_path)
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        let Settings { server, path } = &self.settings;
        vec![("url", format!("{}{}", server.origin(), server.base_path)), ("path", path.clone())]
    }

    async fn init(&self) -> Result<()> {
        self.greet().await
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        let (files, others) = self.api.list_level(&self.layout, level, seek, metadata).await?;
        let newest = files.iter().map(|file| file.created_at).max();
        self.uploads.note_stale(&self.layout.level_prefix(level), &others, newest);
        Ok(files)
    }

    /// A listing tells when a file was stored; its capture time stands in its header.
    fn lists_true_times(&self) -> bool {
        false
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.api.read(&self.layout.key(id), offset, len).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        if !prefix.is_empty() {
            check_object_key(prefix.strip_suffix('/').unwrap_or(prefix))?;
        }
        self.api.list_tree(self.layout.object_root(), prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.api.read(&self.layout.object_key(key)?, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        self.greet().await?;
        let (id, created_at) = (request.id, request.timestamp);
        let size = self.uploads.write(request).await?;
        Ok(FileInfo { id, size, created_at })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let keys: Vec<String> = files.iter().map(|&id| self.layout.key(id)).collect();
        let deletions = stream::iter(keys.clone()).map(|key| async move { remove(&self.api, &key).await });
        let results: Vec<Result<()>> = deletions.buffered(DELETES_IN_FLIGHT).collect().await;
        deleted(keys.into_iter().zip(results).collect())
    }

    async fn delete_all(&self) -> Result<()> {
        // Without a path the replica shares the server with whatever else is
        // there, and only the collection of its levels is its own.
        let root = match self.layout.root() {
            "" => format!("{}/", crate::layout::LTX_DIR),
            root => root.to_owned(),
        };
        self.uploads.made.lock().await.clear();
        remove(&self.api, &root).await
    }
}

impl Api {
    /// Bytes `offset .. offset + len` of a file; `len == 0` means to the end.
    async fn read(&self, path: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let mut call = Call::new("read", "GET", path);
        if let Some(range) = range::header_value(offset, len) {
            call = call.header("range", &range)?.accept(&[416]);
        }
        range::cut(self.open(&call).await?, offset, len, call.describe())
    }
}

const DELETES_IN_FLIGHT: usize = 16;
