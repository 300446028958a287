//! The model of SQLite's WAL beside SQLite itself: the same tasks on both, and after
//! each the whole wal-index and every answer are compared.
//!
//! The connections live in one process. SQLite's unix VFS keeps locks between them in
//! the same masks, by the same rules, as `fcntl` does between processes; what only two
//! processes can show, the loss of `fcntl` locks, is not compared here.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use litestream_model::connection::{Connection, Mode, Outcome, Task, run};
use litestream_model::shared::{Generation, Shared};

/// What one connection does next. Answers are the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Do(Task),
    End,
    Reconnect,
}

const ACTS: [Act; 10] = [
    Act::Do(Task::Read),
    Act::Do(Task::Write),
    Act::Do(Task::RollBack),
    Act::Do(Task::Lock),
    Act::Do(Task::Checkpoint(Mode::Passive)),
    Act::Do(Task::Checkpoint(Mode::Full)),
    Act::Do(Task::Checkpoint(Mode::Restart)),
    Act::Do(Task::Checkpoint(Mode::Truncate)),
    Act::End,
    Act::Reconnect,
];

/// Both sides.
struct Pair {
    dir: tempfile::TempDir,
    real: Vec<rusqlite::Connection>,
    /// Read, never closed before the connections: closing it would drop their locks.
    index: File,
    shared: Shared,
    model: Vec<Connection>,
    salts: (u32, u32),
    restarts: u32,
}

impl Pair {
    fn new(connections: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        std::fs::write(&path, template()).unwrap();
        let real: Vec<_> = (0..connections).map(|_| open(&path)).collect();
        for connection in &real {
            connection.query_row("SELECT x FROM t", [], |_| Ok(())).unwrap();
        }
        let index = File::open(dir.path().join("db-shm")).unwrap();
        let mut pair = Self {
            dir,
            real,
            index,
            shared: Shared::new(200),
            model: vec![Connection::default(); connections],
            salts: (0, 0),
            restarts: 0,
        };
        // The first read recovered an empty log and went by slot 0.
        pair.compare("at the start");
        pair
    }

    fn is_possible(&self, c: usize, act: Act) -> bool {
        let idle = self.model[c].is_free();
        match act {
            Act::Do(Task::Read | Task::Lock | Task::Checkpoint(_)) | Act::Reconnect => idle,
            Act::Do(_) => true,
            Act::End => !idle,
        }
    }

    fn act(&mut self, c: usize, act: Act, context: &str) {
        let end = self.shared.end();
        self.shared.places[0] = Some(end);
        let answers = match act {
            Act::End => {
                self.model[c].end();
                self.real[c].execute_batch("ROLLBACK").unwrap();
                None
            }
            Act::Reconnect => {
                self.model[c].die();
                let fresh = open(&self.dir.path().join("db"));
                fresh.query_row("SELECT x FROM t", [], |_| Ok(())).unwrap();
                self.model[c].start(Task::Read);
                run(&mut self.shared, &mut self.model, c).unwrap();
                self.model[c].end();
                // Never the last one: another is open.
                std::mem::replace(&mut self.real[c], fresh).close().unwrap();
                None
            }
            Act::Do(task) => {
                self.model[c].start(task);
                let modelled = run(&mut self.shared, &mut self.model, c).unwrap();
                Some((modelled, perform(&self.real[c], task)))
            }
        };
        if let Some((modelled, real)) = answers {
            assert_eq!(modelled, real, "{context}: answer of SQLite on the right");
        }
        let generation = self.shared.places[0].unwrap().generation;
        let (before, after) = (self.salts, self.compare(context));
        let seen = if before == after {
            end.generation
        } else if after.0 == before.0.wrapping_add(1) {
            Generation::Before
        } else {
            Generation::Other
        };
        if end.generation != Generation::Bare {
            assert_eq!(generation, seen, "{context}: salts went from {before:?} to {after:?}");
            self.restarts += u32::from(before != after);
        }
    }

    /// Compares the wal-index and returns the salts.
    fn compare(&mut self, context: &str) -> (u32, u32) {
        let mut raw = [0; 136];
        self.index.read_exact_at(&mut raw, 0).unwrap();
        let word = |i: usize| u32::from_ne_bytes(raw[i..i + 4].try_into().unwrap());
        let small = |i: usize| if word(i) == u32::MAX { Shared::UNUSED } else { u8::try_from(word(i)).unwrap() };
        let marks = [small(100), small(104), small(108), small(112), small(116)];
        let real = (small(16), small(96), marks);
        let model = (self.shared.frames, self.shared.backfilled, self.shared.marks);
        assert_eq!(model, real, "{context}: mxFrame, nBackfill and read marks of SQLite on the right");
        let big = |i: usize| u32::from_be_bytes(raw[i..i + 4].try_into().unwrap());
        self.salts = (big(32), big(36));
        assert_eq!(self.shared.is_bare, self.salts == (0, 0), "{context}: {:?}", self.salts);
        self.salts
    }
}

