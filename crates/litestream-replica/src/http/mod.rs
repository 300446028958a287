//! One HTTP/1.1 client for every store that speaks HTTP.
//!
//! Paths go to the wire exactly as given: object keys contain `//` and `./`, and
//! a client that tidies them writes elsewhere. No exchange has a limit on its
//! whole duration; what is limited is the time without any progress, so that
//! large bodies over slow lines arrive and dead connections are noticed.
//!
//! Only this module names hyper and rustls. `body` carries bytes, `dial` makes
//! connections and knows proxies, `tls` knows whom to trust; `exchange` repeats
//! requests where that helps, `range` reads parts of objects, `listing` pages through
//! buckets, `unfinished` cleans up behind uploads in parts.

#![cfg_attr(
    not(all(feature = "s3", feature = "abs", feature = "gs", feature = "webdav", feature = "oss")),
    allow(dead_code, reason = "each store uses its own part of what they share")
)]

mod body;
mod dial;
pub(crate) mod echo;
pub(crate) mod endpoint;
pub(crate) mod exchange;
mod fetch;
#[cfg(any(feature = "abs", feature = "gs"))]
pub(crate) mod identity;
#[cfg(any(feature = "s3", feature = "oss"))]
pub(crate) mod listing;
pub(crate) mod range;
pub(crate) mod tls;
#[cfg(any(feature = "s3", feature = "oss"))]
pub(crate) mod unfinished;

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri, header};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub(crate) use body::{Outgoing, ResponseBody};
use body::{Payload, Progress};
use dial::Dialer;
use echo::Secrets;

use crate::{Error, ErrorKind, Result};

/// How to reach servers. The default is direct, with the system's trust anchors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// Proxies to go through.
    pub proxy: ProxyOptions,
    /// A PEM file with certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Limit for name lookup and connection, proxies included.
    pub connect_timeout: Duration,
    /// Limit for the time in which no byte moves in either direction.
    pub idle_timeout: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            proxy: ProxyOptions::default(),
            ca_file: None,
            connect_timeout: Duration::from_secs(30),
            // A store may think for a while after the last byte of an upload.
            idle_timeout: Duration::from_secs(120),
        }
    }
}

impl HttpOptions {
    /// Proxies from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` (or in lower
    /// case), and the certificates of `AWS_CA_BUNDLE`.
    ///
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` need no mention here: whoever loads the
    /// system's trust anchors heeds them.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let either = |name: &str| get(name).or_else(|| get(&name.to_ascii_lowercase()));
        // Under CGI a client sets HTTP_PROXY by sending a header named `Proxy`.
        let http = if get("REQUEST_METHOD").is_some() { get("http_proxy") } else { either("HTTP_PROXY") };
        Self {
            proxy: ProxyOptions { http, https: either("HTTPS_PROXY"), no_proxy: either("NO_PROXY") },
            ca_file: get("AWS_CA_BUNDLE").map(PathBuf::from),
            ..Self::default()
        }
    }
}

/// Proxies by scheme of the destination: `http://`, `socks5://` or bare
/// `host:port`, each with optional user information.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyOptions {
    /// For `http` destinations.
    pub http: Option<String>,
    /// For `https` destinations.
    pub https: Option<String>,
    /// Comma list of hosts, domains and networks to reach directly. This
    /// machine is always reached directly.
    pub no_proxy: Option<String>,
}

impl fmt::Debug for ProxyOptions {
    /// Proxy URLs may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyOptions")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// Clients made from one set of options, shared by all replicas, so that
/// thousands of databases use one pool of connections and load the system's
/// certificates once.
#[derive(Clone, Default)]
pub struct HttpPool {
    shared: Arc<PoolState>,
}

#[derive(Default)]
struct PoolState {
    options: HttpOptions,
    verifying: Mutex<Option<HttpClient>>,
    trusting: Mutex<Option<HttpClient>>,
}

impl HttpPool {
    /// A pool whose clients follow `options`.
    pub fn new(options: HttpOptions) -> Self {
        Self { shared: Arc::new(PoolState { options, ..PoolState::default() }) }
    }

    /// The client that verifies certificates, or the one that does not.
    pub(crate) fn client(&self, skip_verify: bool) -> Result<HttpClient> {
        let slot = if skip_verify { &self.shared.trusting } else { &self.shared.verifying };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(client) => Ok(client.clone()),
            None => Ok(slot.insert(HttpClient::new(&self.shared.options, skip_verify)?).clone()),
        }
    }
}

impl fmt::Debug for HttpPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPool").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// Sends requests over pooled connections.
#[derive(Clone)]
pub(crate) struct HttpClient {
    inner: Client<HttpsConnector<Dialer>, Payload>,
    proxies: Arc<Matcher>,
    idle_timeout: Duration,
}

