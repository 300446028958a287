//! When a database is looked at again while nothing is captured. No I/O, no clock.
//!
//! A write is told of before its commit is published: frames come first, then an
//! fsync perhaps, then the wal-index. So after a write there are several looks, each
//! later than the one before, and a further write begins anew: it may be the one that
//! commits.

use std::time::Duration;

/// The looks of one wait.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Until the next look after a write whose commit was not there yet.
    retry: Option<Duration>,
    /// Writes in a row without a commit, as a pause.
    pace: Duration,
    /// Nobody has written for a while.
    is_quiet: bool,
}

impl Looks {
    /// How long to wait for a write before the next look; at most `scan`.
    pub(crate) fn patience(&self, scan: Duration) -> Duration {
        match self.retry {
            Some(retry) => retry,
            None if self.is_quiet => scan,
            None => scan.min(REST_AFTER),
        }
    }

    /// Nobody has written for a while, and no commit is expected.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet && self.retry.is_none()
    }

    /// Something was written. Returns how long to leave it alone: a long transaction
    /// writes all the time, and is not worth a look for each page.
    pub(crate) fn written(&mut self) -> Duration {
        let is_more = self.retry.replace(FIRST_RETRY).is_some();
        self.pace = if is_more { (self.pace * 2).clamp(FIRST_RETRY, LONGEST_PACE) } else { Duration::ZERO };
        self.pace
    }

    /// Nothing was written for as long as it was waited for.
    pub(crate) fn unwritten(&mut self) {
        self.is_quiet |= self.retry.is_none();
        self.retry = self.retry.map(|retry| retry * 2).filter(|retry| *retry <= LAST_RETRY);
    }
}

/// Quiet for so long, a database gives back what only a busy one needs.
const REST_AFTER: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_micros(500);
/// A commit may wait for a slow flush.
const LAST_RETRY: Duration = Duration::from_millis(512);
/// The most by which looks between the writes of a long transaction make its commit late.
const LONGEST_PACE: Duration = Duration::from_millis(16);

#[cfg(test)]
mod tests {
    use super::*;

    const SCAN: Duration = Duration::from_secs(30);

    /// When the looks are that follow writes at these times, in milliseconds, up to `end`.
    fn looks(writes: &[f64], end: f64) -> Vec<f64> {
        let (mut looks, mut found, mut now) = (Looks::default(), Vec::new(), 0.0);
        let mut writes = writes.iter().copied().peekable();
        while now < end {
            let until = now + looks.patience(SCAN).as_secs_f64() * 1e3;
            // What was written during a pause is told of when somebody listens again.
            match writes.next_if(|write| *write <= until) {
                Some(write) => {
                    while writes.next_if(|write| *write <= now).is_some() {}
                    now = now.max(write) + looks.written().as_secs_f64() * 1e3;
                }
                None => {
                    now = until;
                    looks.unwritten();
                }
            }
            found.push(now);
        }
        found
    }

    /// A wake-up that was left over, or a transaction that was given up, must not make
    /// the commit behind it wait.
    #[test]
    fn a_write_is_looked_at_at_once_whatever_came_before() {
        for second in [0.2, 3.0, 100.0, 300.0, 700.0, 1500.0] {
            let looks = looks(&[0.0, second], 2000.0);
            // Frames first, the commit within half a millisecond.
            let first = looks.iter().find(|look| **look >= second + 0.4).unwrap();
            assert!(first - second <= 1.1, "written at {second}, looked at {first}");
        }
    }

    #[test]
    fn a_slow_flush_is_waited_for_with_ever_fewer_looks() {
        let looks = looks(&[0.0], 1020.0);
        assert!(looks.len() <= 13, "{looks:?}");
        for flushed in [1.0, 10.0, 100.0, 400.0, 1000.0] {
            let first = looks.iter().find(|look| **look >= flushed).unwrap();
            assert!(*first <= 2.0 * flushed + 1.0, "flushed at {flushed}, looked at {first}");
        }
    }

    #[test]
    fn a_long_transaction_costs_few_looks_and_its_commit_comes_soon() {
        let writes: Vec<f64> = (0..20_000).map(|write| f64::from(write) / 10.0).collect();
        let looks = looks(&writes, 2010.0);
        assert!(looks.len() <= 140, "{} looks in two seconds", looks.len());
        assert!(looks.iter().any(|look| (2000.0..2016.6).contains(look)), "{looks:?}");
    }

    #[test]
    fn an_idle_database_is_left_alone() {
        let mut looks = Looks::default();
        assert_eq!((looks.patience(SCAN), looks.is_quiet()), (REST_AFTER, false));
        looks.unwritten();
        assert_eq!((looks.patience(SCAN), looks.is_quiet()), (SCAN, true));
        looks.written();
        assert!(!looks.is_quiet());
        while looks.retry.is_some() {
            looks.unwritten();
        }
        assert_eq!((looks.patience(SCAN), looks.is_quiet()), (SCAN, true), "no second rest");
        assert_eq!(looks.patience(Duration::from_millis(100)), Duration::from_millis(100));
    }
}