/// A database in WAL mode that everybody has closed: the last one copies everything and
/// deletes the log.
fn template() -> &'static [u8] {
    static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let first = open(&path);
        first
            .execute_batch(
                "PRAGMA journal_mode = wal; CREATE TABLE t (x); INSERT INTO t VALUES (0); CREATE TABLE big (x);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12)
                 INSERT INTO big SELECT zeroblob(3000) FROM n;",
            )
            .unwrap();
        first.close().unwrap();
        std::fs::read(path).unwrap()
    })
}

fn open(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection
        .execute_batch(
            "PRAGMA synchronous = off; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 5; PRAGMA cache_spill = 5",
        )
        .unwrap();
    connection
}

fn perform(connection: &rusqlite::Connection, task: Task) -> Outcome {
    let done = |result: rusqlite::Result<()>| match result {
        Ok(()) => Outcome::Ok,
        Err(rusqlite::Error::SqliteFailure(failure, _)) if failure.code == rusqlite::ErrorCode::DatabaseBusy => {
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK").unwrap();
            }
            Outcome::Busy
        }
        Err(other) => panic!("{task:?}: {other}"),
    };
    let begin = if connection.is_autocommit() { "BEGIN;" } else { "" };
    match task {
        Task::None => unreachable!("no act is none"),
        Task::Read => done(connection.execute_batch("BEGIN; SELECT x FROM t")),
        Task::Lock => done(connection.execute_batch("BEGIN IMMEDIATE")),
        Task::Write => done(connection.execute_batch(&format!("{begin} UPDATE t SET x = x + 1; COMMIT"))),
        // So many pages that they spill into the log before they are rolled back.
        Task::RollBack => {
            done(connection.execute_batch(&format!("{begin} UPDATE big SET x = randomblob(3000); ROLLBACK")))
        }
        Task::Checkpoint(mode) => connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode:?})"), [], |row| {
                // No counts are -1 in both columns.
                let count = |column| row.get::<_, i64>(column).map(|count| u8::try_from(count).ok());
                let counts = count(1)?.zip(count(2)?);
                Ok(Outcome::Checkpoint { busy: row.get::<_, i64>(0)? != 0, counts })
            })
            .unwrap(),
    }
}

/// Four connections, long histories.
#[test]
fn the_model_and_sqlite_agree_on_random_histories() {
    let (mut acts, mut restarts) = (0, 0);
    for seed in 0..80 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pair = Pair::new(4);
        // Some histories have few readers, so that logs get to start over.
        let calm = rng.bool();
        for turn in 0..80 {
            let c = rng.usize(..4);
            let act = ACTS[rng.usize(..ACTS.len())];
            if (calm && matches!(act, Act::Do(Task::Read | Task::Lock)) && rng.u8(..4) > 0) || !pair.is_possible(c, act)
            {
                continue;
            }
            pair.act(c, act, &format!("seed {seed}, turn {turn}, connection {c}, {act:?}"));
            acts += 1;
        }
        restarts += pair.restarts;
    }
    println!("{acts} acts, {restarts} restarts of the log");
    assert!(acts > 4000 && restarts > 400, "{acts} acts and {restarts} restarts are too few");
}

/// Every order of three acts of two connections that is possible, after a commit and after
/// a commit that was copied into the database.
#[test]
fn the_model_and_sqlite_agree_on_every_order_of_three_acts() {
    let mut histories = 0;
    for copied in [false, true] {
        for code in 0..ACTS.len() * (2 * ACTS.len()).pow(2) {
            let mut digits = code;
            let mut digit = |base: usize| {
                let digit = digits % base;
                digits /= base;
                digit
            };
            // Which of the two acts first makes no difference.
            let first = (0, ACTS[digit(ACTS.len())]);
            let (second, third) = (digit(2 * ACTS.len()), digit(2 * ACTS.len()));
            let order = [first, (second % 2, ACTS[second / 2]), (third % 2, ACTS[third / 2])];
            if !is_possible_order(&order) {
                continue;
            }
            let mut pair = Pair::new(3);
            pair.act(2, Act::Do(Task::Write), "the first commit");
            if copied {
                pair.act(2, Act::Do(Task::Checkpoint(Mode::Passive)), "the first checkpoint");
            }
            for (c, act) in order {
                if pair.is_possible(c, act) {
                    pair.act(c, act, &format!("copied: {copied}, {order:?} at {c}, {act:?}"));
                }
            }
            histories += 1;
        }
    }
    println!("{histories} histories");
    assert!(histories > 2000, "only {histories} histories");
}

/// Whether each connection can do what it is asked to, as far as its own acts decide; a
/// lock that is refused leaves nothing to end.
fn is_possible_order(order: &[(usize, Act)]) -> bool {
    let mut open = [false; 2];
    order.iter().all(|&(c, act)| match act {
        Act::Do(Task::Read | Task::Lock) => !std::mem::replace(&mut open[c], true),
        Act::Do(Task::Write | Task::RollBack) => {
            open[c] = false;
            true
        }
        Act::End => std::mem::replace(&mut open[c], false),
        Act::Do(_) | Act::Reconnect => !open[c],
    })
}
