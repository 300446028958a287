//! Deletes, a thousand keys at a time.
//!
//! A store answers `200` although it deleted nothing, so every key's own result
//! counts; a delete that is believed but did not happen fills a bucket.
//!
//! Spec: store-and-restore §3, backends §4.4.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Method;
use md5::{Digest, Md5};

use super::api::{Api, Call, Exchange, Operation, crc32};
use super::xml::{self, DeleteAnswer, DeleteError};
use crate::http::listing;
use crate::{Error, ErrorKind, Result};

impl Api {
    /// Deletes everything whose key starts with `prefix`.
    pub(super) async fn delete_below(&self, prefix: &str) -> Result<()> {
        let mut keys = Vec::new();
        listing::keys(self, prefix, None, |object| keys.push(object.key)).await?;
        self.delete_keys(&keys, true).await
    }

    pub(super) async fn delete_keys(&self, keys: &[String], quiet: bool) -> Result<()> {
        let mut refused = Vec::new();
        for batch in keys.chunks(BATCH) {
            let body = xml::delete_request(batch, quiet);
            let mut call = Call::new(DELETE, Method::POST, None);
            call.query.push(("delete", ""));
            call = call.header("content-type", "application/xml")?;
            // Over the exact bytes that are sent.
            call = call.header("x-amz-checksum-crc32", &crc32(body.as_bytes()))?;
            if self.settings.content_md5 {
                call = call.header("content-md5", &BASE64_STANDARD.encode(Md5::digest(&body)))?;
            }
            call.body = Bytes::from(body);
            let answer = self.call(&call).await?;
            if answer.body.is_empty() {
                continue;
            }
            let DeleteAnswer { error } = xml::parse(&answer.body, DELETE.name)?;
            refused.extend(error.into_iter().filter(|error| error.code != "NoSuchKey"));
        }
        if refused.is_empty() { Ok(()) } else { Err(report(&refused)) }
    }
}

/// One error for all refused keys; the log names the first few.
fn report(refused: &[DeleteError]) -> Error {
    for DeleteError { key, code, message } in refused.iter().take(LOGGED) {
        tracing::warn!(key, code, message, "delete object failed");
    }
    if refused.len() > LOGGED {
        tracing::warn!(count = refused.len() - LOGGED, "additional delete errors suppressed");
    }
    let passing = |code: &str| matches!(code, "InternalError" | "SlowDown" | "ServiceUnavailable" | "OperationAborted");
    let kind = match refused.iter().all(|error| passing(&error.code)) {
        true => ErrorKind::Transient,
        false => ErrorKind::Setup,
    };
    let mut text = "failed to delete files:".to_owned();
    for DeleteError { key, code, message } in refused.iter().take(REPORTED) {
        let reason = if message.is_empty() { code } else { message };
        text.push_str(&format!("\n{key}: {reason}"));
    }
    Error::new(kind, text)
}

const DELETE: Operation = Operation { store: "s3", name: "delete objects", permission: "s3:DeleteObject" };
const BATCH: usize = 1000;
const LOGGED: usize = 5;
const REPORTED: usize = 100;
