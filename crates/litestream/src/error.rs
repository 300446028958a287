//! The one error of this crate; its kind says what the caller does next.

use std::fmt;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, on which object, and what to do about it.
///
/// `Display` prints the whole chain of causes in one line.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Somebody holds a lock; try again.
    Busy,
    /// Worth trying again without anybody acting.
    Transient,
    /// Bytes that are not what they must be.
    Corrupt,
    /// Only a person can mend it: permissions, wrong mode, a second daemon.
    Setup,
    /// The local disk is full; try again when there is space.
    DiskFull,
    /// The local files and the log do not prove that nothing is missing.
    Discontinuous,
    /// There is no such database yet.
    Missing,
    /// The replica refused or failed.
    Replica,
    /// Another process has the replica's lease; wait, and do not write.
    Leased,
    /// The caller gave up.
    Cancelled,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    pub(crate) fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::DiskFull,
            Io::PermissionDenied | Io::NotADirectory | Io::IsADirectory | Io::ReadOnlyFilesystem => ErrorKind::Setup,
            _ => ErrorKind::Transient,
        };
        Self::with_source(kind, context, source)
    }

    #[must_use]
    pub(crate) fn context(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, context: context.into(), source: Some(Box::new(self)) }
    }

    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

// `Display` prints the whole chain, so `source` stays empty: reporting it as
// well would print every cause twice.
impl std::error::Error for Error {}

impl From<litestream_replica::Error> for Error {
    fn from(err: litestream_replica::Error) -> Self {
        use litestream_replica::ErrorKind as Replica;
        let kind = match err.kind() {
            Replica::DiskFull => ErrorKind::DiskFull,
            Replica::Corrupt => ErrorKind::Corrupt,
            Replica::Setup => ErrorKind::Setup,
            Replica::Leased => ErrorKind::Leased,
            Replica::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Replica,
        };
        Self { kind, context: err.to_string(), source: None }
    }
}
