//! The database side of Litestream: a live SQLite file, its WAL, and the daemon
//! that turns commits into LTX files and sends them to a replica.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

mod agenda;
mod alarm;
mod budget;
mod capture;
mod chunks;
pub mod compaction;
mod compactor;
mod continuity;
mod counters;
mod db;
mod disk;
mod error;
pub mod follow;
#[cfg(test)]
mod fuzz;
mod healing;
mod health;
pub mod hole;
mod insight;
pub mod levels;
mod lifecycle;
mod looks;
mod maintenance;
mod meta;
mod monitor;
mod options;
mod page_sums;
mod pin_chain;
mod position;
mod prefix;
mod private;
mod reconcile;
mod replica;
pub mod reset;
pub mod retention;
mod seats;
mod snapshot;
mod sqlite;
mod staged;
mod status;
mod steps;
mod store;
mod traffic;
mod upkeep;
pub mod validation;
mod wal;
mod wal_index;
mod watch;

pub use counters::{Counts, Effort, L0Expiry};
pub use db::Database;
pub use disk::{Disk, DiskLayer, DiskOp};
pub use error::{Error, ErrorKind, Result};
pub use health::{ReplicaProblem, replica_problem};
pub use insight::Window;
pub use lifecycle::StopReport;
pub use meta::{default_path as meta_path, is_in_use, local_txid, unsent_files};
pub use options::{DbOptions, ReplicaOptions, StoreOptions};
pub use seats::{PER_KNOWN as DESCRIPTORS_PARKED, PER_OPEN as DESCRIPTORS_OPEN, SeatUse};
pub use sqlite::{IntegrityCheck, integrity_check, sqlite_version};
pub use status::{DatabaseState, DatabaseStatus, LastError};
#[doc(hidden)]
pub use steps::Step;
pub use store::{CloseReport, Registration, Store};
pub use traffic::QueueUse;