impl HttpClient {
    fn new(options: &HttpOptions, skip_verify: bool) -> Result<Self> {
        let tls = tls::client_config(options.ca_file.as_deref(), skip_verify)?;
        let proxies = Arc::new(dial::matcher(&options.proxy));
        let dialer = Dialer::new(proxies.clone(), options.connect_timeout);
        let inner = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_MAX_IDLE)
            .build(HttpsConnector::from((dialer, tls)));
        Ok(Self { inner, proxies, idle_timeout: options.idle_timeout })
    }

    /// Sends one request, once, and returns when the answer's head is there.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) for everything that happens on the
    /// way, except a certificate that is not trusted: [`Setup`](ErrorKind::Setup).
    /// Status codes are not errors here.
    pub(crate) async fn send(&self, mut request: Request<impl Into<Outgoing>>) -> Result<Response<ResponseBody>> {
        let host = host_and_port(request.uri());
        self.authorize_at_proxy(&mut request);
        let progress = Progress::default();
        let request = request.map(|body| Payload::new(body.into(), progress.clone()));
        let mut answer = pin!(self.inner.request(request));
        let mut seen = progress.count();
        let step = self.idle_timeout.min(SILENCE);
        let mut silent = Duration::ZERO;
        loop {
            match tokio::time::timeout(step, &mut answer).await {
                Ok(Ok(response)) => return Ok(response.map(|body| ResponseBody::new(body, self.idle_timeout))),
                Ok(Err(error)) => return Err(describe(&host, &error)),
                Err(_) if progress.count() != seen => {
                    seen = progress.count();
                    silent = Duration::ZERO;
                }
                Err(_) => silent += step,
            }
            if silent >= self.idle_timeout {
                let seconds = self.idle_timeout.as_secs();
                return Err(Error::new(ErrorKind::Transient, format!("no answer from {host} for {seconds}s")));
            }
            if silent == SILENCE {
                tracing::warn!(%host, silent_s = silent.as_secs(), limit_s = self.idle_timeout.as_secs(), "server does not answer, still waiting");
            }
        }
    }

    /// A proxy for plain HTTP reads the request itself, credentials included;
    /// for tunnels the dialer sends them.
    fn authorize_at_proxy<B>(&self, request: &mut Request<B>) {
        if request.uri().scheme_str() == Some("http")
            && let Some(auth) = self.proxy_auth(request.uri())
        {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, auth);
        }
    }

    fn proxy_auth(&self, destination: &Uri) -> Option<HeaderValue> {
        dial::proxy_for(&self.proxies, destination).and_then(|proxy| proxy.basic_auth().cloned())
    }

    /// What a refusal of `request` must not be quoted with.
    pub(crate) fn secrets<B>(&self, request: &Request<B>) -> Secrets {
        let mut secrets = Secrets::of(request);
        if let Some(auth) = self.proxy_auth(request.uri()) {
            secrets.add_header(&auth);
        }
        secrets
    }
}

/// A server that says nothing for so long is worth a line in the log, although
/// the request may go on for longer.
const SILENCE: Duration = Duration::from_secs(10);

/// Name and port of a destination, for messages.
pub(crate) fn host_and_port(uri: &Uri) -> String {
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(default))
}

/// Reads `Retry-After`: seconds, or a date, which is measured against the same
/// answer's `Date` because the two clocks may differ.
pub(crate) fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).map(HeaderValue::to_str)?.ok().map(str::trim);
    let value = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = parse_http_date(value)?;
    let now = parse_http_date(text(header::DATE)?)?;
    u64::try_from(until.as_second() - now.as_second()).ok().map(Duration::from_secs)
}

/// Reads the dates of HTTP headers.
pub(crate) fn parse_http_date(text: &str) -> Option<jiff::Timestamp> {
    Some(jiff::fmt::rfc2822::parse(&text.replace("GMT", "+0000")).ok()?.timestamp())
}

