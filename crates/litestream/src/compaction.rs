//! Which files are merged next, and when. No I/O, no clock.
//!
//! A level holds the transactions of the level below in fewer, longer files.
//! The rules that must never break: a merged file replaces a run of
//! transactions without a hole in it, and a level has no hole that is not
//! bridged by other files of the replica.
//!
//! Two departures from upstream keep these rules. Inputs end before a hole, and
//! the level goes on behind it only where another file bridges it; otherwise the
//! hole is reported so that somebody can heal it. And the image at the start of
//! a history is not copied up through the levels: it stays where it is, and each
//! level starts above it (docs/decisions/0004-retention.md).
//!
//! Spec: store-and-restore §7, §8.

use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::{FileId, FileInfo, Inventory, Level};
use ltx::Txid;

use crate::hole::{Hole, images};
use crate::levels::{after, is_served, next_boundary};

/// What to do about a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The level was served since the last boundary.
    TooEarly {
        /// The next boundary.
        until: Timestamp,
    },
    /// The level below has nothing new.
    Nothing,
    /// Merge these files. Ask again afterwards: there may be more.
    Merge {
        /// In the order in which they apply; never empty. Each continues or
        /// overlaps the one before and reaches beyond it. Not always of the level
        /// below: files of lower levels fill holes in it.
        inputs: Vec<FileInfo>,
        /// The file to write.
        into: FileId,
    },
    /// The level below goes on only behind transactions that no file holds.
    ///
    /// Send them again if the local state has them, otherwise store a snapshot of
    /// the present position; then ask again.
    Blocked {
        /// What is missing.
        missing: Hole,
    },
}

/// What `level` (1 to 8) takes from the levels below at `now`.
///
/// While there is a backlog of several intervals, one file is made for each of
/// them, as if the level had been served all the time; such files are not too
/// early for one another.
pub fn choose(inventory: &Inventory, level: Level, interval: Duration, now: Timestamp) -> Choice {
    let Some(below) = level.get().checked_sub(1).filter(|_| level != Level::SNAPSHOT).and_then(Level::new) else {
        return Choice::Nothing;
    };
    let newest = inventory.level(level).iter().max_by_key(|file| file.id.max);
    if newest.is_some_and(|newest| is_served(newest.created_at, now, interval)) {
        return Choice::TooEarly { until: next_boundary(now, interval) };
    }
    let mut source = Source::new(inventory, below);
    let mut reached = newest.map_or(Txid::NONE, |newest| newest.id.max);
    if newest.is_none() {
        reached = source.skip_base(inventory);
    }
    let mut inputs = source.run(reached);
    if inputs.is_empty() {
        match source.bridge(inventory, reached) {
            Bridge::NotNeeded => return Choice::Nothing,
            Bridge::To(bridged) => inputs = source.run(bridged),
            Bridge::Missing(missing) => return Choice::Blocked { missing },
        }
    }
    cut(&mut inputs, interval, now);
    match (inputs.first(), inputs.last()) {
        (Some(first), Some(last)) => {
            let into = FileId { level, min: first.id.min, max: last.id.max };
            Choice::Merge { inputs, into }
        }
        _ => Choice::Nothing,
    }
}

/// Whether a snapshot is due: none since the last boundary, and something new
/// since the newest one.
///
/// `position` is the newest transaction of the database; without one there is
/// nothing to store.
pub fn snapshot_due(inventory: &Inventory, interval: Duration, now: Timestamp, position: Txid) -> bool {
    match images(inventory).next_back() {
        None => !position.is_none(),
        Some(newest) => newest.id.max < position && !is_served(newest.created_at, now, interval),
    }
}

/// The files a level is made from: the level below, and those further down that
/// can fill its holes.
struct Source<'a> {
    level: Level,
    below: Walk<'a>,
    fillers: Vec<Walk<'a>>,
}

/// What lies between a level's end and the next file of its source.
enum Bridge {
    /// There is no next file.
    NotNeeded,
    /// Other files reach this TXID, and the source goes on from there.
    To(Txid),
    /// Nothing holds these transactions.
    Missing(Hole),
}

impl<'a> Source<'a> {
    fn new(inventory: &'a Inventory, level: Level) -> Self {
        let fillers = Level::all().take_while(|lower| *lower < level).map(|lower| Walk::new(inventory.level(lower)));
        Self { level, below: Walk::new(inventory.level(level)), fillers: fillers.collect() }
    }

