//! One request and its answer, repeated where that helps.
//!
//! What object stores have in common: a call is prepared (addressed and signed)
//! anew for every attempt, so that a long upload cannot outlive its signature;
//! bodies always have a length and are never chunk-encoded; and each store
//! explains its own refusals.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use super::echo::Secrets;
use super::{HttpClient, ResponseBody, retry_after};
use crate::retry::{Failure, RetryPolicy};
use crate::{Error, ErrorKind, Result};

/// What a request does: its words in messages, and the permission it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// The store's type: `s3`, …
    pub(crate) store: &'static str,
    pub(crate) name: &'static str,
    pub(crate) permission: &'static str,
}

/// A request, ready to be sent any number of times.
pub(crate) struct Call<'a> {
    pub(crate) operation: Operation,
    pub(crate) method: Method,
    /// The object it is about; without one it is about the bucket.
    pub(crate) key: Option<&'a str>,
    pub(crate) query: Vec<(&'a str, &'a str)>,
    /// An address that the store itself gave, in place of key and query.
    pub(crate) url: Option<&'a str>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Refusals that the caller wants to see rather than have turned into errors.
    pub(crate) accept: &'static [StatusCode],
}

/// A complete answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl<'a> Call<'a> {
    pub(crate) fn new(operation: Operation, method: Method, key: Option<&'a str>) -> Self {
        Self {
            operation,
            method,
            key,
            query: Vec::new(),
            url: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            accept: &[],
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value).map_err(|_| {
            let store = self.operation.store;
            Error::new(ErrorKind::Setup, format!("{store}: value of {name} does not fit a header"))
        })?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// `s3: get object db/0000/x`.
    pub(crate) fn describe(&self) -> String {
        let Operation { store, name, .. } = self.operation;
        match self.key {
            Some(key) => format!("{store}: {name} {key}"),
            None => format!("{store}: {name}"),
        }
    }
}

impl Answer {
    /// A header of the answer, if it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A store that is spoken to in [`Call`]s.
pub(crate) trait Exchange: Sync {
    /// The connections to use.
    fn http(&self) -> &HttpClient;

    /// How often to try.
    fn retry(&self) -> RetryPolicy;

    /// The request of one attempt: addressed, dated and signed.
    fn prepare(&self, call: &Call<'_>) -> impl Future<Output = Result<Request<Bytes>>> + Send;

    /// Turns a refusal into an error that says what to do.
    fn refuse(&self, call: &Call<'_>, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error;

    /// Looks for a failure that a store tells under a good status.
    fn check_late_error(&self, _: &Call<'_>, _: StatusCode, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    /// Sends a call and reads the whole answer.
    ///
    /// # Errors
    /// Every status of 300 and up that the call does not accept, by its meaning.
    fn call(&self, call: &Call<'_>) -> impl Future<Output = Result<Answer>> + Send {
        async move {
            self.retry()
                .run(call.operation.name, || async {
                    let (response, secrets) = attempt(self, call).await?;
                    let (head, body) = response.into_parts();
                    let mut body = body.collect(ANSWER_LIMIT).await.map_err(|e| e.context(call.describe()))?;
                    if matches!(call.method, Method::POST | Method::PUT) {
                        // A good status may stand above failures of single keys or of the whole.
                        body = secrets.hide(&body).into();
                    }
                    self.check_late_error(call, head.status, &body)?;
                    Ok(Answer { status: head.status, headers: head.headers, body })
                })
                .await
        }
    }

    /// Sends a call and returns as soon as the answer begins.
    fn open(&self, call: &Call<'_>) -> impl Future<Output = Result<Response<ResponseBody>>> + Send {
        async move {
            let open = || async { Ok(attempt(self, call).await?.0) };
            self.retry().run(call.operation.name, open).await
        }
    }
}

/// The answer, and what it must not repeat in a message.
async fn attempt<E: Exchange + ?Sized>(
    store: &E,
    call: &Call<'_>,
) -> Result<(Response<ResponseBody>, Secrets), Failure> {
    let mut request = store.prepare(call).await?;
    // After signing: proxies on the way like to rewrite it.
    request.headers_mut().insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if call.body.is_empty() && matches!(call.method, Method::PUT | Method::POST) {
        // Nobody adds it for an empty body, and stores insist on a length.
        request.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let secrets = store.http().secrets(&request);
    let address = tracing::enabled!(tracing::Level::TRACE).then(|| secrets.hide_text(&request.uri().to_string()));
    let response = store.http().send(request).await.map_err(|e| e.context(call.describe()))?;
    let status = response.status();
    if let Some(url) = address {
        tracing::trace!(method = %call.method, url, status = status.as_u16(), "request");
    }
    if status.is_success() || call.accept.contains(&status) {
        return Ok((response, secrets));
    }
    let retry_after = retry_after(response.headers());
    let headers = secrets.hide_headers(response.headers());
    // The status alone is an answer, if the rest does not arrive.
    let body = response.into_body().collect(ANSWER_LIMIT).await.unwrap_or_default();
    Err(Failure { error: store.refuse(call, status, &headers, &secrets.hide(&body)), retry_after })
}

/// Upper bound of an answer that is not a file: a page of a thousand keys is
/// well below.
const ANSWER_LIMIT: usize = 16 << 20;

const USER_AGENT: &str = concat!("litestream/", env!("CARGO_PKG_VERSION"));
