//! Which databases of a watched directory come and go: decided here, without I/O
//! and without a clock.
//!
//! Events only say where to look. What to do follows from what is found there a
//! moment later, so events that are lost, doubled or out of order do no harm, and a
//! database that is deleted and made anew within one batch simply goes on. The rule
//! that must never break: two changes of one path are never under way at once.
//!
//! Spec: docs/configuration.md, "Database"; cli lesson 17.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Something happened below the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// To a file: made, closed by a writer, moved or deleted.
    File(PathBuf),
    /// A directory appeared.
    Directory(PathBuf),
    /// A directory and all that was in it went.
    DirectoryGone(PathBuf),
    /// Anything may have happened.
    Lost,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, or no file.
    Nothing,
    /// A file that is no SQLite database, or none yet.
    Other,
    /// A SQLite database.
    Database,
    /// A file that is replicated under another name.
    Known,
}

/// What is to be done. [`Roster::done`] must follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Replicate this database.
    Add(PathBuf),
    /// Stop replicating it: its file is gone.
    Remove(PathBuf),
}

/// What is to be looked at now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Directories to list.
    pub(crate) scan: BTreeSet<PathBuf>,
    /// Everything is to be listed, from the top.
    pub(crate) scan_all: bool,
    /// Files to look at.
    pub(crate) look: BTreeSet<PathBuf>,
}

/// The databases of one directory.
#[derive(Debug)]
pub(crate) struct Roster {
    /// Being replicated, or about to be.
    known: BTreeSet<PathBuf>,
    /// Changes under way.
    busy: BTreeSet<PathBuf>,
    /// Files that may still become databases: an application creates the file
    /// first and writes to it later.
    unripe: BTreeMap<PathBuf, Unripe>,
    batch: Batch,
    /// When the batch is due.
    due: Option<Instant>,
    rescan_at: Instant,
    rescan: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Unripe {
    next: Instant,
    pause: Duration,
}

impl Roster {
    /// The databases that are replicated from the start. Everything is looked at
    /// once, at `now`, and then every `rescan`, in case an event was lost.
    pub(crate) fn new(known: impl IntoIterator<Item = PathBuf>, now: Instant, rescan: Duration) -> Self {
        Self {
            known: known.into_iter().collect(),
            busy: BTreeSet::new(),
            unripe: BTreeMap::new(),
            batch: Batch::default(),
            due: None,
            rescan_at: now,
            rescan,
        }
    }

    /// Changes how often everything is looked at.
    pub(crate) fn rescan_every(&mut self, rescan: Duration) {
        self.rescan = rescan;
    }

    /// Takes note of an event; `is_candidate` tells whether a path may be one of the
    /// directory's databases by its name.
    pub(crate) fn note(&mut self, event: Event, now: Instant, is_candidate: impl Fn(&Path) -> bool) {
        match event {
            Event::File(path) => {
                // SQLite makes these beside a database it is about to write to.
                let path = owner_of_side_file(&path).filter(|owner| self.unripe.contains_key(owner)).unwrap_or(path);
                if !is_candidate(&path) {
                    return;
                }
                self.batch.look.insert(path);
            }
            Event::Directory(path) => {
                self.batch.scan.insert(path);
            }
            Event::DirectoryGone(path) => {
                let below = |candidate: &&PathBuf| candidate.starts_with(&path);
                self.batch.look.extend(self.known.iter().filter(below).cloned());
                self.unripe.retain(|candidate, _| !candidate.starts_with(&path));
                if self.batch.look.is_empty() {
                    return;
                }
            }
            Event::Lost => self.batch.scan_all = true,
        }
        // Counted from the first event, so that a steady stream of them does not
        // put it off for ever.
        self.due.get_or_insert(now + BATCH);
    }

    /// When [`take`](Self::take) has something next.
    pub(crate) fn next(&self) -> Instant {
        let unripe = self.unripe.values().map(|unripe| unripe.next).min();
        [self.due, unripe, Some(self.rescan_at)].into_iter().flatten().min().unwrap_or(self.rescan_at)
    }

