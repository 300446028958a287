//! Uploads: one request for small files, parts for large ones.
//!
//! Nothing is visible before the last request succeeds. Parts of a failed or
//! abandoned upload are removed, since the store keeps and charges for them.
//!
//! Create-only writes forbid the store to overwrite. A bucket with versions takes
//! no notice of that; the first such write finds out, and from then on the client
//! looks before it writes.
//!
//! Spec: backends §10, store-and-restore §3.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode};

use super::api::{Answer, Api, Call, Exchange, Operation};
use super::list::TIMESTAMP_HEADER;
use super::xml::{self, CreatedUpload, PartReceipt};
use crate::http::listing::Listing;
use crate::http::unfinished::Unfinished;
use crate::layout::format_timestamp;
use crate::parts::{PartLimits, PartSizes, Piece, Source, holds_same, total};
use crate::url::setup;
use crate::{Error, ErrorKind, Result, WriteMode, WriteRequest};

/// Stores one file under `key` and returns its size.
pub(super) async fn write(api: &Arc<Api>, guarded: &Arc<Guarded>, key: String, request: WriteRequest) -> Result<u64> {
    let part_size = api.settings.part_size;
    if part_size < MIN_PART_SIZE {
        return Err(setup(format!("oss: upload to {key}: part size must be at least {MIN_PART_SIZE} bytes")));
    }
    let mut source = Source::open(request.body).await?;
    let sizes = PartSizes::plan(PART_LIMITS, part_size, source.known_len, false);
    let upload = Upload {
        api: api.clone(),
        guarded: guarded.clone(),
        key,
        timestamp: format_timestamp(request.timestamp),
        create_only: request.mode == WriteMode::CreateOnly,
    };
    let first = source.next(sizes.size(1)).await?;
    if (first.len() as u64) < part_size {
        upload.put(first).await
    } else {
        upload.multipart(first, source, sizes).await
    }
}

/// What is known about the bucket's heeding of "do not overwrite".
pub(super) struct Guarded(AtomicU8);

impl Guarded {
    pub(super) const fn new() -> Self {
        Self(AtomicU8::new(Self::UNKNOWN))
    }

    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn learn(&self, heeds: bool, bucket: &str) {
        let state = if heeds { Self::YES } else { Self::NO };
        if self.0.swap(state, Ordering::Relaxed) != state && !heeds {
            tracing::warn!(
                bucket,
                "bucket overwrites although told not to (has it versions?), looking for existing files before each write"
            );
        }
    }
}

/// Owns what it needs, so that its futures can be sent between threads.
struct Upload {
    api: Arc<Api>,
    guarded: Arc<Guarded>,
    key: String,
    timestamp: String,
    create_only: bool,
}

/// How a write that must not replace anything went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stored,
    /// The name is taken.
    Taken,
}

impl Upload {
    /// One request for the whole body.
    async fn put(&self, body: Bytes) -> Result<u64> {
        let size = body.len() as u64;
        if !self.create_only {
            self.put_object(&body, false).await?;
            return Ok(size);
        }
        let known = self.guarded.get();
        if known != Guarded::YES && self.name_is_taken().await? {
            return self.settle(&[Piece::of(&body)]).await;
        }
        match self.put_object(&body, known != Guarded::NO).await? {
            Outcome::Taken => return self.settle(&[Piece::of(&body)]).await,
            Outcome::Stored if known == Guarded::UNKNOWN => {
                // The same bytes again must now be refused.
                let again = self.put_object(&body, true).await?;
                self.guarded.learn(again == Outcome::Taken, &self.api.settings.bucket);
            }
            Outcome::Stored => {}
        }
        Ok(size)
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
        let mut call = self.with_attributes(Call::new(PUT, Method::PUT, Some(&self.key)), only_new)?;
        call.body = body.clone();
        let answer = self.api.call(&call).await?;
        if self.is_taken(&call, &answer)? {
            return Ok(Outcome::Taken);
        }
        check_crc(&answer, body, &self.key)?;
        etag(&answer, &self.key).map(|_| Outcome::Stored)
    }

