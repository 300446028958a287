//! One signed request at a time, repeated where that helps.
//!
//! Bodies always have a length and are never chunk-encoded; each attempt is
//! signed anew, so that a long upload cannot outlive its signature.
//!
//! Spec: backends §4.4, §4.5.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::credentials::{AwsSigner, signing_error};
use super::endpoint::Target;
use super::options::Settings;
use super::refusal::{Refusal, refusal};
use super::xml::{self, CompletedUpload};
use crate::http::{HttpClient, ResponseBody, retry_after};
use crate::retry::{Failure, RetryPolicy};
use crate::{Error, ErrorKind, Result};

/// A bucket with its region known, ready for requests.
pub(super) struct Api {
    pub(super) settings: Arc<Settings>,
    pub(super) target: Target,
    pub(super) signer: AwsSigner,
    pub(super) http: HttpClient,
    pub(super) retry: RetryPolicy,
}

/// What a request does: its words in messages, and the permission it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) permission: &'static str,
}

/// A request, ready to be sent any number of times.
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    pub(super) method: Method,
    pub(super) key: Option<&'a str>,
    pub(super) query: Vec<(&'a str, &'a str)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Refusals that the caller wants to see rather than have turned into errors.
    pub(super) accept: &'static [StatusCode],
}

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl<'a> Call<'a> {
    pub(super) fn new(operation: Operation, method: Method, key: Option<&'a str>) -> Self {
        Self { operation, method, key, query: Vec::new(), headers: HeaderMap::new(), body: Bytes::new(), accept: &[] }
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Error::new(ErrorKind::Setup, format!("s3: value of {name} does not fit a header")))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// `s3: get object db/0000/x`.
    pub(super) fn describe(&self) -> String {
        match self.key {
            Some(key) => format!("s3: {} {key}", self.operation.name),
            None => format!("s3: {}", self.operation.name),
        }
    }
}

impl Api {
    /// Sends a call and reads the whole answer.
    ///
    /// # Errors
    /// Every status of 300 and up that the call does not accept, by its meaning.
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Answer> {
        let digest = self.payload_digest(&call.body);
        self.retry
            .run(call.operation.name, || async {
                let (head, body) = self.attempt(call, &digest).await?.into_parts();
                let body = body.collect(ANSWER_LIMIT).await.map_err(|e| e.context(call.describe()))?;
                self.check_late_error(call, head.status, &body)?;
                Ok(Answer { status: head.status, headers: head.headers, body })
            })
            .await
    }

    /// Sends a call and returns as soon as the answer begins.
    pub(super) async fn open(&self, call: &Call<'_>) -> Result<Response<ResponseBody>> {
        let digest = self.payload_digest(&call.body);
        self.retry.run(call.operation.name, || self.attempt(call, &digest)).await
    }

    async fn attempt(&self, call: &Call<'_>, digest: &str) -> Result<Response<ResponseBody>, Failure> {
        let request = self.sign(call, digest).await?;
        let response = self.http.send(request).await.map_err(|e| e.context(call.describe()))?;
        let status = response.status();
        if status.is_success() || call.accept.contains(&status) {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let headers = response.headers().clone();
        // The status alone is an answer, if the rest does not arrive.
        let body = response.into_body().collect(ANSWER_LIMIT).await.unwrap_or_default();
        let error = self.refuse(call, status, &headers, &body);
        Err(Failure { error, retry_after })
    }

    /// Turns a refusal into an error that says what to do.
    pub(super) fn refuse(&self, call: &Call<'_>, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
        let refusal = Refusal::read(status, headers, body);
        let bucket = &self.settings.bucket;
        refusal_error(call, &refusal, bucket, self.target.origin())
    }

    /// Completing an upload takes long, so the store may answer `200` first and
    /// find its error later.
    fn check_late_error(&self, call: &Call<'_>, status: StatusCode, body: &[u8]) -> Result<(), Failure> {
        if call.operation != COMPLETE || !status.is_success() {
            return Ok(());
        }
        let completed: CompletedUpload = xml::parse(body, call.operation.name)?;
        match completed.code {
            Some(_) => Err(self.refuse(call, StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new(), body).into()),
            None => Ok(()),
        }
    }

    fn payload_digest(&self, body: &[u8]) -> String {
        if self.settings.sign_payload { hex(&Sha256::digest(body)) } else { "UNSIGNED-PAYLOAD".to_owned() }
    }

    async fn sign(&self, call: &Call<'_>, digest: &str) -> Result<Request<Bytes>> {
        let url = self.target.url(call.key, &call.query);
        let mut builder = Request::builder().method(call.method.clone()).uri(url);
        if let Some(headers) = builder.headers_mut() {
            headers.extend(call.headers.clone());
        }
        builder = builder.header("x-amz-content-sha256", digest);
        if self.settings.sign_accept_encoding {
            builder = builder.header("accept-encoding", "identity");
        }
        if self.settings.quirks.consistent_header {
            builder = builder.header("x-tigris-consistent", "true");
        }
        let request = builder
            .body(call.body.clone())
            .map_err(|e| Error::with_source(ErrorKind::Setup, format!("{}: build request", call.describe()), e))?;
        let (mut head, body) = request.into_parts();
        self.signer.sign(&mut head, None).await.map_err(|e| signing_error(&e).context(call.describe()))?;
        // After signing: proxies on the way like to rewrite it.
        head.headers.insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        Ok(Request::from_parts(head, body))
    }
}

fn refusal_error(call: &Call<'_>, read: &Refusal, bucket: &str, origin: &str) -> Error {
    refusal(&call.describe(), call.operation.permission, read, bucket, origin)
}

/// Base64 of the CRC-32 as the checksum headers want it.
pub(super) fn crc32(body: &[u8]) -> String {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, body);
    let [.., a, b, c, d] = crc.to_be_bytes();
    BASE64_STANDARD.encode([a, b, c, d])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) const COMPLETE: Operation = Operation { name: "complete upload of", permission: "s3:PutObject" };

/// Upper bound of an answer that is not a file: a page of a thousand keys is
/// well below.
const ANSWER_LIMIT: usize = 16 << 20;

const USER_AGENT: &str = concat!("litestream/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_is_the_checksum_of_the_header() {
        // The check value of CRC-32/ISO-HDLC, cbf43926.
        assert_eq!(crc32(b"123456789"), BASE64_STANDARD.encode([0xcb, 0xf4, 0x39, 0x26]));
    }
}
