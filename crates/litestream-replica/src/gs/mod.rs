//! Google Cloud Storage, by its JSON API.
//!
//! `options` decides what the user's settings mean; `credentials` is Google's
//! chain of identities; `api` addresses and signs requests and `refusal` explains
//! a no; `list`, `upload` and `delete` are the operations.
//!
//! Spec: backends §5, store-and-restore §2 and §3.

mod api;
mod credentials;
mod delete;
mod list;
mod options;
mod refusal;
mod upload;

use std::fmt;
use std::sync::Arc;

use http::{Method, StatusCode};
use ltx::Txid;

use api::{Api, Call, Exchange, Operation};
pub use credentials::GoogleIdentity;
pub use options::GsOptions;
pub(crate) use options::parse_url;

use crate::http::range;
use crate::layout::Layout;
use crate::{ByteStream, ClientContext, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};

/// A [`ReplicaClient`] over one prefix of a bucket.
///
/// One limit of the protocol shows: an upload that is abandoned after its last
/// byte was sent may still appear, complete.
pub struct GsClient {
    api: Arc<Api>,
    layout: Layout,
}

impl GsClient {
    /// Checks settings; contacts nobody yet.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup) when settings are missing or malformed.
    pub fn new(options: GsOptions, context: &ClientContext) -> Result<Self> {
        let api = Api::new(options, context)?;
        Ok(Self { layout: Layout::nested(&api.settings.path), api: Arc::new(api) })
    }
}

impl fmt::Debug for GsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GsClient").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl ReplicaClient for GsClient {
    fn kind(&self) -> &'static str {
        "gs"
    }

    fn location(&self) -> String {
        let settings = &self.api.settings;
        format!("gs://{}/{}", settings.bucket, settings.path)
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        let settings = &self.api.settings;
        vec![("bucket", settings.bucket.clone()), ("path", settings.path.clone())]
    }

    async fn init(&self) -> Result<()> {
        Ok(())
    }

    async fn list(&self, level: Level, seek: Txid, _metadata: bool) -> Result<Vec<FileInfo>> {
        self.api.list_level(&self.layout, level, seek).await
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.api.read(&self.layout.key(id), offset, len).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.api.list_below(self.layout.object_root(), prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.api.read(&self.layout.object_key(key)?, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        let (id, created_at) = (request.id, request.timestamp);
        let size = upload::write(&self.api, self.layout.key(id), request).await?;
        Ok(FileInfo { id, size, created_at })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let keys: Vec<String> = files.iter().map(|&id| self.layout.key(id)).collect();
        self.api.delete_keys(&keys).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.api.delete_below(&self.layout.own_prefix()).await
    }
}

impl Api {
    /// Bytes `offset .. offset + len` of an object; `len == 0` means to the end.
    async fn read(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let mut call = Call::new(GET, Method::GET, Some(key));
        call.query.push(("alt", "media"));
        if let Some(range) = range::header_value(offset, len) {
            call = call.header("range", &range)?;
            call.accept = &[StatusCode::RANGE_NOT_SATISFIABLE];
        }
        let response = self.open(&call).await?;
        range::cut(response, offset, len, call.describe())
    }
}

const GET: Operation = Operation { store: "gs", name: "get object", permission: "storage.objects.get" };
