//! Who may flush the disk, and when.
//!
//! A checkpoint under a database's write lock flushes twice while the application
//! waits. A flush of a file of ours at the same time makes that wait several times
//! as long, whatever file it is and whichever database it belongs to: the disk has
//! one queue. So every large flush asks for a turn, and a checkpoint under the lock
//! asks for quiet: it waits for those that run, which are short, and those that
//! come wait for it.
//!
//! It is a courtesy and never more: whoever has waited long enough goes ahead.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Those of this process. Several disks count as one: quiet is rare and short.
pub static FLUSHES: Flushes = Flushes::new();

/// See the module's description.
#[derive(Debug)]
pub struct Flushes {
    users: Mutex<Users>,
    changed: Condvar,
}

#[derive(Debug)]
struct Users {
    running: usize,
    quiet: usize,
}

/// One flush at a time of one file; over when it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Flushes);

/// Nobody else flushes; over when it is dropped.
#[derive(Debug)]
pub struct Quiet<'a>(&'a Flushes);

impl Flushes {
    const fn new() -> Self {
        Self { users: Mutex::new(Users { running: 0, quiet: 0 }), changed: Condvar::new() }
    }

    /// Waits until nobody needs quiet, at most a while. Blocks.
    pub fn turn(&self) -> Turn<'_> {
        let mut users = self.wait(TURN_PATIENCE, |users| users.quiet == 0);
        users.running += 1;
        Turn(self)
    }

    /// Waits until the flushes that run have ended, at most `patience`, and keeps
    /// others from beginning. Blocks.
    pub fn quiet(&self, patience: Duration) -> Quiet<'_> {
        self.users().quiet += 1;
        let quiet = Quiet(self);
        drop(self.wait(patience, |users| users.running == 0));
        quiet
    }

    fn wait(&self, patience: Duration, is_free: impl Fn(&Users) -> bool) -> MutexGuard<'_, Users> {
        let deadline = Instant::now() + patience;
        let mut users = self.users();
        while !is_free(&users) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            users = self.changed.wait_timeout(users, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        users
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.users().running -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        self.0.users().quiet -= 1;
        self.0.changed.notify_all();
    }
}

/// Counts what is written to a file that is flushed piece by piece as it grows: one
/// large flush at the end would stand in everybody's way for as long.
#[derive(Debug, Default)]
pub struct Pieces {
    unflushed: u64,
}

impl Pieces {
    /// Counts `len` bytes more. True when a piece is full and to be flushed now.
    pub fn is_due(&mut self, len: u64) -> bool {
        self.unflushed += len;
        let is_due = self.unflushed >= PIECE_LEN;
        if is_due {
            self.unflushed = 0;
        }
        is_due
    }
}

/// Bytes of a piece: a few milliseconds of an ordinary disk.
pub const PIECE_LEN: u64 = 1 << 20;
/// A checkpoint under the write lock is over long before.
const TURN_PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn flushes_do_not_wait_for_each_other() {
        let flushes = Flushes::new();
        let (_first, _second) = (flushes.turn(), flushes.turn());
        assert_eq!(flushes.users().running, 2);
    }

    #[test]
    fn quiet_waits_for_the_flush_that_runs_and_holds_up_the_next() {
        let flushes = Flushes::new();
        let (events, log) = channel();
        let flush = flushes.turn();
        thread::scope(|scope| {
            let said = events.clone();
            scope.spawn(|| {
                let said = said;
                let quiet = flushes.quiet(Duration::from_secs(60));
                said.send("quiet").unwrap();
                // The next flush is waiting when this ends.
                drop(quiet);
            });
            while flushes.users().quiet == 0 {
                thread::yield_now();
            }
            let said = events.clone();
            scope.spawn(|| {
                let said = said;
                let _turn = flushes.turn();
                said.send("flush").unwrap();
            });
            events.send("first flush ends").unwrap();
            drop(flush);
        });
        let order: Vec<&str> = log.try_iter().collect();
        assert_eq!(order.first(), Some(&"first flush ends"));
        assert_eq!(order.len(), 3);
    }

    #[test]
    fn who_has_waited_long_enough_goes_ahead() {
        let flushes = Flushes::new();
        let _flush = flushes.turn();
        let _quiet = flushes.quiet(Duration::from_millis(1));
        let users = flushes.users();
        assert_eq!((users.running, users.quiet), (1, 1));
    }
}
