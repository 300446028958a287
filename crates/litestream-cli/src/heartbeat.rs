//! `heartbeat-url`: a ping for a service that raises the alarm when pings stop.
//!
//! The rule that must never break: no ping says "all is well" about a database
//! whose changes do not reach its replica. Within the interval each database must
//! have been captured and uploaded, or be proven to have nothing that its replica
//! lacks at the moment of the ping, which is how an idle database answers.
//!
//! Spec: docs/operations.md, "Heartbeat".

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use litestream::{Database, Store};
use litestream_replica::clock::{Clock, SystemClock};
use litestream_replica::http::HttpPool;
use tokio::time::Instant;

use crate::observe::is_wanted;
use crate::output::server_of;

/// Who is pinged, and how often.
pub(crate) struct Heartbeat {
    url: String,
    interval: Duration,
    check_interval: Duration,
    http: HttpPool,
}

impl Heartbeat {
    /// Pings `url` every `interval`.
    pub(crate) fn new(url: String, interval: Duration, http: HttpPool) -> Self {
        Self { url, interval, check_interval: CHECK_INTERVAL, http }
    }

    /// Checks until it is dropped.
    pub(crate) async fn run(self, store: Arc<Store>) {
        tracing::info!(system = "store", interval = ?self.check_interval, "starting heartbeat monitor");
        let mut attempted: Option<Instant> = None;
        loop {
            tokio::time::sleep(self.check_interval).await;
            if attempted.is_some_and(|at| at.elapsed() < self.interval) {
                continue;
            }
            if let Some(obstacle) = obstacle(&store, self.interval, SystemClock.now()) {
                tracing::debug!(system = "store", reason = obstacle, "heartbeat ping withheld");
                continue;
            }
            // A ping that fails is not repeated sooner.
            attempted = Some(Instant::now());
            let url = server_of(&self.url);
            match self.http.fetch(&self.url, PING_LIMIT).await {
                Ok(()) => tracing::debug!(system = "store", url, "heartbeat ping sent"),
                Err(error) => tracing::error!(system = "store", url, %error, "heartbeat ping failed"),
            }
        }
    }
}

/// Why no ping may be sent.
fn obstacle(store: &Store, interval: Duration, now: Timestamp) -> Option<String> {
    let databases = store.databases();
    let mut wanted = databases.iter().filter(|db| is_wanted(db)).peekable();
    if wanted.peek().is_none() {
        return Some("no database is open".to_owned());
    }
    wanted.find(|db| !is_safe(db, interval, now)).map(|db| format!("{} is not known to be safe", db.path().display()))
}

fn is_safe(db: &Database, interval: Duration, now: Timestamp) -> bool {
    let status = db.status();
    let interval = SignedDuration::try_from(interval).unwrap_or(SignedDuration::MAX);
    let is_recent = |at: Option<Timestamp>| at.is_some_and(|at| now.duration_since(at) <= interval);
    if status.is_missing || status.problem.is_some() {
        return false;
    }
    (is_recent(status.captured_at) && is_recent(status.uploaded_at)) || db.is_proven_current()
}

const CHECK_INTERVAL: Duration = Duration::from_secs(15);
const PING_LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod tests;
