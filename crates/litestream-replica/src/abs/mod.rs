//! Azure Blob Storage.
//!
//! `options` decides what the user's settings mean; `signature` is the shared
//! key scheme and `credentials` the chain of identities for accounts without
//! keys; `api` addresses and signs requests and `refusal` explains a no; `list`,
//! `upload` and `delete` are the operations.
//!
//! Spec: backends §6, store-and-restore §2 and §3.

mod api;
mod credentials;
mod delete;
mod list;
mod options;
mod refusal;
mod signature;
mod upload;

use std::fmt;
use std::sync::Arc;

use http::{Method, StatusCode};
use ltx::Txid;

use api::{Api, Call, Exchange, Operation};
pub use credentials::AzureIdentity;
pub use options::AbsOptions;
pub(crate) use options::parse_url;

use crate::http::range;
use crate::layout::Layout;
use crate::{ByteStream, ClientContext, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};

/// A [`ReplicaClient`] over one prefix of a container.
///
/// One limit of the protocol shows: a small file whose upload is abandoned after
/// its last byte was sent may still appear, complete. Blocks of an abandoned
/// large upload are invisible, and Azure removes them after a week.
pub struct AbsClient {
    api: Arc<Api>,
    layout: Layout,
}

impl AbsClient {
    /// Checks settings; contacts nobody yet.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup) when settings are missing, malformed or
    /// contradict one another.
    pub fn new(options: AbsOptions, context: &ClientContext) -> Result<Self> {
        let api = Api::new(options, context)?;
        Ok(Self { layout: Layout::nested(&api.settings.path), api: Arc::new(api) })
    }
}

impl fmt::Debug for AbsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbsClient").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl ReplicaClient for AbsClient {
    fn kind(&self) -> &'static str {
        "abs"
    }

    fn location(&self) -> String {
        let settings = &self.api.settings;
        match &settings.account {
            Some(account) => format!("abs://{account}@{}/{}", settings.container, settings.path),
            None => format!("abs://{}/{}", settings.container, settings.path),
        }
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        let settings = &self.api.settings;
        vec![
            ("bucket", settings.container.clone()),
            ("path", settings.path.clone()),
            ("endpoint", settings.endpoint_text.clone()),
        ]
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
    /// Bytes `offset .. offset + len` of a blob; `len == 0` means to the end.
    async fn read(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let mut call = Call::new(GET, Method::GET, Some(key));
        if let Some(range) = range::header_value(offset, len) {
            call = call.header("x-ms-range", &range)?;
            call.accept = &[StatusCode::RANGE_NOT_SATISFIABLE];
        }
        let response = self.open(&call).await?;
        range::cut(response, offset, len, call.describe())
    }
}

const GET: Operation = Operation { store: "abs", name: "get blob", permission: "read" };
