//! What is wrong with one database's replica, from the moment it is found until
//! it is healed.
//!
//! Other programs see it too: while there is a problem, its text stands in the
//! file `replica-problem` of the state directory, where `litestream status` looks.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::FileId;
use litestream_replica::clock::Clock;

use crate::disk::Disk;
use crate::meta;

/// Problems of one replica.
pub(crate) struct Health {
    db: PathBuf,
    file: PathBuf,
    disk: Disk,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    problem: Option<ReplicaProblem>,
    logged_at: Option<Timestamp>,
    found: u64,
    healed: u64,
    /// Stored files whose bytes are wrong and that no local copy has replaced.
    damaged: BTreeSet<FileId>,
}

/// Something a replica lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaProblem {
    /// When it was found.
    pub since: Timestamp,
    /// What it is.
    pub text: String,
}

/// The problem of a replica as its daemon left it in the state directory; `None`
/// when there is none.
///
/// # Errors
/// When the file exists and cannot be read.
pub fn replica_problem(meta: &Path) -> io::Result<Option<String>> {
    let mut file = match File::open(meta.join(FILE)) {
        Ok(file) => file.take(MAX_LEN),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

impl Health {
    pub(crate) fn new(db: &Path, meta: &Path, disk: Disk, clock: Arc<dyn Clock>) -> Self {
        Self { db: db.to_owned(), file: meta.join(FILE), disk, clock, state: Mutex::default() }
    }

    /// A problem was found. Logged once, then every few minutes while it lasts.
    pub(crate) fn found(&self, text: &str) {
        let now = self.clock.now();
        let mut state = self.state();
        if state.problem.is_none() {
            state.found += 1;
        }
        let since = state.problem.as_ref().map_or(now, |problem| problem.since);
        let problem = ReplicaProblem { since, text: text.to_owned() };
        let is_new = state.problem.as_ref() != Some(&problem);
        let is_due = |at| now.duration_since(at) >= jiff::SignedDuration::try_from(LOG_INTERVAL).unwrap_or_default();
        if is_new || state.logged_at.is_none_or(is_due) {
            state.logged_at = Some(now);
            tracing::warn!(db = %self.db.display(), problem = text, %since, "replica is not healthy, healing it");
        }
        state.problem = Some(problem);
        drop(state);
        if is_new {
            // Only for whoever looks from outside; the log line above has it.
            if let Err(err) = self.leave_note(&format!("since {since}: {text}\n")) {
                tracing::debug!(path = %self.file.display(), error = %err, "cannot leave a note");
            }
        }
    }

    fn leave_note(&self, note: &str) -> io::Result<()> {
        let file = self.disk.create(&self.file)?;
        meta::own_file(&self.db, file.as_file())?;
        file.write_all_at(note.as_bytes(), 0)
    }

    /// Everything found so far is put right, or covered by a snapshot.
    pub(crate) fn healed(&self) {
        let mut state = self.state();
        state.logged_at = None;
        let problem = state.problem.take();
        state.healed += u64::from(problem.is_some());
        drop(state);
        if let Some(ReplicaProblem { text, .. }) = problem {
            tracing::info!(db = %self.db.display(), problem = text, "replica is healthy again");
        }
        // A note may be left from an earlier process.
        match self.disk.remove(&self.file) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.file.display(), error = %err, "cannot remove the note of a healed problem");
            }
            _ => {}
        }
    }

    /// The bytes of this stored file are wrong.
    pub(crate) fn is_damaged(&self, id: FileId) {
        self.state().damaged.insert(id);
    }

    /// A sound copy stands in its place now, or it is gone.
    pub(crate) fn replaced(&self, id: FileId) {
        self.state().damaged.remove(&id);
    }

    /// Stored files that must not be used.
    pub(crate) fn damaged(&self) -> BTreeSet<FileId> {
        self.state().damaged.clone()
    }

    /// The problem that lasts, and how many were found and healed so far.
    pub(crate) fn report(&self) -> (Option<ReplicaProblem>, u64, u64) {
        let state = self.state();
        (state.problem.clone(), state.found, state.healed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const FILE: &str = "replica-problem";
const LOG_INTERVAL: Duration = Duration::from_secs(300);
/// More than any text of ours.
const MAX_LEN: u64 = 64 << 10;
