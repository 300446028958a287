//! From settings to a session: dialled, checked, introduced, and kept.
//!
//! One connection serves all replicas of one process that name the same server
//! and user. It is made when it is first needed and again when it has ended; an
//! idle one is left alone, no timer looks at it. One that has been idle for a
//! while is asked for a sign of life before it is trusted with more.
//!
//! Spec: backends §7.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use russh::client::{self, Handler};
use russh::keys::PublicKeyOrCertificate;
use russh::{AlgorithmKind, Preferred, cipher};
use tokio::net::TcpStream;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::auth::Identity;
use super::host_key::HostKeys;
use super::packet::{self, Request};
use super::session::{Line, Session};
use crate::{Error, ErrorKind, Result};

/// How long servers are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SftpLimits {
    /// Limit for name lookup, connection and introduction together.
    pub connect_timeout: Duration,
    /// Limit for the time in which no answer arrives while one is due.
    pub idle_timeout: Duration,
}

impl Default for SftpLimits {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(30), idle_timeout: Duration::from_secs(60) }
    }
}

/// Connections to SSH servers, shared by all replicas that use the same server
/// in the same way.
#[derive(Clone, Default)]
pub struct SftpPool {
    limits: SftpLimits,
    connectors: Arc<Mutex<HashMap<Destination, Weak<Connector>>>>,
}

impl SftpPool {
    /// A pool of its own, empty.
    pub fn new(limits: SftpLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The one connector for this destination.
    pub(super) fn connector(&self, destination: Destination) -> Result<Arc<Connector>> {
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connector) = connectors.get(&destination).and_then(Weak::upgrade) {
            return Ok(connector);
        }
        connectors.retain(|_, connector| connector.strong_count() > 0);
        let connector = Arc::new(Connector {
            host_keys: Arc::new(HostKeys::new(destination.host_key.as_deref())?),
            destination: destination.clone(),
            limits: self.limits,
            state: AsyncMutex::default(),
            failures: Mutex::default(),
        });
        connectors.insert(destination, Arc::downgrade(&connector));
        Ok(connector)
    }
}

impl fmt::Debug for SftpPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpPool").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Where to and as whom.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    /// `host:port`, as messages name it.
    pub(super) address: String,
    pub(super) identity: Identity,
    pub(super) host_key: Option<String>,
}

/// Makes sessions, one at a time.
pub(super) struct Connector {
    destination: Destination,
    host_keys: Arc<HostKeys>,
    limits: SftpLimits,
    state: AsyncMutex<Option<Current>>,
    /// How many attempts have failed, and how the last one did: those who waited
    /// for it share its error instead of failing one after the other.
    failures: Mutex<(u64, Option<(ErrorKind, String)>)>,
}

struct Current {
    session: Arc<Session>,
    used: Instant,
}

impl Connector {
    /// `host:port`.
    pub(super) fn address(&self) -> &str {
        &self.destination.address
    }

