//! The application: writers, readers and checkpointers of the database, and every
//! committed state it ever had.
//!
//! Its connections are real ones of this process. They never wait: a lock that
//! somebody else holds is given up on. Any error but a held lock is a violation,
//! because the application must not notice that it is replicated.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::chance::{Draws, digest};
use crate::profile::Profile;
use crate::wal::Log;

/// See the module's description.
pub(crate) struct Application {
    path: PathBuf,
    profile: Profile,
    open: Option<Open>,
    counter: u64,
    /// A digest of each committed state, oldest first; the last is the present one.
    states: Vec<u64>,
    /// The states themselves, for whoever wants to see how a wrong one differs.
    images: Option<Vec<Vec<u8>>>,
    /// How much of the log is on the disk for sure.
    flushed: Flushed,
    /// Transactions committed.
    pub(crate) commits: u64,
    /// Attempts that met somebody else's lock.
    pub(crate) busy: u64,
}

struct Open {
    writer: Connection,
    /// Holds a read transaction.
    reader: Option<Connection>,
    /// Looks at the committed state.
    probe: Connection,
}

#[derive(Clone, Copy, Default)]
struct Flushed {
    salts: u64,
    frames: usize,
}

impl Application {
    /// Makes the database.
    pub(crate) fn create(path: &Path, profile: Profile, keeps_images: bool) -> Result<Self> {
        let mut application = Self {
            path: path.to_owned(),
            profile,
            open: None,
            counter: 0,
            states: Vec::new(),
            images: keeps_images.then(Vec::new),
            flushed: Flushed::default(),
            commits: 0,
            busy: 0,
        };
        let db = Connection::open(path)?;
        db.execute_batch(&format!(
            "PRAGMA page_size = {}; PRAGMA journal_mode = wal;
             CREATE TABLE t (id INTEGER PRIMARY KEY, x); CREATE TABLE log (n INTEGER)",
            profile.page_size
        ))?;
        drop(db);
        application.open()?;
        Ok(application)
    }

    /// How many states there have been.
    pub(crate) fn state_count(&self) -> usize {
        self.states.len()
    }

    /// The present state.
    pub(crate) fn state(&self) -> u64 {
        self.states.last().copied().unwrap_or(0)
    }

    /// True when the database was in this state, between the `first` and the `last`
    /// state counted from zero, both included.
    pub(crate) fn was_in(&self, state: u64, first: usize, last: usize) -> bool {
        let last = last.min(self.states.len().saturating_sub(1));
        self.states.get(first..=last).is_some_and(|states| states.contains(&state))
    }

    /// When the database was in this state, for messages.
    pub(crate) fn times_of(&self, state: u64) -> Vec<usize> {
        (0..self.states.len()).filter(|at| self.states.get(*at) == Some(&state)).collect()
    }

    /// Opens what is closed.
    pub(crate) fn open(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let writer = self.connect()?;
        let level = if self.profile.is_synchronous_full { "full" } else { "normal" };
        writer.execute_batch(&format!(
            "PRAGMA synchronous = {level}; PRAGMA wal_autocheckpoint = {}; PRAGMA cache_size = 8",
            self.profile.autocheckpoint
        ))?;
        let probe = self.connect()?;
        self.open = Some(Open { writer, reader: None, probe });
        self.note()
    }

