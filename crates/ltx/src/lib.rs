//! The LTX file format: the pages that one or more transactions changed in a
//! SQLite database, in one immutable file.
//!
//! ```text
//! header (100 bytes) | page frame … | 6 zero bytes | page index | trailer (24 bytes with the index size)
//! ```
//!
//! This crate is pure: it reads from `Read`, writes to `Write`, and knows
//! neither clocks, threads nor storage.
//!
//! | to | use |
//! |---|---|
//! | write a file | [`Encoder`]; on several threads [`RunEncoder`] |
//! | read and verify one | [`Decoder`]; on several threads [`decode_run`] and [`Digest`] |
//! | merge neighbouring files | [`merge()`]; [`Merge`] within [`MergeLimits`], or for the pages alone |
//! | read single pages | [`Footer`], [`IndexParser`], [`decode_frame`] |
//!
//! ```
//! use ltx::{Checksum, Decoder, Encoder, Header, PageSize, Pgno, Txid};
//!
//! # fn main() -> ltx::Result<()> {
//! let page_size = PageSize::new(512).unwrap();
//! let header = Header::new(page_size, 9, Txid::new(2), Txid::new(2), jiff::Timestamp::UNIX_EPOCH);
//! let mut encoder = Encoder::new(Vec::new(), header)?;
//! encoder.encode_page(Pgno::new(7).unwrap(), &[1; 512])?;
//! let (file, written) = encoder.finish(Checksum::NONE)?;
//!
//! let mut decoder = Decoder::new(file.as_slice())?;
//! let mut page = [0; 512];
//! assert_eq!(decoder.next_page(&mut page)?, Pgno::new(7));
//! assert_eq!(decoder.next_page(&mut page)?, None);
//! assert_eq!(decoder.finish()?, written);
//! # Ok(())
//! # }
//! ```
//!
//! [`wal`] reads the bytes of SQLite's log, where the pages come from.
//!
//! Byte-level reference: `docs/spec/ltx.md`, cited as "spec: ltx §n".

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod checksum;
mod decoder;
mod digest;
mod encoder;
mod error;
mod file_name;
mod frame;
mod header;
mod index;
mod lz4;
mod lz4_frame;
mod merge;
mod page;
mod page_order;
mod position;
mod run;
mod source;
mod spill;
mod summary;
mod trailer;
mod txid;
pub mod wal;

pub use checksum::{Checksum, DatabaseChecksum, ParseChecksumError, page_checksum};
pub use decoder::Decoder;
pub use digest::Digest;
pub use encoder::Encoder;
pub use error::{Error, Result};
pub use file_name::FileName;
pub use frame::{DecodedRun, decode_frame, decode_run};
pub use header::{Header, HeaderFlags};
pub use index::{IndexEntry, IndexParser, parse_index};
pub use merge::{Merge, MergeLimits, MergeOptions, MergedPage, merge};
pub use page::{PageSize, Pgno, lock_page};
pub use position::{ParsePosError, Pos};
pub use run::{EncodedRun, RunEncoder};
pub use spill::{Spill, SpillFile};
pub use summary::{Summary, Warning};
pub use trailer::{Footer, Trailer};
pub use txid::{ParseTxidError, Txid};
