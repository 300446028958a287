//! What went wrong in one look at the replica, by what the loop does next.

use crate::error::{Error, ErrorKind};

/// A failed tick. The copy stands where it stood.
#[derive(Debug)]
pub struct Trouble {
    /// What failed.
    pub error: Error,
    /// What to do about it.
    pub severity: Severity,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The store, a lock or the disk: worth trying again for as long as it takes.
    Passing,
    /// A hole, or a damaged file that nothing else covers. The source may mend it
    /// with its next compaction or snapshot, so trying goes on for a limited time.
    Stuck,
    /// Following this copy makes no sense any more; a person must decide.
    Final,
    /// The caller gave up.
    Cancelled,
}

impl Trouble {
    pub(super) fn stuck(error: impl Into<Error>) -> Self {
        Self { error: error.into(), severity: Severity::Stuck }
    }

    pub(super) fn fatal(error: impl Into<Error>) -> Self {
        Self { error: error.into(), severity: Severity::Final }
    }

    pub(super) fn passing(error: impl Into<Error>) -> Self {
        Self { error: error.into(), severity: Severity::Passing }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let severity = match error.kind() {
            ErrorKind::Cancelled => Severity::Cancelled,
            ErrorKind::Setup => Severity::Final,
            ErrorKind::Corrupt => Severity::Stuck,
            _ => Severity::Passing,
        };
        Self { error, severity }
    }
}

impl From<litestream_replica::Error> for Trouble {
    fn from(error: litestream_replica::Error) -> Self {
        let severity = match error.kind() {
            litestream_replica::ErrorKind::Cancelled => Severity::Cancelled,
            _ => Severity::Passing,
        };
        Self { error: error.into(), severity }
    }
}
