//! Notices background tasks that ended by a panic: nobody waits for their result,
//! and a database whose task is gone is silently not replicated any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts tasks that panicked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarm {
    crashed: Arc<AtomicUsize>,
}

impl Alarm {
    /// The same task, watched.
    pub(crate) fn watch<F: Future>(&self, task: F) -> impl Future<Output = F::Output> + use<F> {
        let trip = Trip(self.clone());
        async move {
            let _trip = trip;
            task.await
        }
    }

    /// Tasks that ended by a panic so far.
    pub(crate) fn crashed(&self) -> usize {
        self.crashed.load(Ordering::Relaxed)
    }
}

/// Goes off when it is dropped by a panic.
struct Trip(Alarm);

impl Drop for Trip {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.crashed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_panic_raises_the_alarm() {
        let alarm = Alarm::default();
        tokio::spawn(alarm.watch(async {})).await.unwrap();
        let cancelled = tokio::spawn(alarm.watch(std::future::pending::<()>()));
        cancelled.abort();
        assert!(cancelled.await.unwrap_err().is_cancelled());
        assert_eq!(alarm.crashed(), 0);
        tokio::spawn(alarm.watch(async { panic!("on purpose") })).await.unwrap_err();
        assert_eq!(alarm.crashed(), 1);
    }
}
