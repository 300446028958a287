//! Lets one thread stop all others between two transactions, and go on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Shared by a controller and its workers. Workers call [`pass`](Self::pass)
/// whenever they hold no transaction.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    workers: usize,
    parked: usize,
    paused: bool,
    stopped: bool,
}

impl Gate {
    /// Counts a worker in; before its thread starts, so that no pause misses it.
    pub(crate) fn enter(&self) {
        self.lock().workers += 1;
    }

    /// Counts a worker out when it ends, also by panic.
    pub(crate) fn leave(&self) {
        self.lock().workers -= 1;
        self.changed.notify_all();
    }

    /// Waits while paused. `false` means that the worker is to end.
    pub(crate) fn pass(&self) -> bool {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        while state.paused && !state.stopped {
            state = self.wait(state);
        }
        state.parked -= 1;
        !state.stopped
    }

    /// Waits for `limit`, less if somebody wants to pause or stop.
    pub(crate) fn linger(&self, limit: Duration) {
        let state = self.lock();
        let wait = self.changed.wait_timeout_while(state, limit, |state| !state.paused && !state.stopped);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Stops everybody at the gate; returns when all are there.
    pub(crate) fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        self.changed.notify_all();
        while state.parked < state.workers {
            state = self.wait(state);
        }
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.lock().paused = false;
        self.changed.notify_all();
    }

    /// Tells everybody to end.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}
