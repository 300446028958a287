//! The database side of Litestream: a live SQLite file, its WAL, and the daemon
//! that turns commits into LTX files and sends them to a replica.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

mod capture;
mod chunks;
pub mod compaction;
#[allow(dead_code, unused_imports, reason = "the scheduler that calls it is in the making")]
mod compactor;
mod continuity;
mod db;
mod error;
pub mod hole;
pub mod levels;
mod meta;
mod monitor;
mod options;
mod page_sums;
mod pin_chain;
mod position;
mod reconcile;
mod replica;
pub mod retention;
mod sqlite;
mod store;
pub mod validation;
mod wal;
mod wal_index;
mod watch;

pub use db::{Database, DatabaseStatus};
pub use error::{Error, ErrorKind, Result};
pub use meta::{default_path as meta_path, local_txid};
pub use options::{DbOptions, ReplicaOptions, StoreOptions};
pub use sqlite::{IntegrityCheck, integrity_check, sqlite_version};
pub use store::{CloseReport, Store};
