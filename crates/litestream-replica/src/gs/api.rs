//! A bucket as something to send calls to.
//!
//! Spec: backends §5.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};

use super::credentials;
use super::options::{GsOptions, Settings, resolve};
use super::refusal;
use super::upload::{INSERT, START};
use crate::http::HttpClient;
use crate::http::endpoint::{append_query, escape};
pub(super) use crate::http::exchange::{Answer, Call, Exchange, Operation};
use crate::http::identity::TokenCache;
use crate::retry::RetryPolicy;
use crate::url::setup;
use crate::{ClientContext, Error, ErrorKind, Result};

/// A bucket, ready for requests.
pub(super) struct Api {
    pub(super) settings: Settings,
    /// None for an emulator.
    token: Option<Arc<TokenCache>>,
    http: HttpClient,
    retry: RetryPolicy,
}

impl Api {
    pub(super) fn new(options: GsOptions, context: &ClientContext) -> Result<Self> {
        let settings = resolve(options, context)?;
        let token = if settings.is_emulator { None } else { Some(credentials::shared(context)?) };
        Ok(Self { settings, token, http: context.http.client(false)?, retry: context.retry })
    }

    /// `scheme://host`, for messages.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.settings.endpoint.scheme, self.settings.endpoint.authority)
    }

    fn url(&self, call: &Call<'_>) -> String {
        if let Some(url) = call.url {
            return url.to_owned();
        }
        let is_upload = call.operation == INSERT || call.operation == START;
        let service = if is_upload { "/upload/storage/v1/b/" } else { "/storage/v1/b/" };
        let mut url = format!(
            "{}{}{service}{}/o",
            self.origin(),
            self.settings.endpoint.base_path,
            escape(&self.settings.bucket)
        );
        // The name of a new object is a parameter.
        if let Some(key) = call.key.filter(|_| !is_upload) {
            url.push('/');
            url.push_str(&escape(key));
        }
        append_query(&mut url, &call.query);
        url
    }
}

impl Exchange for Api {
    fn http(&self) -> &HttpClient {
        &self.http
    }

    fn retry(&self) -> RetryPolicy {
        self.retry
    }

    async fn prepare(&self, call: &Call<'_>) -> Result<Request<Bytes>> {
        let url = self.url(call);
        // Where an upload goes on is a secret of its own; elsewhere than at the
        // store itself, it must do without ours.
        let is_ours = url.starts_with(&format!("{}/", self.origin()));
        let mut request = Request::new(call.body.clone());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = url
            .parse()
            .map_err(|_| Error::new(ErrorKind::Setup, format!("{}: the address is malformed", call.describe())))?;
        request.headers_mut().extend(call.headers.clone());
        if let Some(cache) = self.token.as_ref().filter(|_| is_ours) {
            let token = cache.token().await.map_err(|e| e.context(call.describe()))?;
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| setup("gs: the token does not fit a header"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    fn refuse(&self, call: &Call<'_>, status: StatusCode, _: &HeaderMap, body: &[u8]) -> Error {
        if let (StatusCode::UNAUTHORIZED, Some(token)) = (status, &self.token) {
            token.forget();
        }
        refusal::error(call, status, body, &self.settings.bucket, &self.origin())
    }
}
