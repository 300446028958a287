//! A seeded application: several connections that do to one database whatever
//! SQLite allows, until told to stop.
//!
//! Writers insert, update, delete, spill large transactions, roll back, change
//! the schema, VACUUM, checkpoint in every mode, close and reopen; readers hold
//! old snapshots. [`Running::pause`] stops all of them between transactions, so
//! that a test can compare an image with what was replicated.
//!
//! The schema and each thread's choices follow from the seed; how the threads
//! interleave does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use fastrand::Rng;
use rusqlite::{Connection, ErrorCode};

use crate::gate::Gate;
use crate::schema::Schema;
use crate::writer::{self, Writer};

/// What a workload may do. The default is everything.
#[derive(Clone, Debug)]
pub struct Options {
    /// Writing threads.
    pub writers: usize,
    /// Reading threads, which hold snapshots for up to 200 ms.
    pub readers: usize,
    /// Instead of the seed's page size.
    pub page_size: Option<u32>,
    /// Whether VACUUM may run.
    pub vacuum: bool,
    /// Whether the application checkpoints, by itself and by pragma. Without it
    /// only the replicator shortens the WAL.
    pub checkpoints: bool,
    /// Writers delete when the database is larger than this, in bytes.
    pub max_len: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { writers: 3, readers: 1, page_size: None, vacuum: true, checkpoints: true, max_len: 16 << 20 }
    }
}

/// A database and the plan for what happens to it.
#[derive(Clone, Debug)]
pub struct Workload {
    db: PathBuf,
    seed: u64,
    schema: Schema,
    options: Options,
}

impl Workload {
    /// Makes the database `db` with a schema and some rows. Prints the seed, so
    /// that a failing test can be repeated.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn create(db: &Path, seed: u64, options: Options) -> Result<Self> {
        #[allow(clippy::print_stderr, reason = "a failing random test must be repeatable")]
        {
            eprintln!("workload seed {seed} on {}", db.display());
        }
        let mut schema = Schema::random(&mut Rng::with_seed(seed));
        schema.page_size = options.page_size.unwrap_or(schema.page_size);
        let connection = Connection::open(db).with_context(|| format!("create {}", db.display()))?;
        connection.execute_batch(&schema.sql())?;
        connection.close().map_err(|(_, error)| error)?;
        let workload = Self { db: db.to_owned(), seed, schema, options };
        let mut writer = workload.writer(u64::MAX);
        writer.fill(20)?;
        Ok(workload)
    }

    /// The seed given.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The schema made from it.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Runs for `duration` and stops.
    ///
    /// # Errors
    /// As [`Running::stop`].
    pub fn run(&self, duration: Duration) -> Result<Stats> {
        let running = self.start();
        running.go_on(duration);
        running.stop()
    }

    /// Starts the threads.
    pub fn start(&self) -> Running {
        let gate = Arc::new(Gate::default());
        let mut threads = Vec::new();
        for number in 0..self.options.writers {
            let writer = self.writer(number as u64);
            threads.push(start_worker(&gate, move |gate| write(writer, gate)));
        }
        for number in 0..self.options.readers {
            let rng = self.rng(1_000 + number as u64);
            let (db, table) = (self.db.clone(), self.schema.tables.first().map(|table| table.name.clone()));
            threads.push(start_worker(&gate, move |gate| read(&db, &table.unwrap_or_default(), rng, gate)));
        }
        Running { gate, threads }
    }

    fn writer(&self, number: u64) -> Writer {
        Writer::new(self.db.clone(), self.schema.clone(), self.options.clone(), self.rng(number))
    }

    fn rng(&self, number: u64) -> Rng {
        Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17))
    }
}

/// Threads at work. Dropping it stops them and waits for them.
#[derive(Debug)]
pub struct Running {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<Result<Stats>>>,
}

impl Running {
    /// Stops all threads between two transactions and returns when none of them
    /// holds one, readers included.
    pub fn pause(&self) {
        self.gate.pause();
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.gate.resume();
    }

    /// Lets the threads work for `duration`.
    pub fn go_on(&self, duration: Duration) {
        thread::sleep(duration);
    }

    /// Pauses, calls `look`, resumes.
    pub fn while_paused<T>(&self, look: impl FnOnce() -> T) -> T {
        self.pause();
        let result = look();
        self.resume();
        result
    }

    /// Ends all threads.
    ///
    /// # Errors
    /// The first failure of a thread other than a busy database.
    pub fn stop(mut self) -> Result<Stats> {
        self.gate.stop();
        let mut sum = Stats::default();
        for thread in std::mem::take(&mut self.threads) {
            sum.add(&thread.join().map_err(|_| anyhow!("a workload thread panicked"))??);
        }
        Ok(sum)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gate.stop();
        for thread in std::mem::take(&mut self.threads) {
            // Reached only when the test gave up, which is the error to report.
            let _ = thread.join();
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Operations that committed or had nothing to commit.
    pub operations: u64,
    /// Operations given up because the database was busy.
    pub busy: u64,
    /// Snapshots held by readers.
    pub reads: u64,
}

impl Stats {
    fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.busy += other.busy;
        self.reads += other.reads;
    }
}

fn start_worker(
    gate: &Arc<Gate>,
    work: impl FnOnce(&Gate) -> Result<Stats> + Send + 'static,
) -> JoinHandle<Result<Stats>> {
    struct Leave(Arc<Gate>);
    impl Drop for Leave {
        fn drop(&mut self) {
            self.0.leave();
        }
    }
    gate.enter();
    let leave = Leave(Arc::clone(gate));
    thread::spawn(move || work(&leave.0))
}

fn write(mut writer: Writer, gate: &Gate) -> Result<Stats> {
    let mut stats = Stats::default();
    while gate.pass() {
        match writer.step() {
            Ok(()) => stats.operations += 1,
            Err(error) if is_busy(&error) => stats.busy += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(stats)
}

fn read(db: &Path, table: &str, mut rng: Rng, gate: &Gate) -> Result<Stats> {
    let mut stats = Stats::default();
    let connection = writer::open(db)?;
    while gate.pass() {
        connection.execute_batch("BEGIN")?;
        let count = format!("SELECT count(*), sum(number) FROM {table}");
        match connection.query_row(&count, [], |row| row.get::<_, i64>(0)) {
            Ok(_) => gate.linger(Duration::from_millis(rng.u64(0..200))),
            Err(error) if is_busy_code(&error) => {}
            Err(error) => return Err(error.into()),
        }
        connection.execute_batch("COMMIT")?;
        stats.reads += 1;
        gate.linger(Duration::from_millis(rng.u64(0..20)));
    }
    Ok(stats)
}

/// Whether somebody else was in the way, which is no fault.
fn is_busy(error: &anyhow::Error) -> bool {
    error.downcast_ref::<rusqlite::Error>().is_some_and(is_busy_code)
}

fn is_busy_code(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
