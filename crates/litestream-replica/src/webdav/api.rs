//! One request at a time: authenticated, repeated where that helps, and explained
//! when it is refused.
//!
//! Every body has a length: chunked ones get lost behind some servers (FastCGI,
//! lighttpd) and stay unread in others, where they spoil the next request.
//!
//! Spec: backends §9.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::auth::{Auth, Verdict};
use super::server::ServerUrl;
use crate::http::endpoint::escape_path;
use crate::http::{HttpClient, Outgoing, ResponseBody, retry_after};
use crate::retry::{Failure, RetryPolicy};
use crate::staged::Staged;
use crate::{Error, ErrorKind, Result};

/// A server, ready for requests.
pub(super) struct Api {
    pub(super) server: ServerUrl,
    pub(super) auth: Auth,
    pub(super) http: HttpClient,
    pub(super) retry: RetryPolicy,
}

/// What a request does, in the words of messages.
pub(super) type Operation = &'static str;

/// A request, ready to be sent any number of times.
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    method: Method,
    /// Below the server's base, not escaped; a collection ends with a slash.
    path: &'a str,
    headers: HeaderMap,
    body: Content<'a>,
    /// Refusals that the caller wants to see rather than have turned into errors.
    accept: &'static [u16],
}

enum Content<'a> {
    Bytes(Bytes),
    Staged(&'a Staged),
}

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl<'a> Call<'a> {
    pub(super) fn new(operation: Operation, method: &'static str, path: &'a str) -> Self {
        Self {
            operation,
            // The methods are constants of this module's callers.
            method: Method::from_bytes(method.as_bytes()).unwrap_or_default(),
            path,
            headers: HeaderMap::new(),
            body: Content::Bytes(Bytes::new()),
            accept: &[],
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Error::new(ErrorKind::Setup, format!("webdav: value of {name} does not fit a header")))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    pub(super) fn text(mut self, body: &'static str) -> Self {
        self.body = Content::Bytes(Bytes::from_static(body.as_bytes()));
        self
    }

    pub(super) fn staged(mut self, body: &'a Staged) -> Self {
        self.body = Content::Staged(body);
        self
    }

    pub(super) fn accept(mut self, statuses: &'static [u16]) -> Self {
        self.accept = statuses;
        self
    }

    /// `webdav: read db/ltx/0/x`.
    pub(super) fn describe(&self) -> String {
        format!("webdav: {} {}", self.operation, self.path)
    }
}

impl Api {
    /// Sends a call and reads the whole answer, of at most `limit` bytes.
    ///
    /// # Errors
    /// Every status of 300 and up that the call does not accept, by its meaning.
    pub(super) async fn call(&self, call: &Call<'_>, limit: usize) -> Result<Answer> {
        self.retry
            .run(call.operation, || async {
                let (head, body) = self.attempt(call).await?.into_parts();
                let body = body.collect(limit).await.map_err(|e| e.context(call.describe()))?;
                Ok(Answer { status: head.status, headers: head.headers, body })
            })
            .await
    }

    /// Sends a call of whose answer only the status counts.
    pub(super) async fn status(&self, call: &Call<'_>) -> Result<StatusCode> {
        self.call(call, ANSWER_LIMIT).await.map(|answer| answer.status)
    }

    /// Sends a call and returns as soon as the answer begins.
    pub(super) async fn open(&self, call: &Call<'_>) -> Result<Response<ResponseBody>> {
        self.retry.run(call.operation, || self.attempt(call)).await
    }

    /// Sends a call once, but for challenges.
    pub(super) async fn attempt(&self, call: &Call<'_>) -> Result<Response<ResponseBody>, Failure> {
        // One challenge is usual; more come when nonces are short-lived and many
        // requests use them at the same time.
        for _ in 0..6 {
            let target = self.target(call.path);
            let answer = self.auth.answer(call.method.as_str(), &target);
            let mut request = self.request(call, &target)?;
            if let Some(value) = &answer.header {
                request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            let secrets = self.http.secrets(&request);
            let response = self.http.send(request).await.map_err(|e| e.context(call.describe()))?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED {
                let verdict = self.auth.challenged(&answer, response.headers());
                // Read to its end, so that the connection can be used again.
                let _ = response.into_body().collect(ANSWER_LIMIT).await;
                match verdict {
                    Verdict::Again => continue,
                    verdict => return Err(self.unauthorized(call, &verdict).into()),
                }
            }
            if status.is_success() || call.accept.contains(&status.as_u16()) {
                return Ok(response);
            }
            let retry_after = retry_after(response.headers());
            let error = self.refuse(call, status, &secrets.hide_headers(response.headers()));
            let _ = response.into_body().collect(ANSWER_LIMIT).await; // as above
            return Err(Failure { error, retry_after });
        }
        let message = format!("{}: the server asks again and again who we are (401)", call.describe());
        Err(Error::new(ErrorKind::Transient, message).into())
    }

    fn request(&self, call: &Call<'_>, target: &str) -> Result<Request<Outgoing>> {
        let body = match &call.body {
            Content::Bytes(bytes) => Outgoing::Bytes(bytes.clone()),
            Content::Staged(staged) => staged.outgoing(),
        };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{target}", self.server.origin()))
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::USER_AGENT, USER_AGENT)
            .body(body)
            .map_err(|e| Error::with_source(ErrorKind::Setup, format!("{}: build request", call.describe()), e))?;
        request.headers_mut().extend(call.headers.clone());
        Ok(request)
    }

    /// Path of a request: what stands in front on this server, and the rest escaped.
    pub(super) fn target(&self, path: &str) -> String {
        format!("{}/{}", self.server.base_path, escape_path(path))
    }

    fn unauthorized(&self, call: &Call<'_>, verdict: &Verdict) -> Error {
        let origin = self.server.origin();
        let advice = match verdict {
            Verdict::Nobody => format!("{origin} asks who we are; set webdav-username and webdav-password"),
            Verdict::Unsupported(schemes) => {
                format!("{origin} asks for {schemes}; only Basic and Digest are supported, allow one of them there")
            }
            _ => format!(
                "{origin} does not accept the user name and password; correct webdav-username and webdav-password"
            ),
        };
        Error::new(ErrorKind::Setup, format!("{}: {advice} (401)", call.describe()))
    }

    /// Turns a refusal into an error that says what to do.
    pub(super) fn refuse(&self, call: &Call<'_>, status: StatusCode, headers: &HeaderMap) -> Error {
        let origin = self.server.origin();
        let (kind, advice) = match status.as_u16() {
            300..=399 => {
                let to = headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
                let to = to.split(['?', '#']).next().unwrap_or_default();
                // The only part of an answer that is repeated; it may hold a name and a password.
                let to = if to.contains('@') { "elsewhere" } else { to };
                (ErrorKind::Setup, format!("{origin} sends us to {to}; correct webdav-url"))
            }
            400 => (ErrorKind::Setup, format!("{origin} does not understand; if it expects https, correct webdav-url")),
            403 => (ErrorKind::Setup, format!("access denied; the user may not {} there", call.operation)),
            404 | 410 => (ErrorKind::NotFound, String::new()),
            405 | 501 => (
                ErrorKind::Setup,
                format!("{origin} does not allow {} there; enable WebDAV or correct webdav-url", call.method),
            ),
            409 => (ErrorKind::Setup, "the collection above it does not exist; create it or correct webdav-url".into()),
            412 => (ErrorKind::Conflict, String::new()),
            413 => (ErrorKind::Setup, format!("{origin} refuses bodies of this size; raise its limit")),
            423 => (ErrorKind::Setup, "another client has locked it".into()),
            507 => (ErrorKind::Setup, format!("no space left on {origin}; free some or raise the quota")),
            408 | 425 | 429 | 500 | 502.. => (ErrorKind::Transient, String::new()),
            _ => (ErrorKind::Setup, String::new()),
        };
        let advice = if advice.is_empty() { advice } else { format!(": {advice}") };
        let reason = status.canonical_reason().unwrap_or("refused");
        Error::new(kind, format!("{}{advice}: {reason} ({})", call.describe(), status.as_u16()))
    }
}

/// Upper bound of an answer that nobody reads.
pub(super) const ANSWER_LIMIT: usize = 1 << 20;

const USER_AGENT: &str = concat!("litestream/", env!("CARGO_PKG_VERSION"));
