//! The connection to the server: dialled at the first use, re-dialled when lost.
//!
//! The library's client dials again by itself and sends what was queued; so that
//! nobody waits for an answer that was lost with the old connection, every
//! [`Session`] ends with it and its operation starts again.
//!
//! Only this module, `auth`, `api` and `consume` name the library.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Request, RequestErrorKind, ServerError};
use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::options::{Settings, Tls};
use crate::http::{is_clear_text, is_tls_error, tls};
use crate::{Error, ErrorKind, Result};

/// Where the server is, and the connection to it.
pub(super) struct Link {
    settings: Arc<Settings>,
    current: Mutex<Option<(Client, watch::Receiver<Condition>)>>,
}

impl Link {
    /// Contacts nobody yet.
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, current: Mutex::new(None) }
    }

    /// The connection as it is, made or made again where necessary.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) when the server cannot be reached;
    /// [`Setup`](ErrorKind::Setup) when it refuses us, or we do not trust it.
    pub(super) async fn session(&self) -> Result<Session> {
        let (client, mut condition) = {
            let mut current = self.current.lock().await;
            // A client that gave up after `max-reconnects` is replaced.
            let usable = current.take().filter(|(_, condition)| !condition.borrow().closed);
            let connected = match usable {
                Some(connected) => connected,
                None => dial(&self.settings).await?,
            };
            current.insert(connected).clone()
        };
        let up = condition.wait_for(|condition| condition.up || condition.closed);
        let lost = || self.fault("connection was lost and is not back yet");
        let (losses, refusals) = match timeout(self.settings.timeout, up).await {
            Ok(Ok(condition)) if !condition.closed => (condition.losses, condition.refusals),
            _ => return Err(lost()),
        };
        Ok(Session { client, condition, losses, refusals, settings: self.settings.clone() })
    }

    fn fault(&self, what: &str) -> Error {
        Error::new(ErrorKind::Transient, format!("nats server {}: {what}", self.settings.server))
    }
}

/// What the client's events said last.
#[derive(Clone, Default)]
pub(super) struct Condition {
    up: bool,
    /// How often the connection broke.
    losses: u64,
    /// The client has given up.
    closed: bool,
    /// The server's words when it refused a subject.
    refusal: Option<String>,
    refusals: u64,
}

impl Condition {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Connected => self.up = true,
            Event::Disconnected => {
                self.up = false;
                self.losses += 1;
            }
            Event::Closed => self.closed = true,
            Event::ClientError(async_nats::ClientError::MaxReconnects) => self.closed = true,
            // Refused subjects are told in passing; the request itself is left
            // without an answer.
            Event::ServerError(ServerError::Other(text)) if text.to_lowercase().contains("permissions violation") => {
                self.refusal = Some(text.clone());
                self.refusals += 1;
            }
            _ => {}
        }
    }
}

/// One life of the connection. Everything fails once that is over.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) client: Client,
    condition: watch::Receiver<Condition>,
    losses: u64,
    refusals: u64,
    settings: Arc<Settings>,
}

impl Session {
    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) when there is none, [`Setup`](ErrorKind::Setup)
    /// when the user may not ask. No answer because nobody serves the subject is `None`.
    pub(super) async fn request(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Option<async_nats::Message>> {
        let mut request = Request::new().payload(payload).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let answer = self.client.send_request(subject.to_owned(), request);
        match self.wait(subject, answer).await? {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
            Err(error) => Err(Error::with_source(ErrorKind::Transient, self.describe(subject), error)),
        }
    }

    /// Waits for `answer`, which belongs to `subject`, no longer than the
    /// connection lives and patience lasts.
    pub(super) async fn wait<T>(&self, subject: &str, answer: impl Future<Output = T>) -> Result<T> {
        let mut condition = self.condition.clone();
        let is_refusal = |condition: &Condition| {
            condition.refusals != self.refusals && condition.refusal.as_ref().is_some_and(|text| text.contains(subject))
        };
        let over = condition
            .wait_for(|condition| condition.closed || condition.losses != self.losses || is_refusal(condition));
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            condition = over => Err(match condition {
                Ok(condition) if is_refusal(&condition) => Error::new(
                    ErrorKind::Setup,
                    format!(
                        "{}: the user lacks a permission: {}",
                        self.describe(subject),
                        self.settings.credentials.hide(condition.refusal.as_deref().unwrap_or_default())
                    ),
                ),
                _ => Error::new(ErrorKind::Transient, format!("{}: connection lost", self.describe(subject))),
            }),
            () = tokio::time::sleep(self.settings.timeout) => Err(Error::new(
                ErrorKind::Transient,
                format!("{}: no answer within {:?}", self.describe(subject), self.settings.timeout),
            )),
        }
    }

    /// The most bytes that the server takes in one message.
    pub(super) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    pub(super) fn describe(&self, subject: &str) -> String {
        format!("nats server {}, {subject}", self.settings.server)
    }
}

