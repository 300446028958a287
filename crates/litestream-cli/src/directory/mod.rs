//! Directories that are watched: databases that appear are replicated, those whose
//! files go are finished and let go.
//!
//! ```text
//! events ──▶ roster ──250 ms──▶ look at the files ──▶ roster ──▶ register / unregister
//!   (source)          (decides)        (look)          (decides)      (the store)
//! ```
//!
//! Notifications make it quick; a listing of everything once a minute makes it
//! certain. Changes run beside discovery, a bounded number at a time, so that a
//! final sync that takes long holds up nobody else.
//!
//! Spec: docs/configuration.md, "Watching".

mod look;
mod roster;
mod source;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use litestream::Store;
use tokio::task::spawn_blocking;

use crate::config::DbConfig;
use crate::daemon::Daemon;
use look::Listing;
use roster::{Batch, Change, Event, Found, Roster};
use source::Source;

/// Follows every watched directory of the configuration. Never returns.
pub(crate) async fn watch_all(daemon: &Daemon<'_>, store: &Store) -> Infallible {
    let entries = daemon.config.dbs.iter().filter(|entry| entry.dir.is_some() && entry.watch);
    futures_util::future::join_all(entries.map(|entry| watch(daemon, store, entry))).await;
    std::future::pending().await
}

async fn watch(daemon: &Daemon<'_>, store: &Store, entry: &DbConfig) {
    let mut watch = Watch::new(store, entry);
    let mut waiting: VecDeque<Change> = VecDeque::new();
    let mut changes = FuturesUnordered::new();
    loop {
        while changes.len() < MAX_CHANGES
            && let Some(change) = waiting.pop_front()
        {
            changes.push(carry_out(daemon, store, entry, change));
        }
        let next = watch.roster.next();
        tokio::select! {
            events = next_events(&mut watch.source) => watch.note(events),
            Some((change, failed)) = changes.next(), if !changes.is_empty() => {
                watch.roster.done(&change, failed, Instant::now());
            }
            () = tokio::time::sleep_until(next.into()) => {
                if let Some(batch) = watch.roster.take(Instant::now()) {
                    waiting.extend(watch.look_at(batch, store).await);
                }
            }
        }
    }
}

/// One watched directory.
struct Watch {
    entry: Arc<DbConfig>,
    dir: PathBuf,
    roster: Roster,
    /// `None` where the system has no notifications.
    source: Option<Source>,
    /// What could not be read or watched the last time, so that it is told once.
    troubles: BTreeSet<String>,
}

impl Watch {
    fn new(store: &Store, entry: &DbConfig) -> Self {
        let dir = entry.dir.clone().unwrap_or_default();
        let source = Source::new(entry.recursive)
            .inspect_err(|err| tracing::error!(dir = %dir.display(), error = %err, "directory watcher error"))
            .ok();
        let rescan = if source.is_some() { RESCAN } else { RESCAN_BLIND };
        let known = store.databases().into_iter().map(|db| db.path().to_owned()).filter(|path| entry.covers(path));
        let roster = Roster::new(known, Instant::now(), rescan);
        Self { entry: Arc::new(entry.clone()), dir, roster, source, troubles: BTreeSet::new() }
    }

    fn note(&mut self, events: Vec<Event>) {
        let (now, entry) = (Instant::now(), &self.entry);
        for event in events {
            if let Event::Directory(path) = &event
                && crate::config::directory::is_state_directory(path)
            {
                continue;
            }
            self.roster.note(event, now, |path| entry.covers(path));
        }
    }

    /// Looks at what is due and says what follows.
    async fn look_at(&mut self, batch: Batch, store: &Store) -> Vec<Change> {
        let listing = self.list(&batch).await;
        let is_complete = batch.scan_all && listing.errors.is_empty();
        let mut paths = batch.look;
        paths.extend(self.roster.listed(&listing.files, is_complete));
        if paths.is_empty() {
            return Vec::new();
        }
        let paths: BTreeMap<PathBuf, bool> =
            paths.into_iter().map(|path| (path.clone(), self.roster.is_known(&path))).collect();
        let databases: Vec<PathBuf> = store.databases().iter().map(|db| db.path().to_owned()).collect();
        let found = spawn_blocking(move || look::look(&paths, &databases)).await.unwrap_or_default();
        let now = Instant::now();
        found.into_iter().filter_map(|(path, found)| self.decide(path, found, now)).collect()
    }

