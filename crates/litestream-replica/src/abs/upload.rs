//! Uploads: one request for small files, blocks for large ones.
//!
//! Nothing is visible before the last request succeeds. Blocks of an upload that
//! does not come to its end stay invisible, cannot be removed by themselves, and
//! are dropped by the service after a week.
//!
//! Spec: backends §6, store-and-restore §3.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode};
use md5::{Digest, Md5};

use super::api::{Answer, Api, Call, Exchange, Operation};
use super::refusal;
use crate::layout::format_timestamp;
use crate::parts::{PartLimits, PartSizes, Piece, Source, holds_same, total};
use crate::url::setup;
use crate::{Error, ErrorKind, Result, WriteMode, WriteRequest};

/// Stores one file under `key` and returns its size.
pub(super) async fn write(api: &Arc<Api>, key: String, request: WriteRequest) -> Result<u64> {
    let mut source = Source::open(request.body).await?;
    let sizes = PartSizes::plan(LIMITS, BLOCK_SIZE, source.known_len, false);
    let upload = Upload {
        api: api.clone(),
        key,
        timestamp: format_timestamp(request.timestamp),
        create_only: request.mode == WriteMode::CreateOnly,
    };
    let first = source.next(sizes.size(1)).await?;
    if (first.len() as u64) < BLOCK_SIZE { upload.put(first).await } else { upload.blocks(first, source, sizes).await }
}

/// Owns what it needs: the compiler proves futures that borrow from it `Send`,
/// but not ones that borrow through it.
struct Upload {
    api: Arc<Api>,
    key: String,
    timestamp: String,
    create_only: bool,
}

impl Upload {
    /// One request for the whole body.
    async fn put(&self, body: Bytes) -> Result<u64> {
        let md5 = BASE64_STANDARD.encode(Md5::digest(&body));
        let build = || -> Result<Call<'_>> {
            let mut call = Call::new(PUT, Method::PUT, Some(&self.key)).header("x-ms-blob-type", "BlockBlob")?;
            call = call.header("content-md5", &md5)?;
            call.body = body.clone();
            Ok(call)
        };
        self.publish(build, &[Piece::of(&body)]).await
    }

    /// Many requests, of which the last makes the file appear.
    async fn blocks(&self, first: Bytes, mut source: Source, sizes: PartSizes) -> Result<u64> {
        if self.create_only && self.name_is_taken().await? {
            return self.settle(&source.pieces(first, sizes).await?).await;
        }
        // Blocks of another upload of this name must not be taken for ours.
        let upload_id: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
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
        let mut blocks: Vec<(usize, Piece)> = bodies
            .map(|block| {
                let (api, key) = (self.api.clone(), self.key.clone());
                async move {
                    let (number, body) = block?;
                    put_block(&api, &key, &block_id(&upload_id, number), number, &body).await?;
                    Ok::<_, Error>((number, Piece::of(&body)))
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        blocks.sort_unstable_by_key(|(number, _)| *number);
        let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for (number, _) in &blocks {
            list.push_str(&format!("<Latest>{}</Latest>", block_id(&upload_id, *number)));
        }
        list.push_str("</BlockList>");
        let list = Bytes::from(list);
        let pieces: Vec<Piece> = blocks.into_iter().map(|(_, piece)| piece).collect();
        let build = || -> Result<Call<'_>> {
            let mut call = Call::new(COMMIT, Method::PUT, Some(&self.key)).header("content-type", "application/xml")?;
            call.query.push(("comp", "blocklist"));
            call.body = list.clone();
            Ok(call)
        };
        self.publish(build, &pieces).await
    }

    /// Sends the request that makes the file appear.
    async fn publish<'a>(&self, build: impl Fn() -> Result<Call<'a>>, pieces: &[Piece]) -> Result<u64> {
        loop {
            let with_tier = !self.api.without_tiers.load(Ordering::Relaxed);
            let mut call = build()?.header("x-ms-blob-content-type", "application/octet-stream")?;
            call = call.header(TIMESTAMP_HEADER, &self.timestamp)?;
            if with_tier {
                // Files live for minutes or days; a cooler tier, which may be the
                // account's default, charges for a month.
                call = call.header("x-ms-access-tier", "Hot")?;
            }
            if self.create_only {
                call = call.header("if-none-match", "*")?;
            }
            call.accept = &[StatusCode::BAD_REQUEST, StatusCode::CONFLICT, StatusCode::PRECONDITION_FAILED];
            let Answer { status, headers, body } = self.api.call(&call).await?;
            if status.is_success() {
                return Ok(total(pieces));
            }
            let code = refusal::code(&headers, &body);
            let tier_refused =
                code.contains("Tier") || matches!(code.as_str(), "UnsupportedHeader" | "InvalidHeaderValue");
            if with_tier && status != StatusCode::PRECONDITION_FAILED && tier_refused {
                self.api.without_tiers.store(true, Ordering::Relaxed);
                tracing::info!(code, "account does not take access tiers, leaving it to its default");
                continue;
            }
            let error = self.api.refuse(&call, status, &headers, &body);
            let taken = self.create_only && error.kind() == ErrorKind::Conflict;
            return if taken { self.settle(pieces).await } else { Err(error) };
        }
    }

    /// Looks whether the name is taken. Who may not look may still write.
    async fn name_is_taken(&self) -> Result<bool> {
        let mut call = Call::new(HEAD, Method::HEAD, Some(&self.key));
        call.accept = &[StatusCode::NOT_FOUND, StatusCode::FORBIDDEN];
        Ok(self.api.call(&call).await?.status.is_success())
    }

    /// The name is taken: success if the blob holds the same bytes, which is what
    /// a repeated upload meets after a lost answer.
    async fn settle(&self, pieces: &[Piece]) -> Result<u64> {
        let existing = self.api.read(&self.key, 0, 0).await?;
        if holds_same(existing, pieces).await? {
            return Ok(total(pieces));
        }
        Err(Error::new(ErrorKind::Conflict, format!("abs: upload to {}: another blob of this name exists", self.key)))
    }
}

