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

use crate::hole::{Hole, images, is_readable};
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
/// A file that was lost from the middle of the level is made again first, early
/// or not.
///
/// While there is a backlog of several intervals, one file is made for each of
/// them, as if the level had been served all the time; such files are not too
/// early for one another.
pub fn choose(inventory: &Inventory, level: Level, interval: Duration, now: Timestamp) -> Choice {
    let Some(below) = level.get().checked_sub(1).filter(|_| level != Level::SNAPSHOT).and_then(Level::new) else {
        return Choice::Nothing;
    };
    if let Some(repair) = repair(inventory, level, below) {
        return repair;
    }
    let newest = inventory.level(level).iter().max_by_key(|file| file.id.max);
    if newest.is_some_and(|newest| is_served(newest.created_at, now, interval)) {
        return Choice::TooEarly { until: next_boundary(now, interval) };
    }
    let mut source = Source::new(inventory, below);
    let mut reached = newest.map_or(Txid::NONE, |newest| newest.id.max);
    if newest.is_none() {
        reached = source.skip_base(inventory);
    }
    let mut inputs = match source.onward(inventory, reached) {
        Ok(inputs) => inputs,
        Err(missing) => return Choice::Blocked { missing },
    };
    cut(&mut inputs, interval, now);
    match (inputs.first(), inputs.last()) {
        (Some(first), Some(last)) => {
            let into = FileId { level, min: first.id.min, max: last.id.max };
            Choice::Merge { inputs, into }
        }
        _ => Choice::Nothing,
    }
}

/// Makes a file of `level` again that was lost from between two others, as far as
/// the levels below still have what was in it.
fn repair(inventory: &Inventory, level: Level, below: Level) -> Option<Choice> {
    let files = inventory.level(level);
    let mut source = Source::new(inventory, below);
    let mut reached = files.first()?.id.max;
    for file in files.iter().skip(1) {
        if file.id.min > reached.next() {
            let mut inputs = source.onward(inventory, reached).unwrap_or_default();
            let count =
                inputs.iter().take_while(|input| input.id.min < file.id.min && input.id.max < file.id.max).count();
            inputs.truncate(count);
            if let (Some(first), Some(last)) = (inputs.first(), inputs.last()) {
                let into = FileId { level, min: first.id.min, max: last.id.max };
                return Some(Choice::Merge { inputs, into });
            }
            // The walk has gone on; later gaps are looked at from where it stands.
            source = Source::new(inventory, below);
        }
        reached = reached.max(file.id.max);
    }
    None
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

impl<'a> Source<'a> {
    fn new(inventory: &'a Inventory, level: Level) -> Self {
        let fillers = Level::all().take_while(|lower| *lower < level).map(|lower| Walk::new(inventory.level(lower)));
        Self { level, below: Walk::new(inventory.level(level)), fillers: fillers.collect() }
    }

    /// Where a level that is still empty starts: behind the file that holds the
    /// whole database, at whichever level it is, if an image lies as high or
    /// above it.
    fn skip_base(&mut self, inventory: &Inventory) -> Txid {
        let mut reached = Txid::NONE;
        let imaged = images(inventory).next_back().map_or(Txid::NONE, |image| image.id.max);
        while let Some(file) = self.next(reached)
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

    /// The next files for a level that ends at `reached`: those that continue it,
    /// else those behind the nearest hole that other files bridge. Empty at the
    /// end of the source.
    ///
    /// # Errors
    /// What is missing, when nothing bridges it.
    fn onward(&mut self, inventory: &Inventory, mut reached: Txid) -> Result<Vec<FileInfo>, Hole> {
        let inputs = self.run(reached);
        if !inputs.is_empty() || self.below.beyond(reached).is_none() {
            return Ok(inputs);
        }
        let others = inventory.files().iter().filter(|file| file.id.level != self.level);
        let mut bridges: Vec<&FileInfo> = others.filter(|file| file.id.max > reached && is_readable(file)).collect();
        bridges.sort_by_key(|file| file.id.max);
        for bridge in bridges {
            if bridge.id.min > reached.next() {
                continue;
            }
            reached = bridge.id.max;
            let inputs = self.run(reached);
            if !inputs.is_empty() || self.below.beyond(reached).is_none() {
                return Ok(inputs);
            }
        }
        match self.below.beyond(reached) {
            Some(next) => Err(Hole { first: reached.next(), last: next.id.min.previous() }),
            None => Ok(Vec::new()),
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

#[cfg(test)]
mod tests;