/// Makes a connection, once.
async fn dial(settings: &Arc<Settings>) -> Result<(Client, watch::Receiver<Condition>)> {
    let (noted, condition) = watch::channel(Condition { up: true, ..Condition::default() });
    let (credentials, wait) = (settings.credentials.clone(), settings.reconnect_wait);
    let client = ConnectOptions::with_auth_callback(move |nonce| {
        let answer = credentials.answer(&nonce);
        async move { answer }
    })
    .name("litestream")
    .require_tls(settings.tls.required)
    .tls_client_config(tls_config(&settings.tls)?)
    .connection_timeout(settings.timeout)
    .ping_interval(PING_INTERVAL)
    .subscription_capacity(SUBSCRIPTION_CAPACITY)
    .max_reconnects(settings.max_reconnects)
    .reconnect_delay_callback(move |attempt| if attempt <= 1 { Duration::ZERO } else { jittered(wait) })
    .event_callback(move |event| {
        noted.send_modify(|condition| condition.note(&event));
        async {}
    })
    .connect(format!("nats://{}", settings.server))
    .await
    .map_err(|error| explain(settings, &error))?;
    Ok((client, condition))
}

/// Up to a tenth more, so that clients that lost their server together do not
/// return together.
fn jittered(wait: Duration) -> Duration {
    wait + wait.mul_f64(fastrand::f64() / 10.0)
}

fn tls_config(settings: &Tls) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for path in &settings.root_cas {
        tls::add_file(&mut roots, path)?;
    }
    if settings.root_cas.is_empty() {
        roots = tls::system_roots();
        if roots.is_empty() {
            roots = tls::built_in_roots();
        }
    }
    let broken = |e: rustls::Error| Error::with_source(ErrorKind::Setup, "set up tls", e);
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &settings.client else { return Ok(builder.with_no_client_auth()) };
    let unreadable = |key: &str, path: &std::path::Path, cause: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Setup, format!("cannot read {key} {}: {cause}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|e| unreadable("client-cert", certificate, &e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("client-key", key, &e))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| Error::with_source(ErrorKind::Setup, "client-cert and client-key do not fit together", e))
}

/// What a failed connection means to a person.
fn explain(settings: &Settings, error: &async_nats::ConnectError) -> Error {
    let (mut distrust, mut unwanted, mut clear_text) = (false, false, false);
    let mut causes: Vec<String> = Vec::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        distrust |= is_tls_error(cause, &|error| matches!(error, rustls::Error::InvalidCertificate(_)));
        unwanted |= is_tls_error(cause, &|error| matches!(error, rustls::Error::AlertReceived(_)));
        clear_text |= is_tls_error(cause, &is_clear_text);
        next = cause.source();
        // An error of the library quotes its cause, which says more.
        if next.is_none() {
            causes.push(cause.to_string());
        }
    }
    let (server, causes) = (&settings.server, settings.credentials.hide(&causes.join(": ")));
    let refused = |advice: &str| Error::new(ErrorKind::Setup, format!("nats server {server} {advice}: {causes}"));
    match error.kind() {
        _ if distrust => refused("has a certificate that is not trusted, name its issuer in root-cas"),
        _ if unwanted => refused("refuses the TLS connection, check client-cert and client-key"),
        _ if clear_text => refused("does not answer in TLS, correct the port or tls"),
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            refused(&format!("does not accept who we are, {}", settings.credentials.keys()))
        }
        ConnectErrorKind::ServerParse => refused("is no address"),
        kind => Error::new(ErrorKind::Transient, format!("cannot connect to nats server {server}: {kind}: {causes}")),
    }
}

/// As upstream's client: a connection that says nothing for so long is asked, one
/// that does not answer twice is lost.
const PING_INTERVAL: Duration = Duration::from_secs(120);
/// Messages of one subscription that wait to be taken; more than anybody asks for.
const SUBSCRIPTION_CAPACITY: usize = 4096;
