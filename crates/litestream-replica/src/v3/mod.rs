//! Backups of Litestream 0.3, read only.
//!
//! A 0.3 replica has *generations*; each holds *snapshots* (whole database files)
//! and *segments* (pieces of the write-ahead log), all compressed. An *index*
//! counts the logs of a generation: SQLite begins the log anew, 0.3 counts on. A
//! snapshot of index `i` is the database at the start of log `i`.
//!
//! ```text
//! generations/<16 hex>/snapshots/<index>.snapshot.lz4
//! generations/<16 hex>/wal/<index>_<offset>.wal.lz4
//! ```
//!
//! `name` reads these names, `inventory` is what a store listed and which objects
//! rebuild a moment, `choice` decides between these and LTX files. All of that is
//! pure. `feed` fetches, `build` decompresses and checks, `log` lays committed
//! pages of a log over the database.
//!
//! Rule that must never break: a log is applied only as far as its own checksums
//! prove it, and only when it begins where the one before it ended.
//!
//! Spec: store-and-restore §15.

mod build;
mod choice;
mod feed;
mod inventory;
mod log;
mod name;
mod restore;

pub use choice::{Format, choose, find};
pub use inventory::{NO_SNAPSHOTS, V3Inventory, V3Plan, V3Segment, V3Snapshot};
pub(crate) use name::place_of;
pub use name::{Generation, LogPosition};
pub use restore::{restore, restore_any_format};
