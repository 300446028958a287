//! Amazon S3 and every store that speaks its protocol.
//!
//! `options` decides what the user's settings mean and `location` reads them
//! from URLs; `provider` holds every difference between stores; `endpoint` turns
//! keys into URLs; `credentials` knows who we are; `api` sends one request and
//! `refusal` explains a no; `list`, `upload` and `delete` are the operations, `lock`
//! is the object of the lease.
//!
//! Spec: backends §3 and §4, store-and-restore §3.

mod api;
mod assumed_role;
mod credentials;
mod delete;
mod endpoint;
mod list;
mod location;
mod lock;
mod options;
mod provider;
mod refusal;
mod upload;
mod xml;

use std::fmt;
use std::sync::Arc;

use http::{Method, StatusCode};
use ltx::Txid;
use tokio::sync::OnceCell;

use api::{Api, Call, Exchange, Operation};
pub use credentials::AwsIdentity;
use endpoint::Target;
pub(crate) use location::parse_url;
pub use options::S3Options;
use options::{DEFAULT_REGION, Settings};
use upload::Conditional;
use xml::Location;

use crate::http::{HttpClient, listing, range};
use crate::layout::Layout;
use crate::lease::LockStore;
use crate::{ByteStream, ClientContext, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};

/// How names of buckets end that have no order to start in.
const DIRECTORY_BUCKET: &str = "--x-s3";

/// A [`ReplicaClient`] over one prefix of a bucket.
///
/// One limit of the protocol shows: a small file whose upload is abandoned after
/// its last byte was sent may still appear, complete.
#[derive(Clone)]
pub struct S3Client {
    settings: Arc<Settings>,
    layout: Layout,
    http: HttpClient,
    context: ClientContext,
    ready: OnceCell<Arc<Api>>,
    conditional: Arc<Conditional>,
}

impl S3Client {
    /// Checks settings; contacts nobody yet.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup) when settings are missing, malformed or
    /// contradict one another.
    pub fn new(options: S3Options, context: &ClientContext) -> Result<Self> {
        let settings = Settings::resolve(options, context)?;
        Ok(Self {
            layout: Layout::flat(&settings.path),
            http: context.http.client(settings.skip_verify)?,
            context: context.clone(),
            ready: OnceCell::new(),
            conditional: Arc::new(Conditional::new(settings.quirks.conditional_writes)),
            settings,
        })
    }

    /// The bucket with its region settled, asking the store once if need be.
    async fn api(&self) -> Result<&Arc<Api>> {
        self.ready
            .get_or_try_init(|| async {
                match &self.settings.region {
                    Some(region) => self.in_region(region),
                    None => self.in_region(&self.look_up_region().await?),
                }
            })
            .await
    }

    fn in_region(&self, region: &str) -> Result<Arc<Api>> {
        Ok(Arc::new(Api {
            target: Target::new(&self.settings, region),
            signer: credentials::signer(&self.context, self.settings.keys.clone(), region)?,
            settings: self.settings.clone(),
            http: self.http.clone(),
            retry: self.context.retry,
        }))
    }

    async fn look_up_region(&self) -> Result<String> {
        let api = self.in_region(DEFAULT_REGION)?;
        let mut call = Call::new(LOCATE, Method::GET, None);
        call.query.push(("location", ""));
        let answer = api.call(&call).await.map_err(|e| e.context("s3: cannot lookup bucket region"))?;
        let location: Location = xml::parse(&answer.body, LOCATE.name)?;
        Ok(match location.region.as_deref() {
            None | Some("") => DEFAULT_REGION.to_owned(),
            // What buckets of before 2014 call it.
            Some("EU") => "eu-west-1".to_owned(),
            Some(region) => region.to_owned(),
        })
    }
}

impl fmt::Debug for S3Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Client").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl ReplicaClient for S3Client {
    fn kind(&self) -> &'static str {
        "s3"
    }

    fn location(&self) -> String {
        let Settings { bucket, path, .. } = &*self.settings;
        format!("s3://{bucket}/{path}")
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        let settings = &self.settings;
        vec![
            ("bucket", settings.bucket.clone()),
            ("path", settings.path.clone()),
            ("region", settings.region.clone().unwrap_or_default()),
            ("endpoint", settings.endpoint_text.clone()),
        ]
    }

    async fn init(&self) -> Result<()> {
        self.api().await.map(drop)
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        let is_ordered = !self.settings.bucket.ends_with(DIRECTORY_BUCKET);
        listing::level(&**self.api().await?, &self.layout, level, seek, metadata, is_ordered).await
    }

    /// A listing tells when an object was stored; each capture time is a request.
    fn lists_true_times(&self) -> bool {
        false
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.api().await?.read(&self.layout.key(id), offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        let api = self.api().await?;
        let (id, created_at) = (request.id, request.timestamp);
        let size = upload::write(api, &self.conditional, self.layout.key(id), request).await?;
        Ok(FileInfo { id, size, created_at })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let keys: Vec<String> = files.iter().map(|&id| self.layout.key(id)).collect();
        self.api().await?.delete_keys(&keys, false).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        listing::below(&**self.api().await?, self.layout.object_root(), prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.api().await?.read(&self.layout.object_key(key)?, offset, len).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.api().await?.delete_below(self.layout.root()).await
    }

    fn lock(&self) -> Option<Box<dyn LockStore>> {
        Some(Box::new(lock::S3Lock::new(self.clone())))
    }
}

impl Api {
    /// Bytes `offset .. offset + len` of an object; `len == 0` means to the end.
    async fn read(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let mut call = self.with_customer_key(Call::new(GET, Method::GET, Some(key)))?;
        if let Some(range) = range::header_value(offset, len) {
            call = call.header("range", &range)?;
            call.accept = &[StatusCode::RANGE_NOT_SATISFIABLE];
        }
        let response = self.open(&call).await?;
        range::cut(response, offset, len, call.describe())
    }

    /// Adds the key that the store needs to read or write an object.
    fn with_customer_key<'a>(&self, call: Call<'a>) -> Result<Call<'a>> {
        match &self.settings.customer_key {
            None => Ok(call),
            Some(customer) => call
                .header("x-amz-server-side-encryption-customer-algorithm", "AES256")?
                .header("x-amz-server-side-encryption-customer-key", &customer.key)?
                .header("x-amz-server-side-encryption-customer-key-md5", &customer.md5),
        }
    }
}

const GET: Operation = Operation { store: "s3", name: "get object", permission: "s3:GetObject" };
const LOCATE: Operation = Operation { store: "s3", name: "locate bucket", permission: "s3:GetBucketLocation" };