    /// A session that is alive as far as can be told.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) when the server cannot be reached;
    /// [`Setup`](ErrorKind::Setup) when it is the wrong one, or we are to it.
    pub(super) async fn session(&self) -> Result<Arc<Session>> {
        let failed_before = self.failures().0;
        let mut state = self.state.lock().await;
        if let Some(current) = state.as_mut() {
            if current.used.elapsed() > TRUSTED_FOR && current.session.is_alive() {
                probe(&current.session, self.limits.idle_timeout.min(PROBE_LIMIT)).await;
            }
            if current.session.is_alive() {
                current.used = Instant::now();
                return Ok(current.session.clone());
            }
            *state = None;
        }
        if let (failed, Some((kind, message))) = self.failures()
            && failed != failed_before
        {
            return Err(Error::new(kind, message));
        }
        let limit = self.limits.connect_timeout;
        let dialled = match tokio::time::timeout(limit, self.connect()).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Transient, format!("no session within {}s", limit.as_secs_f32()))),
        };
        match dialled {
            Ok(session) => {
                let session = Arc::new(session);
                *state = Some(Current { session: session.clone(), used: Instant::now() });
                Ok(session)
            }
            Err(error) => {
                let error = error.context(format!("sftp: connect to {}", self.address()));
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                *failures = (failures.0 + 1, Some((error.kind(), error.to_string())));
                Err(error)
            }
        }
    }

    fn failures(&self) -> (u64, Option<(ErrorKind, String)>) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn connect(&self) -> Result<Session> {
        let Destination { address, identity, .. } = &self.destination;
        let transient = |error: std::io::Error| Error::new(ErrorKind::Transient, error.to_string());
        let socket = TcpStream::connect(address).await.map_err(transient)?;
        socket.set_nodelay(true).map_err(transient)?;
        // A second handle to the same connection, to be able to cut it.
        let socket = socket.into_std().map_err(transient)?;
        let line = socket.try_clone().map_err(transient)?;
        let socket = TcpStream::from_std(socket).map_err(transient)?;

        let verdict = Arc::new(Mutex::new(None));
        let checker = Checker { host: address.clone(), host_keys: self.host_keys.clone(), verdict: verdict.clone() };
        let connected = client::connect_stream(self.config(), socket, checker).await;
        if let Some(error) = verdict.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let mut connection = connected.map_err(|error| self.explain(error))?;
        identity.prove(&mut connection, address).await?;
        let refused = |what: &'static str| move |error| Error::with_source(ErrorKind::Transient, what, error);
        let channel = connection.channel_open_session().await.map_err(refused("open a channel"))?;
        channel.request_subsystem(true, "sftp").await.map_err(refused("ask for the sftp subsystem"))?;
        let (read, write) = channel.split();
        let line = Line { read, write, socket: line, connection: Box::new(connection) };
        Session::start(line, self.limits.idle_timeout).await.map_err(|error| error.context("start sftp"))
    }

    fn config(&self) -> Arc<client::Config> {
        let mut preferred = Preferred { cipher: CIPHERS.into(), ..Preferred::DEFAULT };
        if let Some(algorithms) = self.host_keys.algorithms() {
            preferred.key = algorithms.into();
        }
        Arc::new(client::Config {
            preferred,
            window_size: WINDOW,
            limits: russh::Limits { rekey_time_limit: NEVER, ..russh::Limits::default() },
            nodelay: true,
            ..client::Config::default()
        })
    }

    fn explain(&self, error: russh::Error) -> Error {
        match error {
            russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, theirs, .. } => {
                self.host_keys.no_such_key(self.address(), &theirs)
            }
            russh::Error::NoCommonAlgo { .. } | russh::Error::Version => {
                Error::with_source(ErrorKind::Setup, "ssh: handshake failed", error)
            }
            other => Error::with_source(ErrorKind::Transient, "ssh: handshake failed", other),
        }
    }
}

/// Asks for something small; ends the session if no answer comes.
async fn probe(session: &Arc<Session>, limit: Duration) {
    let question = session.ask(&Request::new(packet::STAT).text("."));
    let before = session.answered();
    // A busy line may take long and is alive all the same.
    if tokio::time::timeout(limit, question.reply()).await.is_err() && session.answered() == before {
        session.end("no sign of life after a pause");
    }
}

/// Looks at the server's key during the handshake.
struct Checker {
    host: String,
    host_keys: Arc<HostKeys>,
    /// Why the key was refused.
    verdict: Arc<Mutex<Option<Error>>>,
}

impl Handler for Checker {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        // Certificates are not asked for, so none is shown.
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        match self.host_keys.check(&self.host, key) {
            Ok(()) => Ok(true),
            Err(error) => {
                *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Ok(false)
            }
        }
    }
}

/// The one that processors do in hardware goes first: it is several times faster.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR];
/// Bytes that a server may send before it hears from us.
const WINDOW: u32 = 16 << 20;
/// New keys come after so many bytes, not after so many hours: an idle connection
/// would wake up for that.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// Idle for less than this, a connection is used without a question.
const TRUSTED_FOR: Duration = Duration::from_secs(30);
const PROBE_LIMIT: Duration = Duration::from_secs(10);
