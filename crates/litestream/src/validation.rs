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