    fn decide(&mut self, path: PathBuf, found: Found, now: Instant) -> Option<Change> {
        let text = path.display().to_string();
        let (change, is_passed_over) = self.roster.found(path, found, now);
        if is_passed_over {
            let reason = match found {
                Found::Known => "replicated under another name already",
                _ => "no SQLite database",
            };
            tracing::debug!(dir = %self.dir.display(), path = text, reason, "file passed over");
        }
        change
    }

    /// Lists the directories of a batch. Those that are new are watched and then
    /// listed again, so that nothing is missed that came in between.
    async fn list(&mut self, batch: &Batch) -> Listing {
        let mut troubles = BTreeSet::new();
        let mut listing = Listing::default();
        for _ in 0..MAX_ROUNDS {
            let entry = self.entry.clone();
            let from = if batch.scan_all { BTreeSet::from([self.dir.clone()]) } else { batch.scan.clone() };
            if from.is_empty() {
                return listing;
            }
            listing = spawn_blocking(move || {
                let mut listing = Listing::default();
                from.iter().for_each(|dir| listing.add(&entry, dir));
                listing
            })
            .await
            .unwrap_or_default();
            troubles = listing.errors.iter().map(|(path, err)| format!("{}: {err}", path.display())).collect();
            let Some(source) = &mut self.source else { break };
            match source.cover(&listing.directories, batch.scan_all) {
                Ok(false) => break,
                Ok(true) => {}
                Err(err) => {
                    troubles.insert(format!("cannot watch all directories, looking at intervals instead: {err}"));
                    self.roster.rescan_every(RESCAN_BLIND);
                    break;
                }
            }
        }
        for trouble in troubles.difference(&self.troubles) {
            tracing::error!(dir = %self.dir.display(), error = trouble, "directory watcher error");
        }
        if batch.scan_all {
            self.troubles = troubles;
        }
        listing
    }
}

async fn next_events(source: &mut Option<Source>) -> Vec<Event> {
    match source {
        Some(source) => source.next().await,
        None => std::future::pending().await,
    }
}

/// Does what the roster has decided. Returns it, and whether it failed.
async fn carry_out(daemon: &Daemon<'_>, store: &Store, entry: &DbConfig, change: Change) -> (Change, bool) {
    let dir = entry.dir.clone().unwrap_or_default();
    let failed = match &change {
        Change::Add(path) => {
            let Some(db) = entry.derive(path) else { return (change, true) };
            match daemon.register(store, &db).await {
                Ok(()) => {
                    tracing::info!(dir = %dir.display(), path = %path.display(), "added database to replication");
                    false
                }
                Err(err) => {
                    tracing::error!(dir = %dir.display(), path = %path.display(), error = %format_args!("{err:#}"), "register database with store");
                    true
                }
            }
        }
        Change::Remove(path) => {
            let timeout = daemon.config.shutdown_sync_timeout.to_duration();
            match store.unregister(path, timeout).await {
                Ok(report) => {
                    let unsent = report.and_then(|report| report.unsent);
                    if let Some(reason) = &unsent {
                        tracing::error!(dir = %dir.display(), path = %path.display(), error = reason, "database was deleted before everything was replicated");
                    }
                    tracing::info!(dir = %dir.display(), path = %path.display(), "removed database from replication");
                    false
                }
                Err(err) => {
                    tracing::error!(dir = %dir.display(), path = %path.display(), error = %err, "unregister database from store");
                    true
                }
            }
        }
    };
    (change, failed)
}

/// Between two listings of everything.
const RESCAN: Duration = Duration::from_secs(60);
/// The same without notifications.
const RESCAN_BLIND: Duration = Duration::from_secs(5);
/// Databases of one directory that are added or removed at once.
const MAX_CHANGES: usize = 50;
/// Listings in a row while new directories keep appearing.
const MAX_ROUNDS: usize = 8;
