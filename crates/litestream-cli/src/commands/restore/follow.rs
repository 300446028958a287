//! `restore -f`: restore once, then keep the copy up to date until stopped.
//!
//! Spec: docs/commands.md, "Following"; store-and-restore §14.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litestream::follow::{Applied, FollowObserver, FollowOptions, Follower};
use litestream_replica::clock::SystemClock;
use ltx::Txid;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{CANCEL_GRACE, Job};
use crate::failure::Failure;
use crate::output;
use crate::signals::{Signal, Signals};
use crate::units::GoDuration;

/// A step, as `-json` prints it: one line each.
#[derive(Serialize)]
struct Step {
    event: &'static str,
    from_txid: String,
    to_txid: String,
    timestamp: String,
    lag_ms: u64,
    files: usize,
    pages: u64,
    rebuilt: bool,
}

/// Prints a line for each step.
struct JsonLines;

impl FollowObserver for JsonLines {
    fn applied(&self, applied: &Applied) {
        let step = Step {
            event: "applied",
            from_txid: applied.from.to_string(),
            to_txid: applied.to.to_string(),
            timestamp: applied.timestamp.to_string(),
            lag_ms: u64::try_from(applied.lag.as_millis()).unwrap_or(u64::MAX),
            files: applied.file_count,
            pages: applied.page_count,
            rebuilt: applied.is_rebuilt,
        };
        // A reader who has gone away must not end the copy's updates.
        let printed = serde_json::to_string(&step).map(|line| output::print(&format!("{line}\n")));
        if !matches!(printed, Ok(Ok(()))) {
            tracing::debug!("progress line not printed");
        }
    }
}

impl Job {
    /// Runs until stopped by a signal, which is success, or until following has
    /// become impossible.
    pub(super) async fn follow(self) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let cancel = CancellationToken::new();
        let started = Instant::now();
        if self.output.exists() {
            tracing::info!(replica = self.client.kind(), output = %self.output.display(), "resuming follow mode from crash recovery");
        } else {
            let work = self.make_database(cancel.clone());
            tokio::pin!(work);
            tokio::select! {
                made = &mut work => if made?.is_none() { return Ok(ExitCode::SUCCESS) },
                signal = signals.next() => {
                    cancel.cancel();
                    // The temporary file is removed on the way out.
                    let _ = tokio::time::timeout(CANCEL_GRACE, work).await;
                    return Err(stopped(signal));
                }
            }
        }
        let options = FollowOptions {
            interval: self.follow_interval(),
            may_rebuild: self.arguments.is_set("force"),
            cancel: cancel.clone(),
            ..FollowOptions::new(&self.output)
        };
        let observer: Arc<dyn FollowObserver> = match self.arguments.is_set("json") {
            true => Arc::new(JsonLines),
            false => Arc::new(litestream::follow::NoObserver),
        };
        let failed = |error: litestream::Error| Failure::new(error.to_string());
        let follower =
            Follower::new(Arc::clone(&self.client), options, Arc::new(SystemClock), observer).map_err(failed)?;
        let run = follower.run();
        tokio::pin!(run);
        let result = tokio::select! {
            result = &mut run => result,
            _ = signals.next() => {
                cancel.cancel();
                // Pages being written are finished; waiting for anything else ends.
                tokio::select! {
                    result = &mut run => result,
                    signal = signals.next() => return Err(stopped(signal)),
                }
            }
        };
        result.map_err(failed)?;
        self.summarize(Txid::NONE, started.elapsed())?;
        Ok(ExitCode::SUCCESS)
    }

    /// Nonsense means the default, as it always did.
    fn follow_interval(&self) -> Duration {
        let given = self.arguments.duration("follow-interval").filter(|interval| interval.is_positive());
        given.map_or(DEFAULT_INTERVAL, GoDuration::to_duration)
    }
}

fn stopped(signal: Signal) -> anyhow::Error {
    Failure::new(format!("restore stopped by signal: {signal}")).code(signal.exit_code()).into()
}

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