    fn connect(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&self.path, flags).context("open database")?;
        // Nobody waits in simulated time.
        db.busy_timeout(std::time::Duration::ZERO)?;
        Ok(db)
    }

    /// Closes all connections; the last one to leave takes the log away.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Remembers the present state if it is a new one.
    fn note(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let image = open.probe.serialize("main").context("read database")?;
        let state = digest(&*image);
        if self.states.last() != Some(&state) {
            self.states.push(state);
            if let Some(images) = &mut self.images {
                images.push(image.to_vec());
            }
        }
        Ok(())
    }

    /// How a restored database differs from the states most like it: for each the pages,
    /// and the newest state in which each of those was as restored.
    pub(crate) fn explain(&self, restored: &[u8]) -> String {
        let Some(images) = &self.images else { return "run it with --verbose to see pages".to_owned() };
        let page_size = self.profile.page_size as usize;
        let page =
            |image: &[u8], number: usize| image.get(number * page_size..(number + 1) * page_size).map(<[u8]>::to_vec);
        let count = |image: &[u8]| image.len().max(restored.len()) / page_size;
        let different = |image: &[u8]| -> Vec<usize> {
            (0..count(image)).filter(|number| page(image, *number) != page(restored, *number)).collect()
        };
        let mut nearest: Vec<(usize, Vec<usize>)> =
            images.iter().enumerate().map(|(at, image)| (at, different(image))).collect();
        nearest.sort_by_key(|(_, pages)| pages.len());
        let told = nearest.iter().take(3).map(|(at, pages)| {
            let origins: Vec<String> = pages
                .iter()
                .map(|number| {
                    let states: Vec<usize> = (0..images.len())
                        .filter(|at| images.get(*at).and_then(|image| page(image, *number)) == page(restored, *number))
                        .collect();
                    format!("page {} as in {:?}..{:?}", number + 1, states.first(), states.last())
                })
                .collect();
            format!("\n  state {at} but for {}", origins.join(", "))
        });
        told.collect()
    }

    /// Somebody is about to flush the log, as a checkpoint does first.
    pub(crate) fn log_is_flushed(&mut self) {
        let log = self.log();
        self.flushed = Flushed { salts: log.salts, frames: log.frames };
    }

    fn log(&self) -> Log {
        Log::parse(&fs::read(suffixed(&self.path, "-wal")).unwrap_or_default())
    }

    /// Does one thing. Returns what, for the trace.
    pub(crate) fn act(&mut self, draws: &mut Draws) -> Result<&'static str> {
        self.open()?;
        let (what, result) = self.try_act(draws)?;
        match result {
            Ok(()) => {}
            Err(rusqlite::Error::SqliteFailure(err, _))
                if matches!(err.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) =>
            {
                self.busy += 1;
                if let Some(open) = &self.open
                    && !open.writer.is_autocommit()
                {
                    open.writer.execute_batch("ROLLBACK")?;
                }
            }
            // A statement that an open transaction forbids.
            Err(rusqlite::Error::SqliteFailure(err, Some(text)))
                if err.code == ErrorCode::Unknown && text.contains("transaction") => {}
            Err(err) => return Err(err).context(format!("application: {what}")),
        }
        let autocheckpoint = self.profile.autocheckpoint as usize;
        if autocheckpoint > 0 {
            let log = self.log();
            if log.frames >= autocheckpoint {
                self.flushed = Flushed { salts: log.salts, frames: log.frames };
            }
        }
        self.note()?;
        Ok(what)
    }

    fn try_act(&mut self, draws: &mut Draws) -> Result<(&'static str, rusqlite::Result<()>)> {
        let choice = draws.below(100);
        let is_writing = self.open.as_ref().is_some_and(|open| !open.writer.is_autocommit());
        let (what, statements) = match choice {
            0..45 => ("commit", vec![self.rows(draws, 3)]),
            45..52 => ("commit many pages", vec![self.rows(draws, 40)]),
            52..57 => {
                let part = draws.below(5) + 1;
                ("delete", vec![format!("DELETE FROM t WHERE id % 6 < {part}"), self.rows(draws, 1)])
            }
            57..61 if !is_writing => ("roll back", vec![format!("BEGIN; {}; ROLLBACK", self.rows(draws, 30))]),
            61..66 if is_writing => ("end a transaction", vec![self.rows(draws, 4), "COMMIT".to_owned()]),
            61..66 => ("begin a transaction", vec!["BEGIN IMMEDIATE".to_owned(), self.rows(draws, 4)]),
            66..78 => {
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];
                let mode = mode.get(usize::try_from(draws.below(4)).unwrap_or(0)).copied().unwrap_or("PASSIVE");
                self.log_is_flushed();
                let Some(open) = &self.open else { return Ok(("closed", Ok(()))) };
                return Ok((mode, open.probe.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))));
            }
            78..86 => return Ok(("reader", self.toggle_reader())),
            86..89 => ("vacuum", vec!["VACUUM".to_owned()]),
            89..92 => {
                let n = draws.below(3);
                let make = vec![
                    format!("CREATE TABLE IF NOT EXISTS extra{n} (a, b)"),
                    format!("INSERT INTO extra{n} VALUES ({}, 2)", draws.below(1000)),
                ];
                ("schema", if draws.happens(500) { make } else { vec![format!("DROP TABLE IF EXISTS extra{n}")] })
            }
            92..97 => ("five commits", (0..5).map(|_| self.rows(draws, 1)).collect()),
            _ => {
                self.close();
                self.open()?;
                return Ok(("reopen", Ok(())));
            }
        };
        for statement in statements {
            let Some(open) = &self.open else { break };
            if let Err(err) = open.writer.execute_batch(&statement) {
                return Ok((what, Err(err)));
            }
            self.commits += u64::from(open.writer.is_autocommit() && what != "roll back");
            self.note()?;
        }
        Ok((what, Ok(())))
    }

    /// Statements that change something for sure, as one transaction when none is open.
    fn rows(&mut self, draws: &mut Draws, most: u64) -> String {
        let mut sql = String::new();
        let count = draws.below(most) + 1;
        let is_writing = self.open.as_ref().is_some_and(|open| !open.writer.is_autocommit());
        let wrap = !is_writing;
        if wrap {
            sql += "SAVEPOINT s;";
        }
        for _ in 0..count.min(4) {
            self.counter += 1;
            let (id, len) = (draws.below(60), draws.below(u64::from(self.profile.page_size)) + 10);
            sql += &format!(
                "INSERT OR REPLACE INTO t VALUES ({id}, CAST({} || printf('%.{len}c', '{}') AS BLOB));",
                self.counter,
                char::from(b'a' + u8::try_from(draws.below(26)).unwrap_or(0)),
            );
        }
        if count > 4 {
            self.counter += 1;
            sql += &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
                 INSERT OR REPLACE INTO t SELECT i * 2, CAST({} || printf('%.{}c', 'z') AS BLOB) FROM n;",
                self.counter, self.profile.page_size
            );
        }
        if wrap {
            sql += "RELEASE s";
        }
        sql
    }

    fn toggle_reader(&mut self) -> rusqlite::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        match open.reader.take() {
            Some(reader) => {
                drop(reader);
                Ok(())
            }
            None => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let reader = Connection::open_with_flags(&self.path, flags)?;
                reader.execute_batch("BEGIN")?;
                reader.query_row("SELECT count(*) FROM t", [], |_| Ok(()))?;
                open.reader = Some(reader);
                Ok(())
            }
        }
    }

    /// Another database takes the place of this one, as when a person restores an old
    /// copy: the application is stopped meanwhile.
    pub(crate) fn replace_file(&mut self, draws: &mut Draws) -> Result<()> {
        self.open()?;
        let fresh = suffixed(&self.path, ".new");
        if fresh.exists() {
            fs::remove_file(&fresh)?;
        }
        if let Some(open) = &self.open {
            if !open.writer.is_autocommit() {
                open.writer.execute_batch("ROLLBACK")?;
            }
            let copied = open.probe.execute("VACUUM INTO ?1", [fresh.to_string_lossy()]);
            if copied.is_err() {
                return Ok(());
            }
        }
        let copy = Connection::open(&fresh)?;
        self.counter += 1;
        copy.execute_batch(&format!(
            "PRAGMA journal_mode = wal; DELETE FROM t WHERE id % 7 < {}; INSERT INTO log VALUES ({})",
            draws.below(4),
            self.counter
        ))?;
        copy.close().map_err(|(_, err)| err)?;
        self.close();
        for suffix in ["-wal", "-shm"] {
            let side = suffixed(&self.path, suffix);
            if side.exists() {
                fs::remove_file(side)?;
            }
        }
        fs::rename(&fresh, &self.path)?;
        self.flushed = Flushed::default();
        self.open()
    }

    /// The machine loses power. Nothing else may have the database open.
    ///
    /// Of the log there remains what was flushed and, beyond, some of the rest: it may
    /// end at any frame, and hold rubbish after that. The database file is what
    /// checkpoints made of it, all of which the flushed part of the log repeats.
    pub(crate) fn lose_power(&mut self, draws: &mut Draws) -> Result<()> {
        let wal_path = suffixed(&self.path, "-wal");
        let mut wal = fs::read(&wal_path).unwrap_or_default();
        let mut db = Vec::new();
        File::open(&self.path)?.read_to_end(&mut db)?;
        let log = Log::parse(&wal);
        let flushed = if self.flushed.salts == log.salts { self.flushed.frames.min(log.frames) } else { 0 };
        let first = if self.profile.is_synchronous_full { log.frames } else { flushed };
        let kept = first + usize::try_from(draws.below((log.frames - first) as u64 + 1)).unwrap_or(0);
        let end = log.len_of(kept).min(wal.len());
        match draws.below(3) {
            0 => wal.truncate(end),
            1 => wal.get_mut(end..).unwrap_or_default().fill(0),
            // Some blocks of the rest made it.
            _ => {
                for block in wal.get_mut(end..).unwrap_or_default().chunks_mut(512) {
                    if draws.happens(500) {
                        block.fill(0);
                    }
                }
                // Nothing says that the next frame is not whole; but one that was not
                // flushed may as well be torn.
                if let Some(byte) = wal.get_mut(end + 30) {
                    *byte ^= 0xff;
                }
            }
        }
        let earliest = self.states.len().saturating_sub(1 + log.commits.iter().filter(|end| **end > kept).count());
        self.close();
        fs::write(&wal_path, &wal)?;
        let mut file = File::options().write(true).open(&self.path)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&db)?;
        file.set_len(db.len() as u64)?;
        drop(file);
        let shm = suffixed(&self.path, "-shm");
        if shm.exists() {
            fs::remove_file(shm)?;
        }
        self.flushed = Flushed { salts: log.salts, frames: kept };
        let last = self.states.len().saturating_sub(1);
        self.open()?;
        // A check of this model: SQLite recovers to one of the states that could survive.
        let is_known = self.was_in(self.state(), earliest.saturating_sub(1), last);
        ensure!(is_known, "model: after a loss of power the database is in no state it could be in");
        Ok(())
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
