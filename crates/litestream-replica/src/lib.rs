//! The replica side of Litestream: everything that needs no live SQLite.
//!
//! A *replica* is a set of immutable LTX files under one prefix of a store.
//! [`ReplicaClient`] is the one door to a store; each backend lives in a module
//! of its own and passes the one contract suite in `tests/contract.rs`.
//!
//! Backups of Litestream 0.3 beside those files are read by [`v3`].
//!
//! ```
//! use litestream_replica::{ClientContext, ReplicaUrl};
//!
//! # fn main() -> litestream_replica::Result<()> {
//! let client = ReplicaUrl::parse("file:///var/backups/app")?.into_client(&ClientContext::default())?;
//! assert_eq!(client.kind(), "file");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "abs")]
pub mod abs;
pub mod check;
pub mod client;
pub mod clock;
pub mod discover;
mod error;
pub mod file;
pub mod flushes;
#[cfg(feature = "gs")]
pub mod gs;
#[cfg(feature = "http")]
pub mod http;
pub mod layout;
pub mod lease;
mod level;
#[cfg(any(feature = "http", feature = "nats", feature = "sftp"))]
mod listing;
pub mod metered;
mod moment;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "oss")]
pub mod oss;
#[cfg(any(feature = "http", feature = "sftp"))]
mod parts;
pub mod plan;
pub mod points;
pub mod restore;
pub mod resume;
pub mod retry;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "sftp")]
pub mod sftp;
#[cfg(feature = "webdav")]
mod staged;
pub mod url;
pub mod v3;
#[cfg(feature = "webdav")]
pub mod webdav;

pub use client::{Body, ByteStream, FileId, FileInfo, ObjectInfo, ReplicaClient, WriteMode, WriteRequest};
pub use error::{Error, ErrorKind, Result};
pub use level::Level;
pub use plan::{Inventory, Plan, Target};
pub use points::{Hole, RestorePoint};
pub use restore::{OutputPolicy, Progress, RestoreOptions, Restored, restore};
pub use url::{ClientContext, ReplicaUrl, is_replica_url, scheme_required};
