//! What one database's replica needs done, and when. No I/O, no clock.
//!
//! An entry exists only while there is something to do: an idle database has an
//! empty agenda, hence no timer and no wake-up. An entry's time is set when the
//! need arises and is the next boundary of its interval, so that everything that
//! happens in between is done in one go.
//!
//! Spec: store-and-restore §5.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::{Inventory, Level};
use ltx::Txid;

use crate::hole::images;
use crate::levels::{after, next_boundary};
use crate::options::StoreOptions;

/// One thing to do, in the order in which they are done when several are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// List the store and see whether it is as it should be.
    Validate,
    /// Merge files of the level below into this one.
    Compact(Level),
    /// Delete level-0 files that were merged and are old enough.
    ExpireL0,
    /// Make a snapshot if one is due, and delete what lies before the window.
    Snapshot,
}

/// What may run beside what: a slow snapshot must not hold up the compactions of
/// other databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Everything that is quick.
    Levels,
    /// Whole-database images.
    Snapshots,
}

impl Lane {
    pub(crate) const BOTH: [Self; 2] = [Self::Levels, Self::Snapshots];

    /// Jobs that may run at once, over all databases.
    pub(crate) fn room(self) -> usize {
        match self {
            Self::Levels => 8,
            Self::Snapshots => 2,
        }
    }
}

impl Task {
    pub(crate) fn lane(self) -> Lane {
        if self == Self::Snapshot { Lane::Snapshots } else { Lane::Levels }
    }
}

/// What is known about a database when its agenda is drawn up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    /// What the replica holds.
    pub(crate) inventory: &'a Inventory,
    /// Newest captured transaction.
    pub(crate) position: Txid,
    /// The database's page size in bytes; zero while unknown.
    pub(crate) page_len: u32,
    /// Local level-0 files beside the newest.
    pub(crate) has_old_local_files: bool,
}

/// The things to do for one database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agenda {
    entries: BTreeMap<Task, Timestamp>,
    /// Nothing is done before this moment, after a failure.
    not_before: Option<Timestamp>,
    failures: u32,
    started: bool,
}

impl Agenda {
    /// Enters what has to be done and takes out what has not.
    ///
    /// The first time, what was left undone by an earlier process is due at once.
    pub(crate) fn review(&mut self, situation: &Situation<'_>, options: &StoreOptions, now: Timestamp) {
        let Situation { inventory, position, .. } = *situation;
        let at_first = (!std::mem::replace(&mut self.started, true)).then_some(now);
        let boundary = |interval| at_first.unwrap_or_else(|| next_boundary(now, interval));
        let newest = |level: Level| inventory.level(level).iter().map(|file| file.id.max).max().unwrap_or(Txid::NONE);
        let only_anchor = is_only_anchor(situation);

        for (level, interval) in options.levels.iter() {
            let below = level.get().checked_sub(1).and_then(Level::new).unwrap_or(Level::L0);
            let has_input = newest(below) > newest(level) && !(below == Level::L0 && only_anchor);
            self.enter(Task::Compact(level), has_input, || boundary(interval));
        }
        let check = options.l0_retention_check_interval;
        let expiry = expiry_of_l0(situation, options);
        self.enter(Task::ExpireL0, expiry.is_some(), || {
            next_boundary(expiry.map_or(now, |expiry| expiry.max(now)), check)
        });
        let lacks_snapshot = images(inventory).next_back().is_none_or(|image| image.id.max < position);
        let has_superseded = options.retention_enabled && images(inventory).nth(1).is_some();
        let wants_snapshot = lacks_snapshot && !position.is_none() && !only_anchor;
        self.enter(Task::Snapshot, wants_snapshot || has_superseded, || boundary(options.snapshot_interval));
        let validation = options.validation_interval;
        self.enter(Task::Validate, validation.is_some(), || next_boundary(now, validation.unwrap_or_default()));
    }

    /// When something of this lane is due next.
    pub(crate) fn next(&self, lane: Lane) -> Option<Timestamp> {
        let first = self.entries.iter().filter(|(task, _)| task.lane() == lane).map(|(_, at)| *at).min()?;
        Some(self.not_before.map_or(first, |not_before| not_before.max(first)))
    }

    /// Takes out what is due now, in the order to do it.
    pub(crate) fn take_due(&mut self, lane: Lane, now: Timestamp) -> Vec<Task> {
        let due: Vec<Task> = self
            .entries
            .iter()
            .filter(|(task, at)| task.lane() == lane && **at <= now)
            .map(|(task, _)| *task)
            .collect();
        for task in &due {
            self.entries.remove(task);
        }
        due
    }

