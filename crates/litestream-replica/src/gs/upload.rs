//! Uploads: one request for small files, a resumable session for large ones.
//!
//! Nothing is visible before the last byte has arrived and the store has agreed.
//! What arrived is compared with what was sent by its CRC-32C. The session of an
//! upload that does not come to its end is cancelled.
//!
//! Spec: backends §5, store-and-restore §3. Google, "Resumable uploads".

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use http::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::api::{Answer, Api, Call, Exchange, Operation};
use crate::layout::{TIMESTAMP_METADATA, format_timestamp};
use crate::parts::{PartLimits, PartSizes, Piece, Source, holds_same, total};
use crate::{Error, ErrorKind, Result, WriteMode, WriteRequest};

/// Stores one file under `key` and returns its size.
pub(super) async fn write(api: &Arc<Api>, key: String, request: WriteRequest) -> Result<u64> {
    let mut source = Source::open(request.body).await?;
    let upload = Upload {
        api: api.clone(),
        key,
        timestamp: format_timestamp(request.timestamp),
        create_only: request.mode == WriteMode::CreateOnly,
    };
    let first = source.next(CHUNK_SIZE).await?;
    if (first.len() as u64) < CHUNK_SIZE { upload.insert(first).await } else { upload.session(first, source).await }
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
    /// One request for metadata and body.
    async fn insert(&self, body: Bytes) -> Result<u64> {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&body);
        let crc = crc32c(&digest);
        let mut about = self.about();
        // The store refuses what does not arrive so.
        if let Some(about) = about.as_object_mut() {
            about.insert("crc32c".to_owned(), json!(crc));
        }
        let boundary = format!("litestream{:032x}", fastrand::u128(..));
        let head = format!(
            "--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n--{boundary}\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let mut whole = BytesMut::with_capacity(head.len() + body.len() + tail.len());
        whole.put_slice(head.as_bytes());
        whole.put_slice(&body);
        whole.put_slice(tail.as_bytes());

        let mut call = self.creation(INSERT, "multipart");
        call = call.header("content-type", &format!("multipart/related; boundary={boundary}"))?;
        call.body = whole.freeze();
        let answer = self.api.call(&call).await?;
        self.finish(&answer, &[Piece::of(&body)], &crc).await
    }

    /// Many requests, of which the last makes the file appear.
    async fn session(&self, first: Bytes, mut source: Source) -> Result<u64> {
        if self.create_only && self.name_is_taken().await? {
            let sizes =
                PartSizes::plan(PartLimits { max_parts: usize::MAX, max_size: CHUNK_SIZE }, CHUNK_SIZE, None, true);
            return self.settle(&source.pieces(first, sizes).await?).await;
        }
        let mut call = self.creation(START, "resumable");
        call = call.header("content-type", "application/json; charset=UTF-8")?;
        call = call.header("x-upload-content-type", "application/octet-stream")?;
        call.body = Bytes::from(self.about().to_string());
        let answer = self.api.call(&call).await?;
        if answer.status == StatusCode::PRECONDITION_FAILED {
            let sizes =
                PartSizes::plan(PartLimits { max_parts: usize::MAX, max_size: CHUNK_SIZE }, CHUNK_SIZE, None, true);
            return self.settle(&source.pieces(first, sizes).await?).await;
        }
        let Some(url) = answer.header(header::LOCATION.as_str()).map(str::to_owned) else {
            let message = format!("gs: upload to {}: the store does not say where to go on", self.key);
            return Err(Error::new(ErrorKind::Transient, message));
        };
        let guard = CancelGuard { api: self.api.clone(), key: self.key.clone(), url, armed: true };
        let sent = self.chunks(&guard.url, first, source).await;
        // Refused because the name is taken, the session is over as well.
        match sent {
            Ok((answer, pieces, crc)) => {
                guard.disarm();
                self.finish(&answer, &pieces, &crc).await
            }
            Err(error) => {
                guard.cancel().await;
                Err(error)
            }
        }
    }

    /// Sends the body, knowing of each chunk whether it is the last one: only
    /// that one says how long the whole is.
    async fn chunks(&self, url: &str, first: Bytes, mut source: Source) -> Result<(Answer, Vec<Piece>, String)> {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let (mut pieces, mut chunk, mut offset) = (Vec::new(), first, 0_u64);
        loop {
            let next = source.next(CHUNK_SIZE).await?;
            digest.update(&chunk);
            pieces.push(Piece::of(&chunk));
            let end = offset + chunk.len() as u64;
            let is_last = next.is_empty();
            let answer = self.chunk(url, chunk, offset, is_last).await?;
            match (is_last, answer) {
                (true, Some(answer)) => return Ok((answer, pieces, crc32c(&digest))),
                (false, None) => {}
                _ => {
                    let message = format!("gs: upload to {}: the store has lost count", self.key);
                    return Err(Error::new(ErrorKind::Transient, message));
                }
            }
            (chunk, offset) = (next, end);
        }
    }

    /// Sends one chunk, or again what of it did not arrive. `None` when the
    /// store wants more.
    async fn chunk(&self, url: &str, mut chunk: Bytes, mut offset: u64, is_last: bool) -> Result<Option<Answer>> {
        loop {
            let end = offset + chunk.len() as u64;
            let total = if is_last { end.to_string() } else { "*".to_owned() };
            let mut call = Call::new(CHUNK, Method::PUT, Some(&self.key));
            call.url = Some(url);
            call = call.header("content-range", &format!("bytes {offset}-{}/{total}", end.saturating_sub(1)))?;
            call.accept = &[StatusCode::PERMANENT_REDIRECT, StatusCode::PRECONDITION_FAILED];
            call.body = chunk.clone();
            let answer = self.api.call(&call).await?;
            if answer.status != StatusCode::PERMANENT_REDIRECT {
                return Ok(Some(answer));
            }
            // "Resume incomplete": so far it has the bytes up to this one.
            let last =
                answer.header(header::RANGE.as_str()).and_then(|range| range.rsplit_once('-')?.1.parse::<u64>().ok());
            let stored = last.map_or(0, |last| last + 1);
            match usize::try_from(stored.saturating_sub(offset)) {
                _ if stored == end && !is_last => return Ok(None),
                Ok(kept) if kept > 0 && kept < chunk.len() => {
                    drop(chunk.split_to(kept));
                    offset = stored;
                }
                _ => {
                    let message =
                        format!("gs: upload to {}: the store does not take more than {stored} bytes", self.key);
                    return Err(Error::new(ErrorKind::Transient, message));
                }
            }
        }
    }

    /// A call that makes an object, on condition that there is none if so wished.
    fn creation(&self, operation: Operation, kind: &'static str) -> Call<'_> {
        let mut call = Call::new(operation, Method::POST, Some(&self.key));
        call.query.extend([("uploadType", kind), ("name", self.key.as_str())]);
        if self.create_only {
            call.query.push(("ifGenerationMatch", "0"));
            call.accept = &[StatusCode::PRECONDITION_FAILED];
        }
        call
    }

    fn about(&self) -> serde_json::Value {
        json!({
            "name": self.key,
            "contentType": "application/octet-stream",
            "metadata": {TIMESTAMP_METADATA: self.timestamp},
        })
    }

    /// Reads the last answer of an upload: stored as sent, or the name is taken.
    async fn finish(&self, answer: &Answer, pieces: &[Piece], crc: &str) -> Result<u64> {
        if answer.status == StatusCode::PRECONDITION_FAILED {
            return self.settle(pieces).await;
        }
        let stored: Stored = serde_json::from_slice(&answer.body).unwrap_or_default();
        if stored.crc32c.as_deref().is_some_and(|stored| stored != crc) {
            // Still ours: nobody has been told of it.
            self.api.delete_keys(std::slice::from_ref(&self.key)).await?;
            let message = format!("gs: upload to {}: what arrived has another checksum", self.key);
            return Err(Error::new(ErrorKind::Transient, message));
        }
        Ok(total(pieces))
    }

    /// Looks whether the name is taken. Who may not look may still write.
    async fn name_is_taken(&self) -> Result<bool> {
        let mut call = Call::new(LOOK, Method::GET, Some(&self.key));
        call.query.push(("fields", "name"));
        call.accept = &[StatusCode::FORBIDDEN];
        match self.api.call(&call).await {
            Ok(answer) => Ok(answer.status.is_success()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The name is taken: success if the object holds the same bytes, which is
    /// what a repeated upload meets after a lost answer.
    async fn settle(&self, pieces: &[Piece]) -> Result<u64> {
        let existing = self.api.read(&self.key, 0, 0).await?;
        if holds_same(existing, pieces).await? {
            return Ok(total(pieces));
        }
        Err(Error::new(ErrorKind::Conflict, format!("gs: upload to {}: another object of this name exists", self.key)))
    }
}

/// What the store says of a new object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stored {
    crc32c: Option<String>,
}

/// As the protocol spells it: base64 of four bytes, the highest first.
fn crc32c(digest: &Digest) -> String {
    let [.., a, b, c, d] = digest.finalize().to_be_bytes();
    BASE64_STANDARD.encode([a, b, c, d])
}

/// Ends the session of an upload that does not come to its end, even when the
/// future that feeds it is dropped.
struct CancelGuard {
    api: Arc<Api>,
    key: String,
    url: String,
    armed: bool,
}

impl CancelGuard {
    fn disarm(mut self) {
        self.armed = false;
    }

    async fn cancel(mut self) {
        self.armed = false;
        cancel(&self.api, &self.key, &self.url).await;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (api, key, url) = (self.api.clone(), self.key.clone(), self.url.clone());
        // Without a runtime the program is ending; the session ends in a week.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { cancel(&api, &key, &url).await });
        }
    }
}

async fn cancel(api: &Api, key: &str, url: &str) {
    let mut call = Call::new(CANCEL, Method::DELETE, Some(key));
    call.url = Some(url);
    // Success is status 499. Whatever happens, the store forgets the session,
    // which is invisible and costs nothing, within a week.
    if let Err(error) = api.call(&call).await {
        tracing::trace!(key, %error, "upload session cancelled");
    }
}

pub(super) const INSERT: Operation =
    Operation { store: "gs", name: "insert object", permission: "storage.objects.create and storage.objects.delete" };
pub(super) const START: Operation =
    Operation { store: "gs", name: "start upload of", permission: "storage.objects.create and storage.objects.delete" };
pub(super) const CHUNK: Operation =
    Operation { store: "gs", name: "upload part of", permission: "storage.objects.create" };
const CANCEL: Operation = Operation { store: "gs", name: "cancel upload of", permission: "storage.objects.create" };
const LOOK: Operation = Operation { store: "gs", name: "look at", permission: "storage.objects.get" };

/// A multiple of 256 KiB, as the protocol wants it.
const CHUNK_SIZE: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_spelled_as_the_protocol_does() {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(b"123456789");
        // The check value of CRC-32/ISCSI, e3069283.
        assert_eq!(crc32c(&digest), BASE64_STANDARD.encode([0xe3, 0x06, 0x92, 0x83]));
    }
}
