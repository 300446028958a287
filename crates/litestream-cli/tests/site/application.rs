//! An application that writes all the time: bank transfers, and updates of rows
//! that fill a page each.

#![allow(clippy::unwrap_used, reason = "an application that cannot write fails its test")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use litestream_testkit::bank::Bank;
use litestream_testkit::scenario::{self, CheckpointMode};

/// A writer thread. Dropping it ends the thread.
pub struct Application {
    db: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    is_paused: AtomicBool,
    is_stopped: AtomicBool,
}

struct State {
    bank: Bank,
    rng: Rng,
    rows: u32,
    stats: Stats,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub transactions: u64,
    /// The longest that one transaction took, lock included.
    pub slowest: Duration,
}

impl Application {
    /// Makes a database of `rows` pages of random bytes beside the bank, and
    /// starts writing with `pace` between transactions.
    pub fn start(db: &Path, seed: u64, rows: u32, pace: Duration) -> Self {
        let bank = Bank::open(db, seed).unwrap();
        bank.connection()
            .execute_batch(&format!(
                "PRAGMA synchronous = NORMAL;
                 CREATE TABLE IF NOT EXISTS page (id INTEGER PRIMARY KEY, body BLOB);
                 INSERT INTO page (body)
                     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                     SELECT randomblob(3900) FROM n"
            ))
            .unwrap();
        let state = State { bank, rng: Rng::with_seed(seed), rows, stats: Stats::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            is_paused: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(pace)
        });
        Self { db: db.to_owned(), shared, thread: Some(thread) }
    }

    /// Stops writing; returns between two transactions.
    pub fn pause(&self) {
        self.shared.is_paused.store(true, Ordering::SeqCst);
        drop(self.shared.state.lock().unwrap());
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.is_paused.store(false, Ordering::SeqCst);
    }

    /// Commits `count` transactions, paused or not.
    pub fn commit(&self, count: u32) {
        for _ in 0..count {
            self.shared.state.lock().unwrap().step();
        }
    }

    /// What was written so far.
    pub fn stats(&self) -> Stats {
        self.shared.state.lock().unwrap().stats
    }

    /// Whether the application checkpoints by itself, every 1000 pages.
    pub fn set_autocheckpoint(&self, on: bool) {
        let sql = format!("PRAGMA wal_autocheckpoint = {}", if on { 1_000 } else { 0 });
        self.shared.state.lock().unwrap().bank.connection().execute_batch(&sql).unwrap();
    }

    /// Checkpoints over a connection of its own, as another program would.
    pub fn checkpoint(&self, mode: CheckpointMode) {
        let connection = scenario::quiet_connection(&self.db).unwrap();
        // Blocked by a pin or a writer is an answer, too.
        connection.execute_batch("PRAGMA busy_timeout = 100").unwrap();
        scenario::checkpoint(&connection, mode).unwrap();
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(thread::panicking() || result.is_ok(), "the application failed");
        }
    }
}

impl Shared {
    fn run(&self, pace: Duration) {
        while !self.is_stopped.load(Ordering::SeqCst) {
            if self.is_paused.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            self.state.lock().unwrap().step();
            thread::sleep(pace);
        }
    }
}

impl State {
    fn step(&mut self) {
        let started = Instant::now();
        if self.rng.u8(0..3) > 0 {
            self.bank.transfer().unwrap();
        } else {
            let id = self.rng.u32(1..=self.rows);
            let sql = "UPDATE page SET body = randomblob(3900) WHERE id = ?";
            self.bank.connection().execute(sql, [id]).unwrap();
        }
        self.stats.transactions += 1;
        self.stats.slowest = self.stats.slowest.max(started.elapsed());
    }
}

/// Every mode, for choosing at random.
pub const MODES: [CheckpointMode; 4] =
    [CheckpointMode::Passive, CheckpointMode::Full, CheckpointMode::Restart, CheckpointMode::Truncate];
