//! The LTX file format: the pages that one or more transactions changed in a
//! SQLite database, in one immutable file.
//!
//! ```text
//! header (100 bytes) | page frame … | 6 zero bytes | page index | trailer (16 bytes)
//! ```
//!
//! This crate is pure: it reads from `Read`, writes to `Write`, and knows
//! neither clocks, threads nor storage. Start with [`Encoder`] and [`Decoder`];
//! readers that fetch byte ranges start with [`PageIndex`].
//!
//! Byte-level reference: `docs/spec/ltx.md`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod file_name;
mod page;
mod txid;

pub use file_name::FileName;
pub use page::{PageSize, Pgno, lock_page};
pub use txid::{ParseTxidError, Txid};
