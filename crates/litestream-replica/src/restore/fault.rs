//! Why an attempt to rebuild failed, by what the next attempt does about it.

use crate::{Error, ErrorKind, FileInfo};

/// The end of an attempt.
#[derive(Debug)]
pub(super) enum Fault {
    /// One file is gone or corrupt: plan without it.
    File {
        /// Which.
        file: FileInfo,
        /// What is wrong with it.
        error: Error,
    },
    /// A file's index does not describe its frames: read it front to back.
    Index {
        /// Which.
        file: FileInfo,
        /// The first disagreement.
        reason: String,
    },
    /// Nothing another attempt would change.
    Other(Error),
}

impl Fault {
    /// Sorts an error met while reading `file`.
    pub(super) fn reading(file: &FileInfo, error: Error) -> Self {
        let error = error.context(format!("decode database: ltx file {}", file.id));
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::Corrupt => Self::File { file: *file, error },
            _ => Self::Other(error),
        }
    }

    /// Content of `file` that breaks the format.
    pub(super) fn corrupt(file: &FileInfo, problem: impl std::fmt::Display) -> Self {
        Self::reading(file, Error::new(ErrorKind::Corrupt, problem.to_string()))
    }
}

/// A blocking task panicked or the runtime is shutting down.
pub(crate) fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::with_source(ErrorKind::Cancelled, "restore task ended", error)
}