    /// What is to be looked at, if anything is due. Paths with a change under way
    /// stay for later.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Batch> {
        if now >= self.rescan_at {
            self.rescan_at = now + self.rescan;
            self.batch.scan_all = true;
            self.due = Some(now);
        }
        let ripe: Vec<PathBuf> =
            self.unripe.iter().filter(|(_, it)| it.next <= now).map(|(path, _)| path.clone()).collect();
        let is_due = self.due.is_some_and(|due| due <= now);
        if !is_due && ripe.is_empty() {
            return None;
        }
        for path in &ripe {
            if let Some(unripe) = self.unripe.get_mut(path) {
                unripe.pause = (unripe.pause * 2).min(UNRIPE_PAUSE_MAX);
                unripe.next = now + unripe.pause;
            }
        }
        let mut batch = if is_due { std::mem::take(&mut self.batch) } else { Batch::default() };
        if is_due {
            self.due = None;
        }
        batch.look.extend(ripe);
        let (later, look) = batch.look.into_iter().partition(|path| self.busy.contains(path));
        batch.look = look;
        // Due again when the change under way is done.
        let later: BTreeSet<PathBuf> = later;
        self.batch.look.extend(later);
        Some(batch)
    }

    /// A listing of everything found these files by name. Those that are not known
    /// are to be looked at, and so are known ones that are missing from it.
    pub(crate) fn listed(&self, files: &BTreeSet<PathBuf>, is_complete: bool) -> BTreeSet<PathBuf> {
        let fresh = files.iter().filter(|path| !self.known.contains(*path) && !self.unripe.contains_key(*path));
        let gone = self.known.iter().filter(|path| is_complete && !files.contains(*path));
        fresh.chain(gone).filter(|path| !self.busy.contains(*path)).cloned().collect()
    }

    /// True for a path that is replicated already.
    pub(crate) fn is_known(&self, path: &Path) -> bool {
        self.known.contains(path)
    }

    /// What follows from a look at a path. True in the second place when this is a
    /// file that is passed over, told once.
    pub(crate) fn found(&mut self, path: PathBuf, found: Found, now: Instant) -> (Option<Change>, bool) {
        if self.busy.contains(&path) {
            self.batch.look.insert(path);
            return (None, false);
        }
        let is_known = self.known.contains(&path);
        if found != Found::Other {
            self.unripe.remove(&path);
        }
        match (is_known, found) {
            // Replaced files are the replication's own business.
            (true, Found::Database | Found::Other | Found::Known) | (false, Found::Nothing) => (None, false),
            (false, Found::Known) => (None, true),
            (false, Found::Other) => {
                let is_new = !self.unripe.contains_key(&path);
                let unripe = Unripe { next: now + BATCH, pause: BATCH };
                self.unripe.entry(path).or_insert(unripe);
                (None, is_new)
            }
            (false, Found::Database) => {
                self.known.insert(path.clone());
                self.busy.insert(path.clone());
                (Some(Change::Add(path)), false)
            }
            (true, Found::Nothing) => {
                self.known.remove(&path);
                self.busy.insert(path.clone());
                (Some(Change::Remove(path)), false)
            }
        }
    }

    /// A change is through. One that `failed` is looked at again with the next
    /// listing of everything.
    pub(crate) fn done(&mut self, change: &Change, failed: bool, now: Instant) {
        let (Change::Add(path) | Change::Remove(path)) = change;
        self.busy.remove(path);
        if failed && matches!(change, Change::Add(_)) {
            self.known.remove(path);
        }
        if self.batch.look.contains(path) {
            self.due.get_or_insert(now + BATCH);
        }
    }
}

/// The database a `-wal`, `-shm` or `-journal` belongs to.
fn owner_of_side_file(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let owner = ["-wal", "-shm", "-journal"].into_iter().find_map(|suffix| name.strip_suffix(suffix))?;
    Some(path.with_file_name(owner))
}

/// From the first event to the look: what arrives together is looked at together.
const BATCH: Duration = Duration::from_millis(250);
/// Files that are no databases are looked at again ever less often.
const UNRIPE_PAUSE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
