//! Which files take a copy that stands at some TXID to the newest state.
//!
//! A restore starts from nothing; a follower starts from a database it has. It
//! needs the increments behind its position, at whatever level they are, and
//! falls back to a snapshot only where no increments connect.
//!
//! Spec: store-and-restore §14.3, §14.4.

use ltx::Txid;

use super::{Inventory, Sweep, Target};
use crate::{FileInfo, Level};

/// What an [`Inventory`] offers to a copy that stands at some TXID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// The store holds no file at all.
    Empty,
    /// Nothing ends beyond the position, and something ends at it.
    UpToDate,
    /// Increments that start no later than the next transaction, each
    /// continuing its predecessor; apply all in this order.
    Increments(Vec<FileInfo>),
    /// No increment starts at or before the next transaction. The first file is
    /// a snapshot beyond the position, the others continue it; together they are
    /// the whole database.
    Snapshot(Vec<FileInfo>),
    /// Everything in the store ends before the position: a history that was
    /// restarted or cut, or another database's.
    Behind {
        /// Where the store ends.
        newest: Txid,
    },
    /// The store goes on beyond the position, but nothing connects to it.
    Hole {
        /// First transaction of the files that follow the hole.
        next: Txid,
    },
}

impl Inventory {
    /// How a copy that stands at `position` gets to the newest state.
    ///
    /// Where increments lead on only to stop at a hole, they are the answer; the
    /// hole is that of the next call.
    pub fn plan_from(&self, position: Txid) -> Continuation {
        let Some(bounds) = self.bounds() else { return Continuation::Empty };
        if bounds.last_txid < position {
            return Continuation::Behind { newest: bounds.last_txid };
        }
        if bounds.last_txid == position {
            return Continuation::UpToDate;
        }
        let increments = self.increments_from(position);
        if !increments.is_empty() {
            return Continuation::Increments(increments);
        }
        let newer = |file: &&FileInfo| file.id.min == Txid::FIRST && file.id.max > position;
        if let Some(snapshot) = self.level(Level::SNAPSHOT).iter().rfind(newer) {
            let mut files = vec![*snapshot];
            files.extend(self.increments_from(snapshot.id.max));
            return Continuation::Snapshot(files);
        }
        let beyond = self.files().iter().filter(|file| file.id.level != Level::SNAPSHOT && file.id.max > position);
        match beyond.map(|file| file.id.min).min() {
            Some(next) => Continuation::Hole { next },
            // Only a level-9 file that is no image ends beyond the position.
            None => Continuation::Hole { next: bounds.last_txid },
        }
    }

    /// The shortest chain of levels 0 to 8 behind `position`.
    fn increments_from(&self, position: Txid) -> Vec<FileInfo> {
        let mut sweep = Sweep::new(self, Target::Latest, &|_| true, position);
        std::iter::from_fn(|| sweep.advance()).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::FileId;

    /// `level:min-max`, in decimal.
    fn file(text: &str) -> FileInfo {
        let (level, range) = text.split_once(':').unwrap();
        let (min, max) = range.split_once('-').unwrap();
        let [min, max] = [min, max].map(|number| Txid::new(number.parse().unwrap()));
        let id = FileId { level: Level::new(level.parse().unwrap()).unwrap(), min, max };
        FileInfo { id, size: 1_000, created_at: Timestamp::UNIX_EPOCH }
    }

    fn files(text: &str) -> Vec<FileInfo> {
        text.split_whitespace().map(file).collect()
    }

    fn plan(text: &str, position: u64) -> Continuation {
        Inventory::new(files(text)).plan_from(Txid::new(position))
    }

    #[test]
    fn a_copy_at_the_end_is_up_to_date() {
        assert_eq!(plan("9:1-5 0:5-5", 5), Continuation::UpToDate);
        assert_eq!(plan("9:1-5", 5), Continuation::UpToDate);
    }

    #[test]
    fn a_position_ahead_of_the_newest_snapshot_is_ordinary() {
        assert_eq!(plan("9:1-5 0:6-6 0:7-7 0:8-8", 7), Continuation::Increments(files("0:8-8")));
    }

    #[test]
    fn a_compacted_file_that_overlaps_the_position_bridges() {
        let chain = Continuation::Increments(files("1:100-200 0:201-201"));
        assert_eq!(plan("9:1-99 1:100-200 0:201-201", 150), chain);
    }

    #[test]
    fn higher_levels_alone_are_enough() {
        assert_eq!(plan("9:1-5 1:6-9 2:6-20 1:21-25", 5), Continuation::Increments(files("2:6-20 1:21-25")));
    }

    #[test]
    fn a_snapshot_bridges_what_nothing_else_does() {
        let bridge = Continuation::Snapshot(files("9:1-9 0:10-10"));
        assert_eq!(plan("9:1-3 9:1-9 0:9-9 0:10-10", 5), bridge);
    }

    #[test]
    fn a_base_file_of_another_level_connects_too() {
        assert_eq!(plan("3:1-8 0:9-9", 5), Continuation::Increments(files("3:1-8 0:9-9")));
    }

    #[test]
    fn increments_up_to_a_hole_come_first() {
        assert_eq!(plan("9:1-3 0:6-6 0:9-9", 5), Continuation::Increments(files("0:6-6")));
        assert_eq!(plan("9:1-3 0:6-6 0:9-9", 6), Continuation::Hole { next: Txid::new(9) });
    }

    #[test]
    fn a_store_that_ends_earlier_is_another_history() {
        assert_eq!(plan("9:1-3 0:4-4", 5), Continuation::Behind { newest: Txid::new(4) });
        assert_eq!(plan("", 5), Continuation::Empty);
    }

    #[test]
    fn a_level_9_file_that_is_no_image_bridges_nothing() {
        assert_eq!(plan("9:4-9", 2), Continuation::Hole { next: Txid::new(9) });
    }
}