    /// Where a level that is still empty starts: behind the file that holds the
    /// whole database, if level 9 has that file's content too.
    fn skip_base(&mut self, inventory: &Inventory) -> Txid {
        let mut reached = Txid::NONE;
        let imaged = images(inventory).next_back().map_or(Txid::NONE, |image| image.id.max);
        while let Some(file) = self.below.candidate(reached)
            && file.id.min == Txid::FIRST
            && file.id.max <= imaged
        {
            reached = file.id.max;
        }
        reached
    }

    /// Files that continue a chain which ends at `reached`, up to a hole.
    fn run(&mut self, mut reached: Txid) -> Vec<FileInfo> {
        let mut inputs = Vec::new();
        while inputs.len() < MAX_INPUTS
            && let Some(file) = self.next(reached)
        {
            reached = file.id.max;
            inputs.push(file);
        }
        inputs
    }

    fn next(&mut self, reached: Txid) -> Option<FileInfo> {
        if let Some(file) = self.below.candidate(reached) {
            return Some(file);
        }
        // Lower levels are asked only where the source goes on behind a hole: what
        // lies above its end is that level's own work.
        self.below.beyond(reached)?;
        self.fillers.iter_mut().filter_map(|walk| walk.candidate(reached)).max_by_key(reach)
    }

    /// Looks for the nearest place behind `reached` from which the source goes
    /// on, and which files of other levels, or an image, lead to.
    fn bridge(&mut self, inventory: &Inventory, mut reached: Txid) -> Bridge {
        let is_image = |file: &FileInfo| file.id.level == Level::SNAPSHOT && file.id.min == Txid::FIRST;
        let mut others: Vec<&FileInfo> = inventory
            .files()
            .iter()
            .filter(|file| file.id.level != self.level && file.id.max > reached)
            .filter(|file| file.id.level != Level::SNAPSHOT || is_image(file))
            .collect();
        others.sort_by_key(|file| file.id.max);
        for file in others {
            if self.below.beyond(reached).is_none() {
                return Bridge::NotNeeded;
            }
            if file.id.max > reached && file.id.min <= reached.next() {
                reached = file.id.max;
                if self.below.candidate(reached).is_some() {
                    return Bridge::To(reached);
                }
            }
        }
        match self.below.beyond(reached) {
            Some(next) => Bridge::Missing(Hole { first: reached.next(), last: next.id.min.previous() }),
            None => Bridge::NotNeeded,
        }
    }
}

/// One level, walked upward once.
struct Walk<'a> {
    /// Files not looked at, by first TXID.
    rest: &'a [FileInfo],
    /// The best of those that were.
    best: Option<FileInfo>,
}

impl<'a> Walk<'a> {
    fn new(files: &'a [FileInfo]) -> Self {
        Self { rest: files, best: None }
    }

    /// The file that continues a chain which ends at `reached`, and reaches
    /// furthest. `reached` never goes back.
    fn candidate(&mut self, reached: Txid) -> Option<FileInfo> {
        self.best = self.best.filter(|file| file.id.max > reached);
        while let Some((file, rest)) = self.rest.split_first()
            && file.id.min <= reached.next()
        {
            self.rest = rest;
            if file.id.max > reached && self.best.is_none_or(|best| reach(file) > reach(&best)) {
                self.best = Some(*file);
            }
        }
        self.best
    }

    /// The first file behind a hole that begins after `reached`; ask for the
    /// candidate first.
    fn beyond(&self, reached: Txid) -> Option<&'a FileInfo> {
        self.rest.iter().find(|file| file.id.max > reached)
    }
}

fn reach(file: &FileInfo) -> (Txid, std::cmp::Reverse<Txid>) {
    (file.id.max, std::cmp::Reverse(file.id.min))
}

/// Ends the inputs at the first boundary when they span several intervals.
///
/// In ordinary work a file may be late by one interval, and a pass by another;
/// only what lies further back is a backlog.
fn cut(inputs: &mut Vec<FileInfo>, interval: Duration, now: Timestamp) {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return };
    let boundary = next_boundary(first.created_at.min(now), interval);
    if last.created_at.min(now) > after(boundary, interval.saturating_mul(2)) {
        let later = inputs.iter().skip(1).position(|file| file.created_at.min(now) > boundary);
        inputs.truncate(later.map_or(inputs.len(), |index| index + 1));
    }
}

/// Each input of a merge takes a read buffer and a page of memory.
const MAX_INPUTS: usize = 256;