async fn put_block(api: &Api, key: &str, id: &str, number: usize, body: &Bytes) -> Result<()> {
    if number > LIMITS.max_parts {
        return Err(setup(format!("abs: upload to {key}: more than {} blocks", LIMITS.max_parts)));
    }
    let mut call = Call::new(BLOCK, Method::PUT, Some(key));
    call.query.extend([("comp", "block"), ("blockid", id)]);
    call = call.header("content-md5", &BASE64_STANDARD.encode(Md5::digest(body)))?;
    call.body = body.clone();
    api.call(&call).await.map(drop)
}

/// Base64 of 64 bytes: the upload, the block's number, zeros.
///
/// The length matters. All blocks of a name must have ids of one length, those of
/// an abandoned upload included, and upstream's have this one.
fn block_id(upload: &[u8; 16], number: usize) -> String {
    let mut id = [0; 64];
    let number = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    for (slot, byte) in id.iter_mut().zip(upload.iter().chain(&number)) {
        *slot = *byte;
    }
    BASE64_STANDARD.encode(id)
}

const PUT: Operation = Operation { store: "abs", name: "put blob", permission: "write" };
const BLOCK: Operation = Operation { store: "abs", name: "put block of", permission: "write" };
const COMMIT: Operation = Operation { store: "abs", name: "commit blocks of", permission: "write" };
const HEAD: Operation = Operation { store: "abs", name: "look at", permission: "read" };

/// Names of metadata may not have hyphens here.
const TIMESTAMP_HEADER: &str = "x-ms-meta-litestreamtimestamp";

const BLOCK_SIZE: u64 = 4 << 20;
const LIMITS: PartLimits = PartLimits { max_parts: 50_000, max_size: 4000 << 20 };
/// Blocks of one file in flight.
const CONCURRENCY: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_ids_have_one_length_and_differ() {
        let ids: std::collections::HashSet<String> = [1, 2, 255, 256, 50_000].map(|n| block_id(&[9; 16], n)).into();
        assert_eq!(ids.len(), 5);
        assert!(ids.iter().all(|id| id.len() == 88));
        assert_ne!(block_id(&[1; 16], 1), block_id(&[2; 16], 1));
    }
}
