//! A bucket as something to send calls to: how they are signed, and what its
//! refusals mean.
//!
//! Spec: backends §10.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use super::options::Settings;
use super::sign::{Signed, authorization, format_date, query_pair};
use super::xml::{self, ErrorBody};
use crate::clock::Clock;
use crate::http::HttpClient;
use crate::http::endpoint::{escape, escape_path};
pub(super) use crate::http::exchange::{Answer, Call, Exchange, Operation};
use crate::retry::RetryPolicy;
use crate::{Error, ErrorKind, Result};

/// A bucket, ready for requests.
pub(super) struct Api {
    pub(super) settings: Arc<Settings>,
    pub(super) http: HttpClient,
    pub(super) retry: RetryPolicy,
    pub(super) clock: Arc<dyn Clock>,
}

impl Exchange for Api {
    fn http(&self) -> &HttpClient {
        &self.http
    }

    fn retry(&self) -> RetryPolicy {
        self.retry
    }

    async fn prepare(&self, call: &Call<'_>) -> Result<Request<Bytes>> {
        let Settings { bucket, region, keys, .. } = &*self.settings;
        let date = format_date(self.clock.now());
        let mut headers = call.headers.clone();
        headers.insert("x-oss-content-sha256", HeaderValue::from_static("UNSIGNED-PAYLOAD"));
        let mut add = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value);
            let mut value =
                value.map_err(|_| Error::new(ErrorKind::Setup, "oss: credentials hold signs that fit no header"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok::<_, Error>(())
        };
        add("x-oss-date", &date)?;
        if let Some(token) = &keys.token {
            add("x-oss-security-token", token)?;
        }
        let signed = Signed { method: call.method.as_str(), bucket, key: call.key, query: &call.query };
        let authorization = authorization(keys, region, &date, &signed, &headers);
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(self.url(call))
            .body(call.body.clone())
            .map_err(|e| Error::with_source(ErrorKind::Setup, format!("{}: build request", call.describe()), e))?;
        *request.headers_mut() = headers;
        let value = HeaderValue::from_str(&authorization);
        let value =
            value.map_err(|_| Error::new(ErrorKind::Setup, "oss: access-key-id holds signs that fit no header"))?;
        request.headers_mut().insert(http::header::AUTHORIZATION, value);
        Ok(request)
    }

    fn refuse(&self, call: &Call<'_>, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
        let document: ErrorBody = xml::parse(body, "error").unwrap_or_default();
        let request_id = headers.get("x-oss-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        self.explain(call, status, &document, request_id)
    }
}

impl Api {
    fn url(&self, call: &Call<'_>) -> String {
        let Settings { bucket, endpoint, path_style, .. } = &*self.settings;
        let mut url = format!("{}{}/", self.settings.origin(), endpoint.base_path);
        if *path_style {
            url.push_str(&escape(bucket));
            url.push('/');
        }
        url.push_str(&escape_path(call.key.unwrap_or_default()));
        for (n, (name, value)) in call.query.iter().enumerate() {
            url.push(if n == 0 { '?' } else { '&' });
            url.push_str(&query_pair(&escape(name), value));
        }
        url
    }

    /// What a refusal means, and what a person can do about it. Only code,
    /// message and request id are repeated: the rest of an error document holds
    /// key ids and the text that was signed.
    fn explain(&self, call: &Call<'_>, status: StatusCode, document: &ErrorBody, request_id: &str) -> Error {
        let Settings { bucket, region, .. } = &*self.settings;
        let origin = self.settings.origin();
        let number = status.as_u16();
        let ErrorBody { code, message, request_id: id_within } = document;
        let kind = match (code.as_str(), number) {
            ("NoSuchKey" | "NoSuchUpload", _) => ErrorKind::NotFound,
            ("NoSuchBucket", _) => ErrorKind::Setup,
            ("FileAlreadyExists", _) | (_, 412) => ErrorKind::Conflict,
            ("RequestTimeout" | "InternalError" | "ServiceUnavailable" | "OperationTimeout", _) => ErrorKind::Transient,
            // What a HEAD has in place of a document.
            ("", 404) => ErrorKind::NotFound,
            (_, 501 | 505) => ErrorKind::Setup,
            (_, 408 | 425 | 429 | 500..) => ErrorKind::Transient,
            _ => ErrorKind::Setup,
        };
        let advice = match code.as_str() {
            "NoSuchBucket" => {
                format!(
                    "bucket \"{bucket}\" does not exist at {origin}; create it or correct bucket, region or endpoint"
                )
            }
            "SignatureDoesNotMatch" => {
                "the secret-access-key does not belong to the access-key-id, or a proxy changes requests".to_owned()
            }
            "InvalidAccessKeyId" => format!("{origin} does not know the access-key-id; correct it or the endpoint"),
            "SecurityTokenExpired" | "InvalidSecurityToken" => {
                "the session token is no longer valid; renew the credentials".to_owned()
            }
            "RequestTimeTooSkewed" => "this machine's clock is wrong; set it".to_owned(),
            "InvalidBucketName" => format!("\"{bucket}\" is not a bucket name; correct the replica's bucket"),
            "AccessDenied" if message.contains("must be addressed using the specified endpoint") => {
                format!("bucket \"{bucket}\" is in another region than {region}; set the replica's region or endpoint")
            }
            "AccessDenied" | "" if matches!(number, 401 | 403) => {
                format!("access denied; the user needs {} on bucket \"{bucket}\"", call.operation.permission)
            }
            "" if status.is_redirection() => format!("{origin} sends us elsewhere; correct the replica's endpoint"),
            _ => String::new(),
        };
        let advice = if advice.is_empty() { advice } else { format!(": {advice}") };
        let code = if code.is_empty() { status.canonical_reason().unwrap_or("refused") } else { code };
        // These messages quote what was signed, or the key id.
        let secretive = matches!(code, "SignatureDoesNotMatch" | "InvalidAccessKeyId");
        let message = if message.is_empty() || secretive { String::new() } else { format!(": {}", message.trim()) };
        let request_id = if request_id.is_empty() { id_within } else { request_id };
        let request = if request_id.is_empty() { String::new() } else { format!(", request {request_id}") };
        Error::new(kind, format!("{}{advice}: {code}{message} ({number}{request})", call.describe())).with_code(code)
    }
}