/// Writes a date as headers have it: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[cfg(feature = "abs")]
pub(crate) fn format_http_date(moment: jiff::Timestamp) -> String {
    moment.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// By how many seconds our clock is ahead of the server's, if that is so many
/// that signatures are refused for it.
#[cfg(feature = "abs")]
pub(crate) fn clock_skew(headers: &http::HeaderMap, now: jiff::Timestamp) -> Option<i64> {
    let server = parse_http_date(headers.get(header::DATE)?.to_str().ok()?)?;
    let ahead = now.as_second() - server.as_second();
    (ahead.abs() > TOLERATED_SKEW_SECONDS).then_some(ahead)
}

fn describe(host: &str, error: &legacy::Error) -> Error {
    let mut causes = Vec::new();
    let (mut distrust, mut clear_text) = (false, false);
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        distrust |= is_tls_error(cause, &|error| matches!(error, rustls::Error::InvalidCertificate(_)));
        clear_text |= is_tls_error(cause, &is_clear_text);
        let text = cause.to_string();
        // Wrappers tend to repeat what they wrap.
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        next = cause.source();
    }
    let causes = causes.join(": ");
    if distrust {
        let advice = "trust its issuer (SSL_CERT_FILE, AWS_CA_BUNDLE) or, for s3, set skip-verify";
        return Error::new(ErrorKind::Setup, format!("certificate of {host} is not trusted, {advice}: {causes}"));
    }
    if clear_text {
        let advice = "correct the port, or use http if that is meant";
        return Error::new(ErrorKind::Setup, format!("{host} does not answer in TLS, {advice}: {causes}"));
    }
    let what = if error.is_connect() { "cannot connect to" } else { "lost connection to" };
    Error::new(ErrorKind::Transient, format!("{what} {host}: {causes}"))
}

/// True when `error` is such a TLS error, in however many I/O errors it is
/// wrapped: those hide what they wrap from `source`.
pub(crate) fn is_tls_error(error: &(dyn std::error::Error + 'static), wanted: &dyn Fn(&rustls::Error) -> bool) -> bool {
    if error.downcast_ref().is_some_and(wanted) {
        return true;
    }
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| is_tls_error(inner, wanted))
}

/// What plain HTTP looks like to who expects TLS.
pub(crate) fn is_clear_text(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType))
}

/// Less than any store tolerates, more than an answer is old.
#[cfg(feature = "abs")]
const TOLERATED_SKEW_SECONDS: i64 = 240;
const POOL_IDLE: Duration = Duration::from_secs(90);
const POOL_MAX_IDLE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let parse = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|&(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect();
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(parse(&[("retry-after", "7")]), Some(7));
        assert_eq!(parse(&[("retry-after", later), ("date", date)]), Some(30));
        assert_eq!(parse(&[("retry-after", date), ("date", later)]), None);
        assert_eq!(parse(&[("retry-after", later)]), None);
        assert_eq!(parse(&[("retry-after", "soon"), ("date", date)]), None);
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn refused_certificate_is_recognised_inside_wrappers() {
        use std::io::{Error as IoError, ErrorKind as IoKind};
        let is_distrust = |error: &(dyn std::error::Error + 'static)| {
            is_tls_error(error, &|error| matches!(error, rustls::Error::InvalidCertificate(_)))
        };
        let refused = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(is_distrust(&refused()));
        assert!(is_distrust(&IoError::new(IoKind::InvalidData, refused())));
        assert!(is_distrust(&IoError::other(IoError::new(IoKind::InvalidData, refused()))));
        assert!(!is_distrust(&IoError::other(rustls::Error::DecryptError)));
        assert!(!is_distrust(&IoError::from(IoKind::ConnectionReset)));
    }

    #[test]
    fn proxies_come_from_the_given_environment() {
        let options = HttpOptions::from_env(&|name| match name {
            "https_proxy" => Some("http://user:secret@proxy:3128".to_owned()),
            "NO_PROXY" => Some("internal".to_owned()),
            "HTTP_PROXY" => Some(String::new()),
            _ => None,
        });
        assert_eq!(options.proxy.https.as_deref(), Some("http://user:secret@proxy:3128"));
        assert_eq!(options.proxy.http, None);
        assert!(!format!("{options:?}").contains("secret"));
        let cgi = |name: &str| matches!(name, "REQUEST_METHOD" | "HTTP_PROXY").then(|| "x".to_owned());
        assert_eq!(HttpOptions::from_env(&cgi).proxy.http, None);
    }

    #[test]
    fn no_header_of_a_hostile_server_crashes() {
        let words = ["GMT", "+9999", "-0000", "99999999999999999999", "Sun,", "31 Feb", "-9999", "23:59:60", "\t", "é"];
        let samples = ["Sun, 06 Nov 1994 08:49:37 GMT", "7", "2026-11-22T10:16:12Z"];
        litestream_fuzz::Target::new("http date", samples).words(&words).cases(1000).run(|input| {
            let text = String::from_utf8_lossy(input);
            let _ = parse_http_date(&text);
            let Ok(value) = HeaderValue::from_bytes(input) else { return };
            for other in [HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"), value.clone()] {
                let headers = http::HeaderMap::from_iter([(header::RETRY_AFTER, value.clone()), (header::DATE, other)]);
                let _ = retry_after(&headers);
            }
        });
    }
}
