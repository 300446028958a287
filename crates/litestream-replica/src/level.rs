//! Compaction levels.

use std::fmt;

/// A level of the replica: 0 holds one file per sync, 1–8 merged files, 9 snapshots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// One file per sync.
    pub const L0: Self = Self(0);
    /// Whole-database images, `1-n`.
    pub const SNAPSHOT: Self = Self(9);

    /// `None` above 9.
    pub const fn new(level: u8) -> Option<Self> {
        if level <= 9 { Some(Self(level)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Every level, 0 to 9.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=9).map(Self)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}