    /// Enters a task again that failed; everything waits a little, longer each time.
    pub(crate) fn failed(&mut self, tasks: impl IntoIterator<Item = Task>, now: Timestamp) -> Duration {
        for task in tasks {
            self.entries.entry(task).or_insert(now);
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(MAX_PAUSE);
        self.failures += 1;
        self.not_before = Some(after(now, pause));
        pause
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    fn enter(&mut self, task: Task, wanted: bool, at: impl FnOnce() -> Timestamp) {
        if wanted {
            self.entries.entry(task).or_insert_with(at);
        } else {
            self.entries.remove(&task);
        }
    }
}

/// When the next level-0 file may go, as far as the names tell.
fn expiry_of_l0(situation: &Situation<'_>, options: &StoreOptions) -> Option<Timestamp> {
    let inventory = situation.inventory;
    let merged = (1..=8)
        .filter_map(Level::new)
        .flat_map(|level| inventory.level(level).iter().map(|file| file.id.max).max())
        .max()
        .unwrap_or(Txid::NONE);
    let old = match inventory.level(Level::L0) {
        [first, _, ..] if first.id.max <= merged => Some(first),
        _ => None,
    };
    let remote = old.filter(|_| options.retention_enabled && !options.l0_retention.is_zero());
    match remote {
        Some(first) => Some(after(first.created_at, options.l0_retention)),
        None => situation.has_old_local_files.then_some(Timestamp::MIN),
    }
}

/// True when nothing has happened since the newest image but one file of a single
/// page right behind it, such as the one that makes level 0 carry the newest
/// TXID. That is not worth a compaction or another image.
pub(crate) fn is_only_anchor(situation: &Situation<'_>) -> bool {
    let Situation { inventory, position, page_len, .. } = *situation;
    let Some(image) = images(inventory).next_back() else { return false };
    let Some(file) = inventory.level(Level::L0).last() else { return false };
    file.id.max == position
        && file.id.min == image.id.max.next()
        && file.id.max == image.id.max.next()
        && file.size <= u64::from(page_len) + ONE_PAGE_OVERHEAD
}

/// Header, page header, size of the frame, end of pages, index, trailer, and what
/// LZ4 adds to a page that does not shrink.
const ONE_PAGE_OVERHEAD: u64 = 512;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(300);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod tests {
    use litestream_replica::{FileId, FileInfo};

    use super::*;

    const NOON: &str = "2026-03-02T12:00:10Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn file(level: u8, min: u64, max: u64, size: u64) -> FileInfo {
        let id = FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
        FileInfo { id, size, created_at: at(NOON) }
    }

    fn review(agenda: &mut Agenda, files: &[FileInfo], now: &str) {
        let inventory = Inventory::new(files.iter().copied());
        let situation = Situation {
            inventory: &inventory,
            position: inventory.newest_txid(),
            page_len: 4096,
            has_old_local_files: false,
        };
        agenda.review(&situation, &StoreOptions::default(), at(now));
    }

    fn level(level: u8) -> Task {
        Task::Compact(Level::new(level).unwrap())
    }

    #[test]
    fn an_idle_database_has_an_empty_agenda() {
        let mut agenda = Agenda::default();
        // An image and the file that makes level 0 carry the newest TXID.
        review(&mut agenda, &[file(9, 1, 1, 100_000), file(0, 2, 2, 300)], NOON);
        assert_eq!((agenda.next(Lane::Levels), agenda.next(Lane::Snapshots)), (None, None));
        // Everything is in every level and in a snapshot; the newest files stay.
        let settled =
            [file(0, 3, 3, 9000), file(1, 2, 3, 9000), file(2, 2, 3, 9000), file(3, 2, 3, 9000), file(9, 1, 3, 1)];
        review(&mut agenda, &settled, NOON);
        assert_eq!((agenda.next(Lane::Levels), agenda.next(Lane::Snapshots)), (None, None));
    }

    #[test]
    fn what_is_new_waits_for_the_boundary_of_each_level() {
        let mut agenda = Agenda::default();
        review(&mut agenda, &[file(9, 1, 1, 100_000), file(0, 2, 2, 300)], NOON);
        let mut files = vec![file(9, 1, 1, 100_000), file(0, 2, 2, 300), file(0, 3, 3, 9000)];
        review(&mut agenda, &files, NOON);
        assert_eq!(agenda.next(Lane::Levels), Some(at("2026-03-02T12:00:30Z")));
        assert_eq!(agenda.next(Lane::Snapshots), Some(at("2026-03-03T00:00:00Z")));
        // More of the same does not move it.
        files.push(file(0, 4, 4, 9000));
        review(&mut agenda, &files, "2026-03-02T12:00:29Z");
        assert_eq!(agenda.next(Lane::Levels), Some(at("2026-03-02T12:00:30Z")));
        assert_eq!(agenda.take_due(Lane::Levels, at("2026-03-02T12:00:29Z")), []);
        assert_eq!(agenda.take_due(Lane::Levels, at("2026-03-02T12:00:30Z")), [level(1)]);
        files.push(file(1, 2, 4, 9000));
        review(&mut agenda, &files, "2026-03-02T12:00:31Z");
        assert_eq!(agenda.entries.get(&level(2)), Some(&at("2026-03-02T12:05:00Z")));
    }

    #[test]
    fn what_an_earlier_process_left_is_due_at_once() {
        let mut agenda = Agenda::default();
        review(&mut agenda, &[file(9, 1, 1, 1), file(0, 2, 2, 300), file(0, 3, 3, 9000)], NOON);
        assert_eq!(agenda.take_due(Lane::Levels, at(NOON)), [level(1)]);
        assert_eq!(agenda.take_due(Lane::Snapshots, at(NOON)), [Task::Snapshot]);
    }

    #[test]
    fn merged_files_are_looked_at_when_they_are_old_enough() {
        let mut agenda = Agenda::default();
        let files = [
            file(9, 1, 4, 1),
            file(0, 3, 3, 9),
            file(0, 4, 4, 9),
            file(1, 2, 4, 9),
            file(2, 2, 4, 9),
            file(3, 2, 4, 9),
        ];
        review(&mut agenda, &files, NOON);
        assert_eq!(agenda.next(Lane::Levels), Some(at("2026-03-02T12:05:15Z")), "a check after five minutes");
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let mut agenda = Agenda::default();
        let now = at(NOON);
        let pauses: Vec<u64> = (0..12).map(|_| agenda.failed([level(1)], now).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(agenda.next(Lane::Levels), Some(after(now, MAX_PAUSE)));
        agenda.succeeded();
        assert_eq!(agenda.next(Lane::Levels), Some(now));
    }
}
