//! Whether the program still turns: a beat every few seconds that only comes when
//! the runtime runs its tasks and has a thread for blocking work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The last beat.
#[derive(Debug)]
pub(crate) struct Pulse {
    started: Instant,
    /// Milliseconds after `started`.
    last_ms: AtomicU64,
}

impl Pulse {
    /// Alive, as of now.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), last_ms: AtomicU64::new(0) })
    }

    /// One whose last beat is too long ago.
    #[cfg(test)]
    pub(super) fn stopped() -> Arc<Self> {
        let started = Instant::now().checked_sub(2 * LIMIT).unwrap();
        Arc::new(Self { started, last_ms: AtomicU64::new(0) })
    }

    /// Beats until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            // Passes over databases need such a thread as well.
            if tokio::task::spawn_blocking(|| {}).await.is_ok() {
                let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.last_ms.store(now, Ordering::Relaxed);
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// How long the last beat is ago.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }

    /// True while beats come.
    pub(crate) fn is_beating(&self) -> bool {
        self.age() < LIMIT
    }
}

const BEAT: Duration = Duration::from_secs(5);
/// A machine that swaps or saves its memory may be late for one or two.
const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_beat_needs_a_thread_that_is_free() {
        let pulse = Pulse::new();
        pulse.last_ms.store(0, Ordering::Relaxed);
        let beating = tokio::spawn(pulse.clone().run());
        while pulse.last_ms.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(pulse.is_beating());
        beating.abort();
    }
}
