//! Checks the pin chain of `litestream` against SQLite's WAL, in every state that
//! can be reached within stated bounds.
//!
//! Development only. The product's decisions are compiled in as they are: the pin
//! chain, and the two rules of continuity. What they decide about is modelled:
//! [`connection`] carries out SQLite's procedures one lock or one word of shared
//! memory at a time, [`shared`] is that memory, [`daemon`] does what the pin chain
//! asks as `capture/pass.rs` does, and [`explore`] visits every state once, breadth
//! first, so that a counterexample is as short as can be.
//!
//! The model itself is compared with real connections in `tests/real_sqlite.rs`.
//! Facts and sources: docs/spec/sqlite-wal.md.

#![forbid(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    reason = "a development tool over arrays of fixed size: an index out of range is a mistake of the model and may end it"
)]

pub mod connection;
pub mod daemon;
mod error;
pub mod explore;
pub mod shared;
pub mod world;

/// The product's own source, not a copy. These modules are private to `litestream`, and a
/// public face for a test would promise what nobody else needs.
#[allow(dead_code, unreachable_pub, unused_imports, reason = "only part of each module is needed here")]
#[path = "../../litestream/src"]
mod product {
    pub(crate) mod continuity;
    pub(crate) mod disk;
    pub(crate) mod pin_chain;
    pub(crate) mod position;
    pub(crate) mod private;
    pub(crate) mod wal;
    pub(crate) mod wal_index;
}

// The names by which they know each other.
use product::{continuity, disk, pin_chain, position, private, wal, wal_index};
