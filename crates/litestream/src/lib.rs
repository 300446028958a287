//! The database side of Litestream: a live SQLite file, its WAL, and the daemon
//! that turns commits into LTX files and sends them to a replica.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

mod error;
mod meta;
mod options;
mod pin_chain;
mod sqlite;
mod wal;
mod wal_index;

pub use error::{Error, ErrorKind, Result};
pub use options::{DbOptions, ReplicaOptions, StoreOptions};
pub use sqlite::{IntegrityCheck, integrity_check, sqlite_version};
