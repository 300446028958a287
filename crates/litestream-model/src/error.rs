//! Stands in for the product's error type, which knows the storage crates. Only the
//! input and output of position records can fail, and nothing here does either.

use std::io;

/// Result with [`Error`].
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What failed.
#[derive(Debug)]
pub(crate) struct Error;

impl Error {
    /// As the product's.
    pub(crate) fn io(_context: impl Into<String>, _source: io::Error) -> Self {
        Self
    }
}
