//! Whether the names within a level fit together. No file is opened.
//!
//! Spec: store-and-restore §10.

use std::fmt;

use litestream_replica::{FileId, FileInfo, Inventory, Level};

use crate::hole::is_readable;

/// Two neighbours that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong with them.
    pub kind: ProblemKind,
    /// The earlier file.
    pub prev: FileId,
    /// The later file.
    pub next: FileId,
}

/// How two neighbours do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Transactions between them are missing.
    Gap,
    /// Both hold the same transactions.
    Overlap,
    /// The listing is out of order.
    Unsorted,
}

impl ProblemKind {
    /// The word logs carry as `type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Overlap => "overlap",
            Self::Unsorted => "unsorted",
        }
    }
}

impl Problem {
    /// Where it is.
    pub fn level(&self) -> Level {
        self.next.level
    }

    /// Whether a gap is one that compaction leaves on purpose: an image or files
    /// of other levels hold what is missing here.
    pub fn is_bridged(&self, inventory: &Inventory) -> bool {
        if self.kind != ProblemKind::Gap {
            return false;
        }
        let others = inventory.files().iter().filter(|file| file.id != self.next && is_readable(file));
        let mut files: Vec<&FileInfo> = others.filter(|file| file.id.max > self.prev.max).collect();
        files.sort_by_key(|file| file.id.max);
        let mut reached = self.prev.max;
        for file in files {
            if file.id.min <= reached.next() {
                reached = file.id.max;
            }
        }
        reached.next() >= self.next.min
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prev, next) = (self.prev.max, self.next.min);
        match self.kind {
            ProblemKind::Gap => {
                write!(f, "TXID gap detected: prev.MaxTXID={prev}, next.MinTXID={next} (expected {})", prev.next())
            }
            ProblemKind::Overlap => write!(f, "TXID overlap detected: prev.MaxTXID={prev}, next.MinTXID={next}"),
            ProblemKind::Unsorted => {
                write!(f, "files out of order: prev.MinTXID={}, next.MinTXID={next}", self.prev.min)
            }
        }
    }
}

/// Every pair of neighbours in the listing of one level that does not fit.
pub fn check_level(files: &[FileInfo]) -> Vec<Problem> {
    let fault = |prev: FileId, next: FileId| {
        if (next.min, next.max) < (prev.min, prev.max) {
            Some(ProblemKind::Unsorted)
        } else if next.min > prev.max.next() {
            Some(ProblemKind::Gap)
        } else if next.min <= prev.max {
            Some(ProblemKind::Overlap)
        } else {
            None
        }
    };
    let pairs = files.iter().zip(files.iter().skip(1));
    pairs
        .filter_map(|(prev, next)| {
            let (prev, next) = (prev.id, next.id);
            fault(prev, next).map(|kind| Problem { kind, prev, next })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use ltx::Txid;

    use super::*;

    fn file(level: u8, min: u64, max: u64) -> FileInfo {
        let id = FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
        FileInfo { id, size: 100, created_at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn problems_are_in_upstreams_words() {
        let texts = |files: &[FileInfo]| check_level(files).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(&[file(1, 1, 8), file(1, 10, 12)]),
            [
                "TXID gap detected: prev.MaxTXID=0000000000000008, next.MinTXID=000000000000000a (expected 0000000000000009)"
            ]
        );
        assert_eq!(
            texts(&[file(1, 1, 8), file(1, 8, 12)]),
            ["TXID overlap detected: prev.MaxTXID=0000000000000008, next.MinTXID=0000000000000008"]
        );
        assert_eq!(texts(&[file(1, 2, 8), file(1, 9, 9), file(1, 10, 11)]), [""; 0]);
    }

    #[test]
    fn every_problem_is_reported() {
        let problems = check_level(&[file(2, 1, 3), file(2, 5, 8), file(2, 8, 9), file(2, 4, 4)]);
        let kinds: Vec<_> = problems.iter().map(|problem| problem.kind.name()).collect();
        assert_eq!(kinds, ["gap", "overlap", "unsorted"]);
        assert_eq!(problems[0].level().get(), 2);
    }

    #[test]
    fn a_gap_is_bridged_by_images_and_other_levels() {
        let level = [file(1, 1, 8), file(1, 13, 20)];
        let problem = check_level(&level)[0];
        let is_bridged = |others: &[FileInfo]| problem.is_bridged(&Inventory::new(level.iter().chain(others).copied()));
        assert!(!is_bridged(&[]));
        assert!(is_bridged(&[file(9, 1, 12)]));
        assert!(is_bridged(&[file(9, 1, 10), file(0, 11, 11), file(0, 12, 12)]));
        assert!(is_bridged(&[file(2, 7, 10), file(0, 11, 11), file(0, 12, 12)]));
        assert!(!is_bridged(&[file(9, 1, 10), file(0, 12, 12)]));
        assert!(!is_bridged(&[file(9, 9, 12)]), "a file at level 9 that is no image");
    }
}
