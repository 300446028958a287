//! Trying again: how often, how long to wait, and who hears of it.
//!
//! Only [`Transient`](crate::ErrorKind::Transient) failures are repeated. There
//! is no shared budget of retries on purpose: a long outage must not make the
//! first calls after it fail at once.
//!
//! Spec: store-and-restore §3 (retry policy), backends §4.5.

use std::time::Duration;

use crate::{Error, Result};

/// How often and how patiently a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. At least one is made.
    pub attempts: u32,
    /// Upper bound of the first wait; each further bound is twice the last.
    pub base: Duration,
    /// No bound grows beyond this.
    pub cap: Duration,
    /// A longer `Retry-After` is cut to this.
    pub retry_after_cap: Duration,
}

impl Default for RetryPolicy {
    /// Ten attempts within half a minute or so of an outage: the first waits are
    /// short because most faults are gone at once, the last ones long.
    fn default() -> Self {
        Self {
            attempts: 10,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(20),
            retry_after_cap: Duration::from_secs(60),
        }
    }
}

/// A failed attempt.
pub struct Failure {
    /// What went wrong; its kind decides whether it is tried again.
    pub error: Error,
    /// How long the server asked to be left alone.
    pub retry_after: Option<Duration>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

impl RetryPolicy {
    /// Repeats `attempt` until it succeeds, fails for good, or attempts run out.
    ///
    /// Waits between zero and a bound that doubles ("full jitter"), so that many
    /// clients that failed together do not return together. `operation` is for
    /// the log, where the third failure in a row is worth a warning.
    ///
    /// # Errors
    /// The error of the last attempt, unchanged.
    pub async fn run<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        operation: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T> {
        let mut count = 1;
        loop {
            let Failure { error, retry_after } = match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if !error.is_retryable() || count >= self.attempts {
                return Err(error);
            }
            let wait = self.wait_after(count, retry_after);
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            if count >= WARN_FROM {
                tracing::warn!(operation, attempt = count, attempts = self.attempts, wait_ms, %error, "request failed, trying again");
            } else {
                tracing::debug!(operation, attempt = count, attempts = self.attempts, wait_ms, %error, "request failed, trying again");
            }
            tokio::time::sleep(wait).await;
            count += 1;
        }
    }

    /// The wait after failure number `count`, counted from one.
    fn wait_after(&self, count: u32, retry_after: Option<Duration>) -> Duration {
        let doublings = count.saturating_sub(1).min(30);
        let bound = self.base.saturating_mul(1 << doublings).min(self.cap);
        let jittered = bound.mul_f64(fastrand::f64());
        match retry_after {
            Some(asked) => jittered.max(asked.min(self.retry_after_cap)),
            None => jittered,
        }
    }
}

/// An unreachable store must not stay silent for minutes.
const WARN_FROM: u32 = 3;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ErrorKind;

    fn failure(kind: ErrorKind) -> Failure {
        Error::new(kind, "refused").into()
    }

    #[tokio::test(start_paused = true)]
    async fn transient_failures_are_repeated_until_one_attempt_succeeds() {
        let calls = Cell::new(0);
        let result = RetryPolicy::default()
            .run("test", || async {
                calls.set(calls.get() + 1);
                if calls.get() < 4 { Err(failure(ErrorKind::Transient)) } else { Ok(calls.get()) }
            })
            .await;
        assert_eq!(result.unwrap(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_run_out() {
        let calls = Cell::new(0);
        let result: Result<()> = RetryPolicy::default()
            .run("test", || async {
                calls.set(calls.get() + 1);
                Err(failure(ErrorKind::Transient))
            })
            .await;
        assert_eq!((calls.get(), result.unwrap_err().to_string().as_str()), (10, "refused"));
    }

    #[tokio::test(start_paused = true)]
    async fn other_kinds_fail_at_once() {
        for kind in [ErrorKind::NotFound, ErrorKind::Setup, ErrorKind::Conflict, ErrorKind::Cancelled] {
            let calls = Cell::new(0);
            let result: Result<()> = RetryPolicy::default()
                .run("test", || async {
                    calls.set(calls.get() + 1);
                    Err(failure(kind))
                })
                .await;
            assert_eq!((calls.get(), result.unwrap_err().kind()), (1, kind));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn server_may_ask_for_more_patience_within_limits() {
        for (asked, waited) in [(5, 5), (3600, 60)] {
            let calls = Cell::new(0);
            let start = tokio::time::Instant::now();
            let policy = RetryPolicy { cap: Duration::from_secs(1), ..RetryPolicy::default() };
            policy
                .run("test", || async {
                    calls.set(calls.get() + 1);
                    match calls.get() {
                        1 => Err(Failure {
                            retry_after: Some(Duration::from_secs(asked)),
                            ..failure(ErrorKind::Transient)
                        }),
                        _ => Ok(()),
                    }
                })
                .await
                .unwrap();
            assert_eq!(start.elapsed().as_secs(), waited);
        }
    }

    #[test]
    fn waits_stay_below_a_doubling_bound() {
        let policy = RetryPolicy::default();
        for _ in 0..1000 {
            assert!(policy.wait_after(1, None) <= Duration::from_millis(100));
            assert!(policy.wait_after(4, None) <= Duration::from_millis(800));
            assert!(policy.wait_after(u32::MAX, None) <= policy.cap);
        }
    }
}
