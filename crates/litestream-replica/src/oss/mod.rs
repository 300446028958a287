//! Alibaba Cloud's Object Storage Service.
//!
//! `options` decides what the user's settings mean, `sign` makes signatures,
//! `api` signs requests and explains a no; `list`, `upload` and `delete` are the
//! operations.
//!
//! Spec: backends §10, store-and-restore §2 and §3.

mod api;
mod delete;
mod list;
mod options;
mod sign;
mod upload;
mod xml;

use std::fmt;
use std::sync::Arc;

use http::{Method, StatusCode};
use ltx::Txid;

use api::{Api, Call, Exchange, Operation};
pub use options::OssOptions;
use options::Settings;
pub(crate) use options::parse_url;
use upload::Guarded;

use crate::clock::SystemClock;
use crate::http::{listing, range};
use crate::layout::Layout;
use crate::{ByteStream, ClientContext, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};

/// A [`ReplicaClient`] over one prefix of a bucket.
///
/// One limit of the protocol shows: a small file whose upload is abandoned after
/// its last byte was sent may still appear, complete.
pub struct OssClient {
    settings: Arc<Settings>,
    layout: Layout,
    api: Arc<Api>,
    guarded: Arc<Guarded>,
}

impl OssClient {
    /// Checks settings; contacts nobody.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup) when settings or credentials are missing
    /// or malformed.
    pub fn new(options: OssOptions, context: &ClientContext) -> Result<Self> {
        let settings = Settings::resolve(options, context)?;
        let api = Arc::new(Api {
            settings: settings.clone(),
            http: context.http.client(false)?,
            retry: context.retry,
            clock: Arc::new(SystemClock),
        });
        Ok(Self { layout: Layout::flat(&settings.path), settings, api, guarded: Arc::new(Guarded::new()) })
    }
}

impl fmt::Debug for OssClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OssClient").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl ReplicaClient for OssClient {
    fn kind(&self) -> &'static str {
        "oss"
    }

    fn location(&self) -> String {
        let Settings { bucket, path, .. } = &*self.settings;
        format!("oss://{bucket}/{path}")
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        let Settings { bucket, path, region, .. } = &*self.settings;
        vec![("bucket", bucket.clone()), ("path", path.clone()), ("region", region.clone())]
    }

    async fn init(&self) -> Result<()> {
        Ok(())
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        listing::level(&*self.api, &self.layout, level, seek, metadata, true).await
    }

    /// A listing tells when an object was stored; each capture time is a request.
    fn lists_true_times(&self) -> bool {
        false
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.api.read(&self.layout.key(id), offset, len).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        listing::below(&*self.api, self.layout.object_root(), prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.api.read(&self.layout.object_key(key)?, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        let (id, created_at) = (request.id, request.timestamp);
        let size = upload::write(&self.api, &self.guarded, self.layout.key(id), request).await?;
        Ok(FileInfo { id, size, created_at })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let keys: Vec<String> = files.iter().map(|&id| self.layout.key(id)).collect();
        self.api.delete_keys(&keys).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.api.delete_below(self.layout.root()).await
    }
}

impl Api {
    /// Bytes `offset .. offset + len` of an object; `len == 0` means to the end.
    async fn read(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let mut call = Call::new(GET, Method::GET, Some(key));
        if let Some(range) = range::header_value(offset, len) {
            call = call.header("range", &range)?;
            // Otherwise a range that reaches beyond the end is answered with
            // everything, as if it had not been asked for.
            call = call.header("x-oss-range-behavior", "standard")?;
            call.accept = &[StatusCode::RANGE_NOT_SATISFIABLE];
        }
        range::cut(self.open(&call).await?, offset, len, call.describe())
    }
}

const GET: Operation = Operation { store: "oss", name: "get object", permission: "oss:GetObject" };
