//! Messages to a service manager that speaks `sd_notify`: ready, alive, stopping,
//! and a line for `systemctl status`.
//!
//! The protocol is one datagram per message to the socket in `NOTIFY_SOCKET`.
//! Without that variable nothing here does anything. A child of `-exec` inherits
//! the variables and may send messages of its own.
//!
//! Spec: docs/operations.md, "systemd".

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::environment::Environment;
use crate::observe::{Observer, judge_all};

/// The service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a sign of life.
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment says. A socket that cannot be used is logged once and
    /// then left alone.
    pub(crate) fn of(environment: &Environment) -> Self {
        let Some(name) = environment.non_empty("NOTIFY_SOCKET") else { return Self { to: None, watchdog: None } };
        let to = match connect(name) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!(socket = name, %error, "cannot notify the service manager");
                None
            }
        };
        let is_ours = environment.non_empty("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = environment.non_empty("WATCHDOG_USEC").filter(|_| is_ours && to.is_some());
        let watchdog = watchdog.and_then(|micros| micros.parse().ok()).filter(|&micros| micros > 0);
        Self { to, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// True when somebody listens.
    pub(crate) fn is_there(&self) -> bool {
        self.to.is_some()
    }

    /// Sends one message: lines of `NAME=value`.
    pub(crate) fn tell(&self, message: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%error, "cannot notify the service manager");
        }
    }

    /// Asks for more time again and again, until it is dropped: what is restored
    /// before replication may be large.
    pub(crate) async fn ask_for_patience(self: Arc<Self>) {
        loop {
            self.tell(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS=starting", (3 * PATIENCE_INTERVAL).as_micros()));
            tokio::time::sleep(PATIENCE_INTERVAL).await;
        }
    }

    /// Tells that the program is about to end, at the latest after `limit` and a
    /// little more.
    pub(crate) fn stopping(&self, limit: Duration) {
        let limit = (limit + STOP_MARGIN).as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={limit}\nSTATUS=sending what is left"));
    }

    /// Tells that the program is ready, once every database was looked at, and from
    /// then on how it is, until it is dropped. The watchdog is fed from the start,
    /// but only while the program does its work.
    pub(crate) async fn keep_informed(self: Arc<Self>, observer: Arc<Observer>) {
        let beat = self.watchdog.map_or(STATUS_INTERVAL, |period| (period / 2).min(STATUS_INTERVAL));
        let started = Instant::now();
        let mut is_ready = false;
        let mut told = String::new();
        let mut fed: Option<Instant> = None;
        loop {
            let is_feeding_due = fed.is_none_or(|at| at.elapsed() >= beat);
            if is_feeding_due && self.watchdog.is_some() && observer.is_alive() {
                self.tell("WATCHDOG=1");
                fed = Some(Instant::now());
            }
            if !is_ready && (is_looked_at(&observer) || started.elapsed() >= READY_LIMIT) {
                is_ready = true;
                self.tell("READY=1");
            }
            if is_ready {
                let status = status_line(&observer);
                if status != told {
                    self.tell(&format!("STATUS={status}"));
                    told = status;
                }
            }
            tokio::time::sleep(if is_ready { beat } else { START_INTERVAL.min(beat) }).await;
        }
    }
}

fn connect(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
        None => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// True when each database was captured, or it was tried.
fn is_looked_at(observer: &Observer) -> bool {
    observer.store.databases().iter().all(|db| db.counts().captures.count > 0)
}

fn status_line(observer: &Observer) -> String {
    let databases = judge_all(&observer.store);
    let ready = databases.iter().filter(|database| database.ready).count();
    let mut line = format!("replicating {ready} of {} databases", databases.len());
    if let Some(worst) = databases.iter().find(|database| !database.ready) {
        let reason = worst.reason.as_deref().unwrap_or_default();
        // One line: a line break would begin another message.
        let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect();
        line.push_str(&format!("; {}: {reason}", worst.db.display()));
    }
    line
}

const PATIENCE_INTERVAL: Duration = Duration::from_secs(20);
const STOP_MARGIN: Duration = Duration::from_secs(15);
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
const START_INTERVAL: Duration = Duration::from_millis(100);
/// Well before the manager gives up on a start by default (90 s).
const READY_LIMIT: Duration = Duration::from_secs(60);
const MAX_REASON: usize = 200;
