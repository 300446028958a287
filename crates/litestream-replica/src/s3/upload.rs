//! Uploads: one request for small files, parts for large ones.
//!
//! Nothing is visible before the last request succeeds. Parts of a failed or
//! abandoned upload are removed, since stores keep and charge for them.
//!
//! Create-only writes ask the store to refuse an existing name. Not every store
//! knows how, and some say nothing and overwrite; [`Conditional`] finds out
//! which it is, and until then looks before it writes.
//!
//! Spec: backends §4.4, store-and-restore §3.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode};

use super::api::{Answer, Api, COMPLETE, Call, Exchange, Operation, crc32};
use super::options::MIN_PART_SIZE;
use super::xml::{self, CreatedUpload, PartReceipt};
use crate::http::listing::Listing;
use crate::http::unfinished::Unfinished;
use crate::layout::{TIMESTAMP_METADATA, format_timestamp};
use crate::parts::{PartLimits, PartSizes, Piece, Source, holds_same, total};
use crate::url::setup;
use crate::{Error, ErrorKind, Result, WriteMode, WriteRequest};

/// Stores one file under `key` and returns its size.
pub(super) async fn write(
    api: &Arc<Api>,
    conditional: &Arc<Conditional>,
    key: String,
    request: WriteRequest,
) -> Result<u64> {
    if api.settings.part_size < MIN_PART_SIZE {
        return Err(setup(format!("s3: upload to {key}: part size must be at least {MIN_PART_SIZE} bytes")));
    }
    let mut source = Source::open(request.body).await?;
    let parts = PartSizes::plan(PART_LIMITS, api.settings.part_size, source.known_len, api.settings.quirks.equal_parts);
    let upload = Upload {
        api: api.clone(),
        conditional: conditional.clone(),
        key,
        timestamp: format_timestamp(request.timestamp),
        create_only: request.mode == WriteMode::CreateOnly,
    };
    let first = source.next(parts.size(1)).await?;
    if (first.len() as u64) < api.settings.part_size {
        upload.put(first).await
    } else {
        upload.multipart(first, source, parts).await
    }
}

/// What is known about the store's `If-None-Match: *`.
pub(super) struct Conditional(AtomicU8);

impl Conditional {
    pub(super) fn new(works: bool) -> Self {
        Self(AtomicU8::new(if works { Self::WORKS } else { Self::UNKNOWN }))
    }

    const UNKNOWN: u8 = 0;
    const WORKS: u8 = 1;
    const MISSING: u8 = 2;

    fn state(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn works(&self) {
        self.0.store(Self::WORKS, Ordering::Relaxed);
    }

    fn missing(&self, origin: &str) {
        if self.0.swap(Self::MISSING, Ordering::Relaxed) != Self::MISSING {
            tracing::warn!(
                endpoint = origin,
                "store has no conditional writes, looking for existing files before each write"
            );
        }
    }
}

/// Owns what it needs: the compiler proves futures that borrow from it `Send`,
/// but not ones that borrow through it.
struct Upload {
    api: Arc<Api>,
    conditional: Arc<Conditional>,
    key: String,
    timestamp: String,
    create_only: bool,
}

/// How a write that must not replace anything went.
enum Outcome {
    Stored,
    /// The name is taken.
    Taken,
    /// The store does not know the condition; nothing was stored.
    Unsupported,
}

impl Upload {
    /// One request for the whole body.
    async fn put(&self, body: Bytes) -> Result<u64> {
        let size = body.len() as u64;
        let pieces = [Piece::of(&body)];
        if !self.create_only {
            self.put_object(&body, false).await?;
            return Ok(size);
        }
        let state = self.conditional.state();
        if state != Conditional::WORKS && self.name_is_taken().await? {
            return self.settle(&pieces).await;
        }
        if state == Conditional::MISSING {
            self.put_object(&body, false).await?;
            return Ok(size);
        }
        match self.put_object(&body, true).await? {
            Outcome::Taken => {
                self.conditional.works();
                self.settle(&pieces).await
            }
            Outcome::Unsupported => {
                self.conditional.missing(self.api.target.origin());
                self.put_object(&body, false).await?;
                Ok(size)
            }
            Outcome::Stored if state == Conditional::UNKNOWN => {
                // The same bytes again must now be refused; a store that takes
                // them ignores the condition.
                match self.put_object(&body, true).await? {
                    Outcome::Taken => self.conditional.works(),
                    _ => self.conditional.missing(self.api.target.origin()),
                }
                Ok(size)
            }
            Outcome::Stored => Ok(size),
        }
    }

