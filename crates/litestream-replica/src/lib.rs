//! The replica side of Litestream: everything that needs no live SQLite.
//!
//! A *replica* is a set of immutable LTX files under one prefix of a store.
//! [`ReplicaClient`] is the one door to a store; each backend lives in a module
//! of its own and passes the one contract suite in `tests/contract.rs`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod clock;
mod error;
pub mod layout;
mod level;
pub mod plan;

pub use client::{Body, ByteStream, FileId, FileInfo, ReplicaClient, WriteMode, WriteRequest};
pub use error::{Error, ErrorKind, Result};
pub use level::Level;
pub use plan::{Inventory, Plan, Target};
