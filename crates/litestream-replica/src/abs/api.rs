//! A container as something to send calls to: addresses, dates, signatures.
//!
//! Spec: backends §6.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};

use super::credentials;
use super::options::{AbsOptions, Secret, Settings, resolve};
use super::refusal::{self, Who};
use super::signature;
use crate::clock::{Clock, SystemClock};
use crate::http::HttpClient;
use crate::http::endpoint::{append_query, escape_path};
pub(super) use crate::http::exchange::{Answer, Call, Exchange, Operation};
use crate::http::identity::TokenCache;
use crate::retry::RetryPolicy;
use crate::url::setup;
use crate::{ClientContext, Error, ErrorKind, Result};

/// A container, ready for requests.
pub(super) struct Api {
    pub(super) settings: Settings,
    identity: Identity,
    http: HttpClient,
    retry: RetryPolicy,
    /// The account does not know access tiers; found out by the first write.
    pub(super) without_tiers: AtomicBool,
}

/// How requests prove who sends them.
enum Identity {
    Sas(String),
    SharedKey { account: String, key: Vec<u8> },
    Token(Arc<TokenCache>),
}

impl Api {
    pub(super) fn new(options: AbsOptions, context: &ClientContext) -> Result<Self> {
        let (settings, secret) = resolve(options, context)?;
        let identity = match secret {
            Secret::Sas(sas) => Identity::Sas(sas),
            Secret::SharedKey { account, key } => Identity::SharedKey { account, key },
            Secret::Identity => Identity::Token(credentials::shared(context)?),
        };
        Ok(Self {
            settings,
            identity,
            http: context.http.client(false)?,
            retry: context.retry,
            without_tiers: AtomicBool::new(false),
        })
    }

    /// `scheme://host`, for messages.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.settings.endpoint.scheme, self.settings.endpoint.authority)
    }

    fn url(&self, key: Option<&str>, query: &[(&str, &str)]) -> String {
        let Settings { endpoint, container, .. } = &self.settings;
        let mut url = format!("{}{}/{}", self.origin(), endpoint.base_path, escape_path(container));
        if let Some(key) = key {
            url.push('/');
            url.push_str(&escape_path(key));
        }
        append_query(&mut url, query);
        if let Identity::Sas(sas) = &self.identity {
            url.push(if query.is_empty() { '?' } else { '&' });
            url.push_str(sas);
        }
        url
    }

    /// A bearer token, unless it would travel in clear.
    async fn bearer(&self, token: &TokenCache) -> Result<HeaderValue> {
        if !self.settings.endpoint.is_https() && !self.settings.endpoint.is_private() {
            return Err(setup("abs: tokens are sent over https only; use an https endpoint, account-key or sas-token"));
        }
        let token = token.token().await?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| setup("abs: the token does not fit a header"))?;
        value.set_sensitive(true);
        Ok(value)
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
        // The address holds the signature of a SAS: errors must not repeat it.
        let broken = || Error::new(ErrorKind::Setup, format!("{}: the address is malformed", call.describe()));
        let mut request = Request::new(call.body.clone());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = self.url(call.key, &call.query).parse().map_err(|_| broken())?;
        let headers = request.headers_mut();
        headers.extend(call.headers.clone());
        headers.insert("x-ms-version", HeaderValue::from_static(API_VERSION));
        let date = crate::http::format_http_date(SystemClock.now());
        headers.insert("x-ms-date", HeaderValue::from_str(&date).map_err(|_| broken())?);
        let authorization = match &self.identity {
            Identity::Sas(_) => return Ok(request),
            Identity::Token(token) => self.bearer(token).await.map_err(|e| e.context(call.describe()))?,
            Identity::SharedKey { account, key } => {
                let (method, uri, headers) = (request.method(), request.uri(), request.headers());
                let value = signature::authorization(account, key, method, uri, headers, call.body.len());
                HeaderValue::from_str(&value).map_err(|_| setup("abs: account-name does not fit a header"))?
            }
        };
        request.headers_mut().insert(header::AUTHORIZATION, authorization);
        Ok(request)
    }

    fn refuse(&self, call: &Call<'_>, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
        let who = match &self.identity {
            Identity::Sas(_) => Who::Sas,
            Identity::SharedKey { account, .. } => Who::SharedKey { account },
            Identity::Token(token) => {
                if status == StatusCode::UNAUTHORIZED {
                    token.forget();
                }
                Who::Token
            }
        };
        refusal::error(call, status, headers, body, &self.settings.container, &self.origin(), who)
    }
}

/// Old enough for appliances and emulators, new enough for large blocks.
const API_VERSION: &str = "2021-12-02";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_signs_and_carry_the_signature() {
        for (endpoint, sas, wanted) in [
            (None, None, "https://acct.blob.core.windows.net/cont/a%20b/%C3%BC%2B?comp=list"),
            (
                Some("http://127.0.0.1:10000/devstoreaccount1/"),
                Some("?sv=1&sig=a%2Bb"),
                "http://127.0.0.1:10000/devstoreaccount1/cont/a%20b/%C3%BC%2B?comp=list&sv=1&sig=a%2Bb",
            ),
        ] {
            let options = AbsOptions {
                account_name: Some("acct".into()),
                bucket: Some("cont".into()),
                endpoint: endpoint.map(Into::into),
                sas_token: sas.map(Into::into),
                ..AbsOptions::default()
            };
            let api = Api::new(options, &ClientContext::default()).unwrap();
            assert_eq!(api.url(Some("a b/ü+"), &[("comp", "list")]), wanted);
        }
    }
}
