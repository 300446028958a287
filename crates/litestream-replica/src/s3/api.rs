//! A bucket as something to send calls to: how they are signed, and what its
//! refusals mean.
//!
//! Spec: backends §4.4, §4.5.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use sha2::{Digest, Sha256};

use super::credentials::{AwsSigner, signing_error};
use super::endpoint::Target;
use super::options::Settings;
use super::refusal::{Refusal, refusal};
use super::xml::{self, CompletedUpload};
use crate::http::HttpClient;
pub(super) use crate::http::exchange::{Answer, Call, Exchange, Operation};
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

impl Exchange for Api {
    fn http(&self) -> &HttpClient {
        &self.http
    }

    fn retry(&self) -> RetryPolicy {
        self.retry
    }

    async fn prepare(&self, call: &Call<'_>) -> Result<Request<Bytes>> {
        let url = self.target.url(call.key, &call.query);
        let mut builder = Request::builder().method(call.method.clone()).uri(url);
        if let Some(headers) = builder.headers_mut() {
            headers.extend(call.headers.clone());
        }
        builder = builder.header("x-amz-content-sha256", self.payload_digest(&call.body));
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
        Ok(Request::from_parts(head, body))
    }

    fn refuse(&self, call: &Call<'_>, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
        let read = Refusal::read(status, headers, body);
        refusal(&call.describe(), call.operation.permission, &read, &self.settings.bucket, self.target.origin())
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
}

impl Api {
    fn payload_digest(&self, body: &[u8]) -> String {
        if self.settings.sign_payload { hex(&Sha256::digest(body)) } else { "UNSIGNED-PAYLOAD".to_owned() }
    }
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

pub(super) const COMPLETE: Operation =
    Operation { store: "s3", name: "complete upload of", permission: "s3:PutObject" };

#[cfg(test)]
mod tests {
    use http::Method;
    use litestream_testkit::sigv4::{Signed, signature};

    use super::super::{S3Client, S3Options};
    use super::*;
    use crate::ClientContext;

    /// The other implementation is held to the examples that Amazon publishes.
    #[tokio::test]
    async fn requests_are_signed_as_amazons_examples_are() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let options = S3Options {
            bucket: Some("examplebucket".into()),
            region: Some("us-east-1".into()),
            access_key_id: Some("AKIAIOSFODNN7EXAMPLE".into()),
            secret_access_key: Some(secret.into()),
            ..S3Options::default()
        };
        let client = S3Client::new(options, &ClientContext::default()).unwrap();
        let api = client.api().await.unwrap();
        let operation = Operation { store: "s3", name: "test", permission: "" };
        let keys = [Some("test$file.text"), Some("a//b c/+%.ltx"), None];
        for (key, body) in keys.into_iter().flat_map(|key| [(key, &b""[..]), (key, b"Welcome to Amazon S3.")]) {
            let mut call = Call::new(operation, Method::PUT, key).header("range", "bytes=0-9").unwrap();
            call.query = vec![("lifecycle", ""), ("max-keys", "2"), ("prefix", "J/ +~é")];
            call.body = Bytes::from_static(body);
            let request = api.prepare(&call).await.unwrap();

            let text = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            let authorization = text("authorization").unwrap();
            let (_, rest) = authorization.split_once("SignedHeaders=").unwrap();
            let (names, sent) = rest.split_once(',').unwrap();
            let host = request.uri().host().unwrap().to_owned();
            let values: Vec<(&str, String)> =
                names.split(';').map(|name| (name, text(name).unwrap_or_else(|| host.clone()))).collect();
            let headers: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut query: Vec<String> = request
                .uri()
                .query()
                .unwrap()
                .split('&')
                .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
                .collect();
            query.sort();
            let (digest, time) = (text("x-amz-content-sha256").unwrap(), text("x-amz-date").unwrap());
            let signed = Signed {
                method: "PUT",
                path: request.uri().path(),
                query: &query.join("&"),
                headers: &headers,
                digest: &digest,
                time: &time,
            };
            let wanted = signature(&signed, "us-east-1", secret);
            assert!(sent.trim().ends_with(&format!("Signature={wanted}")), "{key:?}: {sent}");
            assert_eq!(digest, hex(&Sha256::digest(body)));
        }
    }

    #[test]
    fn crc32_is_the_checksum_of_the_header() {
        // The check value of CRC-32/ISO-HDLC, cbf43926.
        assert_eq!(crc32(b"123456789"), BASE64_STANDARD.encode([0xcb, 0xf4, 0x39, 0x26]));
    }
}