    /// Many requests, of which the last makes the file appear.
    async fn multipart(&self, first: Bytes, mut source: Source, sizes: PartSizes) -> Result<u64> {
        if self.create_only && self.name_is_taken().await? {
            return self.settle(&source.pieces(first, sizes).await?).await;
        }
        let mut create = self.with_attributes(Call::new(CREATE, Method::POST, Some(&self.key)), false)?;
        create.query.push(("uploads", ""));
        let CreatedUpload { upload_id } = xml::parse(&self.api.call(&create).await?.body, CREATE.name)?;
        if upload_id.is_empty() {
            return Err(Error::new(
                ErrorKind::Transient,
                format!("oss: upload to {}: no upload id returned", self.key),
            ));
        }
        let guard = Unfinished::new(&self.api, ABORT, &self.key, upload_id);
        match self.parts_and_completion(&guard.upload_id, first, source, sizes).await {
            Ok((Outcome::Stored, pieces)) => {
                guard.finish();
                Ok(total(&pieces))
            }
            Ok((Outcome::Taken, pieces)) => {
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
        let bodies = stream::try_unfold((Some(first), source, 1), |(first, mut source, number)| async move {
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
        Ok((self.complete(upload_id, &receipts).await?, pieces))
    }

    async fn complete(&self, upload_id: &str, receipts: &[PartReceipt]) -> Result<Outcome> {
        let mut call = Call::new(COMPLETE, Method::POST, Some(&self.key)).header("content-type", "application/xml")?;
        call.query.push(("uploadId", upload_id));
        call.accept = &[StatusCode::NOT_FOUND];
        if self.create_only {
            call = call.header(FORBID_OVERWRITE, "true")?;
            call.accept = &[StatusCode::NOT_FOUND, StatusCode::CONFLICT];
        }
        call.body = Bytes::from(xml::complete_request(receipts));
        let answer = self.api.call(&call).await?;
        if answer.status != StatusCode::NOT_FOUND {
            return Ok(if self.is_taken(&call, &answer)? { Outcome::Taken } else { Outcome::Stored });
        }
        // An upload that is gone was completed by an earlier attempt whose answer
        // was lost, or removed by somebody.
        match self.api.head(&self.key).await? {
            Some(_) => Ok(Outcome::Taken),
            None => Err(self.api.refuse(&call, answer.status, &answer.headers, &answer.body)),
        }
    }

    /// Whether an answer says that the name is taken; other conflicts are errors.
    fn is_taken(&self, call: &Call<'_>, answer: &Answer) -> Result<bool> {
        if answer.status != StatusCode::CONFLICT {
            return Ok(false);
        }
        let error = self.api.refuse(call, answer.status, &answer.headers, &answer.body);
        if error.kind() == ErrorKind::Conflict { Ok(true) } else { Err(error) }
    }

    /// The name is taken: success if the object holds the same bytes, which is
    /// what a repeated upload meets after a lost answer.
    async fn settle(&self, pieces: &[Piece]) -> Result<u64> {
        if holds_same(self.api.read(&self.key, 0, 0).await?, pieces).await? {
            return Ok(total(pieces));
        }
        Err(Error::new(ErrorKind::Conflict, format!("oss: upload to {}: another object of this name exists", self.key)))
    }

    fn with_attributes<'a>(&self, call: Call<'a>, only_new: bool) -> Result<Call<'a>> {
        let mut call = call.header("content-type", "application/octet-stream")?;
        call = call.header(TIMESTAMP_HEADER, &self.timestamp)?;
        if only_new {
            call = call.header(FORBID_OVERWRITE, "true")?;
            call.accept = &[StatusCode::CONFLICT];
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
    if number > PART_LIMITS.max_parts {
        let most = PART_LIMITS.max_parts;
        return Err(setup(format!("oss: upload to {key}: more than {most} parts; raise part-size")));
    }
    let part_number = number.to_string();
    let mut call = Call::new(PART, Method::PUT, Some(key));
    call.query.extend([("partNumber", part_number.as_str()), ("uploadId", upload_id)]);
    call.body = body.clone();
    let answer = api.call(&call).await?;
    check_crc(&answer, &body, key)?;
    Ok((PartReceipt { number, etag: etag(&answer, key)? }, Piece::of(&body)))
}

/// The store tells the CRC-64 of what it received.
fn check_crc(answer: &Answer, body: &[u8], key: &str) -> Result<()> {
    let Some(theirs) = answer.header("x-oss-hash-crc64ecma").and_then(|crc| crc.parse::<u64>().ok()) else {
        return Ok(());
    };
    if theirs == crc64(body) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Transient,
        format!("oss: upload to {key}: the store received other bytes than were sent"),
    ))
}

/// CRC-64 with the ECMA-182 polynomial, reflected: also known as CRC-64/XZ.
fn crc64(body: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, body)
}

fn etag(answer: &Answer, key: &str) -> Result<String> {
    let missing = || Error::new(ErrorKind::Transient, format!("oss: upload to {key}: no ETag returned"));
    answer.header(http::header::ETAG.as_str()).map(str::to_owned).ok_or_else(missing)
}

const PUT: Operation = Operation { store: "oss", name: "put object", permission: "oss:PutObject" };
const CREATE: Operation = Operation { store: "oss", name: "create upload of", permission: "oss:PutObject" };
const PART: Operation = Operation { store: "oss", name: "upload part of", permission: "oss:PutObject" };
const COMPLETE: Operation = Operation { store: "oss", name: "complete upload of", permission: "oss:PutObject" };
const ABORT: Operation = Operation { store: "oss", name: "abort upload of", permission: "oss:AbortMultipartUpload" };

const FORBID_OVERWRITE: &str = "x-oss-forbid-overwrite";

/// Limits of the protocol.
const PART_LIMITS: PartLimits = PartLimits { max_parts: 10_000, max_size: 5 << 30 };
const MIN_PART_SIZE: u64 = 100 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_is_the_one_of_the_header() {
        // The check value of CRC-64/XZ.
        assert_eq!(crc64(b"123456789"), 0x995d_c9bb_df19_39fa);
    }
}