    /// Looks whether the name is taken. Who may not look may still write, and
    /// learns the reason of a refusal from that: answers to `HEAD` have no text.
    async fn name_is_taken(&self) -> Result<bool> {
        match self.api.head(&self.key).await {
            Ok(head) => Ok(head.is_some()),
            Err(error) if error.kind() == ErrorKind::Setup => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put_object(&self, body: &Bytes, only_new: bool) -> Result<Outcome> {
        let mut call = self.with_attributes(Call::new(PUT, Method::PUT, Some(&self.key)))?;
        call = with_crc32(&self.api, call, body)?;
        if only_new {
            call = call.header("if-none-match", "*")?;
            call.accept = &[StatusCode::PRECONDITION_FAILED, StatusCode::NOT_IMPLEMENTED];
        }
        call.body = body.clone();
        let answer = self.api.call(&call).await?;
        match answer.status {
            StatusCode::PRECONDITION_FAILED => Ok(Outcome::Taken),
            StatusCode::NOT_IMPLEMENTED => Ok(Outcome::Unsupported),
            _ => etag(&answer, &self.key).map(|_| Outcome::Stored),
        }
    }

    /// Many requests, of which the last makes the file appear.
    async fn multipart(&self, first: Bytes, mut source: Source, sizes: PartSizes) -> Result<u64> {
        if self.create_only && self.name_is_taken().await? {
            return self.settle(&source.pieces(first, sizes).await?).await;
        }
        let create = self.with_attributes(Call::new(CREATE, Method::POST, Some(&self.key)))?;
        let mut create =
            if self.api.settings.quirks.crc32 { create.header("x-amz-checksum-algorithm", "CRC32")? } else { create };
        create.query.push(("uploads", ""));
        let answer = self.api.call(&create).await?;
        let CreatedUpload { upload_id } = xml::parse(&answer.body, CREATE.name)?;
        if upload_id.is_empty() {
            return Err(Error::new(ErrorKind::Transient, format!("s3: upload to {}: no upload id returned", self.key)));
        }

        let guard = Unfinished::new(&self.api, ABORT, &self.key, upload_id);
        match self.parts_and_completion(&guard.upload_id, first, source, sizes).await {
            Ok((Outcome::Stored, pieces)) => {
                guard.finish();
                Ok(total(&pieces))
            }
            Ok((_, pieces)) => {
                guard.abort().await;
                self.settle(&pieces).await
            }
            Err(error) => {
                guard.abort().await;
                Err(error)
            }
        }
    }

    async fn parts_and_completion(
        &self,
        upload_id: &str,
        first: Bytes,
        source: Source,
        sizes: PartSizes,
    ) -> Result<(Outcome, Vec<Piece>)> {
        let (api, target) = (self.api.clone(), Arc::new((self.key.clone(), upload_id.to_owned())));
        let state = (Some(first), source, 1);
        let bodies = stream::try_unfold(state, |(first, mut source, number)| async move {
            let body = match first {
                Some(first) => first,
                None => source.next(sizes.size(number)).await?,
            };
            if body.is_empty() {
                return Ok::<_, Error>(None);
            }
            Ok(Some(((number, body), (None, source, number + 1))))
        });
        let mut parts: Vec<(PartReceipt, Piece)> = bodies
            .map(|part| {
                let (api, target) = (api.clone(), target.clone());
                async move {
                    let (number, body) = part?;
                    upload_part(&api, &target.0, &target.1, number, body).await
                }
            })
            .buffer_unordered(self.api.settings.concurrency)
            .try_collect()
            .await?;
        parts.sort_unstable_by_key(|(receipt, _)| receipt.number);
        let (receipts, pieces): (Vec<PartReceipt>, Vec<Piece>) = parts.into_iter().unzip();

        let only_new = self.create_only && self.conditional.state() != Conditional::MISSING;
        let mut outcome = self.complete(upload_id, &receipts, only_new).await?;
        if matches!(outcome, Outcome::Unsupported) {
            outcome = self.complete(upload_id, &receipts, false).await?;
        }
        Ok((outcome, pieces))
    }

    async fn complete(&self, upload_id: &str, receipts: &[PartReceipt], only_new: bool) -> Result<Outcome> {
        let mut call = self.api.with_customer_key(Call::new(COMPLETE, Method::POST, Some(&self.key)))?;
        call = call.header("content-type", "application/xml")?;
        call.query.push(("uploadId", upload_id));
        call.accept = &[StatusCode::NOT_FOUND];
        if only_new {
            call = call.header("if-none-match", "*")?;
            call.accept = &[StatusCode::NOT_FOUND, StatusCode::PRECONDITION_FAILED, StatusCode::NOT_IMPLEMENTED];
        }
        call.body = Bytes::from(xml::complete_request(receipts));
        let Answer { status, headers, body } = self.api.call(&call).await?;
        match status {
            StatusCode::PRECONDITION_FAILED => Ok(Outcome::Taken),
            StatusCode::NOT_IMPLEMENTED => Ok(Outcome::Unsupported),
            StatusCode::NOT_FOUND => {
                // An upload that is gone was completed by an earlier attempt
                // whose answer was lost, or removed by somebody.
                match self.api.head(&self.key).await? {
                    Some(_) => Ok(Outcome::Taken),
                    None => Err(self.api.refuse(&call, status, &headers, &body)),
                }
            }
            _ => Ok(Outcome::Stored),
        }
    }

    /// The name is taken: success if the object holds the same bytes, which is
    /// what a repeated upload meets after a lost answer.
    async fn settle(&self, pieces: &[Piece]) -> Result<u64> {
        let existing = self.api.read(&self.key, 0, 0).await?;
        if holds_same(existing, pieces).await? {
            return Ok(total(pieces));
        }
        Err(Error::new(ErrorKind::Conflict, format!("s3: upload to {}: another object of this name exists", self.key)))
    }

    fn with_attributes<'a>(&self, call: Call<'a>) -> Result<Call<'a>> {
        debug_assert_eq!(TIMESTAMP_HEADER.strip_prefix("x-amz-meta-"), Some(TIMESTAMP_METADATA));
        let settings = &self.api.settings;
        let mut call = self.api.with_customer_key(call)?;
        call = call.header("content-type", "application/octet-stream")?;
        call = call.header(TIMESTAMP_HEADER, &self.timestamp)?;
        if let Some(class) = &settings.storage_class {
            call = call.header("x-amz-storage-class", class)?;
        }
        if let Some(key_id) = &settings.kms_key_id {
            call = call.header("x-amz-server-side-encryption", "aws:kms")?;
            call = call.header("x-amz-server-side-encryption-aws-kms-key-id", key_id)?;
        }
        Ok(call)
    }
}

async fn upload_part(
    api: &Api,
    key: &str,
    upload_id: &str,
    number: usize,
    body: Bytes,
) -> Result<(PartReceipt, Piece)> {
    if number > MAX_PARTS {
        return Err(setup(format!("s3: upload to {key}: more than {MAX_PARTS} parts; raise part-size")));
    }
    let part_number = number.to_string();
    let call = api.with_customer_key(Call::new(PART, Method::PUT, Some(key)))?;
    let mut call = with_crc32(api, call, &body)?;
    call.query.extend([("partNumber", part_number.as_str()), ("uploadId", upload_id)]);
    call.body = body.clone();
    let answer = api.call(&call).await?;
    let crc32 = api.settings.quirks.crc32.then(|| crc32(&body));
    Ok((PartReceipt { number, etag: etag(&answer, key)?, crc32 }, Piece::of(&body)))
}

fn with_crc32<'a>(api: &Api, call: Call<'a>, body: &[u8]) -> Result<Call<'a>> {
    if !api.settings.quirks.crc32 {
        return Ok(call);
    }
    call.header("x-amz-checksum-crc32", &crc32(body))?.header("x-amz-sdk-checksum-algorithm", "CRC32")
}

fn etag(answer: &Answer, key: &str) -> Result<String> {
    let etag = answer.headers.get(http::header::ETAG).and_then(|etag| etag.to_str().ok());
    etag.map(str::to_owned)
        .ok_or_else(|| Error::new(ErrorKind::Transient, format!("s3: upload to {key}: no ETag returned")))
}

const PUT: Operation = Operation { store: "s3", name: "put object", permission: "s3:PutObject" };
const CREATE: Operation = Operation { store: "s3", name: "create upload of", permission: "s3:PutObject" };
const PART: Operation = Operation { store: "s3", name: "upload part of", permission: "s3:PutObject" };
const ABORT: Operation = Operation { store: "s3", name: "abort upload of", permission: "s3:AbortMultipartUpload" };

const TIMESTAMP_HEADER: &str = "x-amz-meta-litestream-timestamp";

/// Limits of the protocol.
const MAX_PARTS: usize = 10_000;
const PART_LIMITS: PartLimits = PartLimits { max_parts: MAX_PARTS, max_size: 5 << 30 };
