//! What is known of a file once it was written or read to its end.

use crate::{Header, Trailer};

/// A whole file, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its header.
    pub header: Header,
    /// Its trailer.
    pub trailer: Trailer,
    /// Its length in bytes.
    pub size: u64,
    /// Number of frames, those beyond `commit` included.
    pub page_count: u64,
    /// Oddities that do not stand in the way of a restore. Empty for every file
    /// that this crate or Litestream writes.
    pub warnings: Vec<Warning>,
}

impl Summary {
    /// True when the page index agrees with the frames. Where it does not, the
    /// file restores but cannot be read by page: verification must fail it.
    pub fn index_matches(&self) -> bool {
        !self.warnings.iter().any(|warning| matches!(warning, Warning::IndexMismatch { .. }))
    }
}

/// Something odd in a file that upstream accepts too (spec: ltx §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The page index or its size field disagrees with the frames.
    IndexMismatch {
        /// Position among the inputs of a merge, from 0.
        input: usize,
    },
    /// Frames of pages beyond the file's own `commit`, which were left out.
    PagesBeyondCommit {
        /// Position among the inputs of a merge, from 0.
        input: usize,
        /// How many.
        count: u64,
    },
    /// The post-apply checksum breaks a rule of spec §6.2; nothing used it.
    PostApply {
        /// Position among the inputs of a merge, from 0.
        input: usize,
    },
}

impl Warning {
    pub(crate) fn with_input(self, input: usize) -> Self {
        match self {
            Self::IndexMismatch { .. } => Self::IndexMismatch { input },
            Self::PagesBeyondCommit { count, .. } => Self::PagesBeyondCommit { input, count },
            Self::PostApply { .. } => Self::PostApply { input },
        }
    }
}
