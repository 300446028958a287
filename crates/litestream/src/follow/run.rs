//! The loop: look, apply, wait.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ltx::Txid;

use super::{Applied, Follower, Severity};
use crate::error::Result;

impl Follower {
    /// Follows until the token in the options is cancelled, and gives the
    /// position then.
    ///
    /// # Errors
    /// What makes following impossible: the copy was written to or replaced by
    /// somebody else, the replica's history was restarted, or a hole was not
    /// mended in time. Everything else is logged and tried again, after pauses
    /// that grow to half a minute.
    pub async fn run(mut self) -> Result<Txid> {
        let replica = self.client.kind();
        let interval = self.options.interval;
        let output = self.options.output.clone();
        tracing::info!(replica, output = %output.display(), txid = %self.position, ?interval, "entering follow mode");
        let mut failures = Failures::default();
        while !self.options.cancel.is_cancelled() {
            let wait = match self.tick().await {
                Ok(Some(applied)) => {
                    log(replica, &applied);
                    failures = Failures::default();
                    if self.has_more { Duration::ZERO } else { interval }
                }
                Ok(None) => {
                    failures = Failures::default();
                    interval
                }
                Err(trouble) if trouble.severity == Severity::Cancelled => break,
                Err(trouble) if trouble.severity == Severity::Final => return Err(trouble.error),
                Err(trouble) => {
                    let now = self.clock.now();
                    let wait = failures.note(trouble.severity, now, interval);
                    tracing::error!(
                        replica,
                        txid = %self.position,
                        err = %trouble.error,
                        consecutive_errors = failures.count,
                        backoff = ?wait,
                        "follow: error applying updates"
                    );
                    if failures.is_hopeless(now, self.options.patience) {
                        return Err(trouble
                            .error
                            .context(format!("cannot continue follow mode at TXID {}", self.position)));
                    }
                    wait
                }
            };
            tokio::select! {
                () = self.options.cancel.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        tracing::info!(replica, "follow mode stopped");
        Ok(self.position)
    }
}

fn log(replica: &str, applied: &Applied) {
    tracing::info!(
        replica,
        from_txid = %applied.from,
        to_txid = %applied.to,
        lag = ?Duration::from_millis(u64::try_from(applied.lag.as_millis()).unwrap_or(u64::MAX)),
        files = applied.file_count,
        pages = applied.page_count,
        "follow: applied updates"
    );
}

/// Failures in a row.
#[derive(Default)]
struct Failures {
    count: u32,
    stuck_since: Option<Timestamp>,
}

impl Failures {
    /// Counts one, and says how long to wait after it.
    fn note(&mut self, severity: Severity, now: Timestamp, interval: Duration) -> Duration {
        self.count += 1;
        match severity {
            Severity::Stuck => {
                self.stuck_since.get_or_insert(now);
            }
            _ => self.stuck_since = None,
        }
        let doublings = (self.count - 1).min(16);
        interval.saturating_mul(1 << doublings).min(LONGEST_WAIT).max(interval)
    }

    fn is_hopeless(&self, now: Timestamp, patience: Duration) -> bool {
        let patience = SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX);
        self.stuck_since.is_some_and(|since| now.duration_since(since) >= patience)
    }
}

const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_but_never_below_the_interval() {
        let mut failures = Failures::default();
        let now = Timestamp::UNIX_EPOCH;
        let waits: Vec<u64> =
            (0..8).map(|_| failures.note(Severity::Passing, now, Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(failures.note(Severity::Passing, now, Duration::from_secs(60)).as_secs(), 60);
    }

    #[test]
    fn only_what_stays_stuck_is_hopeless() {
        let mut failures = Failures::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let (second, patience) = (Duration::from_secs(1), Duration::from_secs(600));
        failures.note(Severity::Stuck, at(0), second);
        assert!(!failures.is_hopeless(at(599), patience));
        assert!(failures.is_hopeless(at(600), patience));
        failures.note(Severity::Passing, at(599), second);
        assert!(!failures.is_hopeless(at(600), patience));
    }
}
