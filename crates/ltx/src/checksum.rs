//! Checksums of pages and of whole databases.
//!
//! A checksum is a CRC-64/GO-ISO with bit 63 set, so that zero can mean
//! "absent". The checksum of a *file* is built in `digest`, from other bytes.
//!
//! Spec: ltx §2, §7.

use std::fmt;
use std::str::FromStr;

use crate::digest::Hasher;
use crate::{Pgno, Txid};

/// A 64-bit checksum, or its absence.
///
/// Every present value has [`Checksum::FLAG`] set. Values read from a file are
/// kept as stored, flag or not; the validation of header and trailer decides.
/// Text form: 16 hex digits, lower case on output, either case on input.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Checksum(u64);

impl Checksum {
    /// Bit 63, set on every present checksum.
    pub const FLAG: u64 = 1 << 63;
    /// "No checksum here".
    pub const NONE: Self = Self(0);
    /// The checksum of a database without pages.
    pub const EMPTY: Self = Self(Self::FLAG);

    /// Wraps a stored value as it is.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Marks a CRC as present.
    pub(crate) const fn present(crc: u64) -> Self {
        Self(Self::FLAG | crc)
    }

    /// The raw value.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// True for [`Checksum::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// True when bit 63 is set, as it must be on every present value.
    pub const fn has_flag(self) -> bool {
        self.0 & Self::FLAG != 0
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:016x})", self.0)
    }
}

/// The text is not 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid checksum format")]
pub struct ParseChecksumError;

impl FromStr for Checksum {
    type Err = ParseChecksumError;

    fn from_str(text: &str) -> Result<Self, ParseChecksumError> {
        // Checksums and TXIDs share their text form.
        text.parse::<Txid>().map(|id| Self(id.get())).map_err(|_| ParseChecksumError)
    }
}

/// The checksum of one page: of its number, big-endian, and its content.
///
/// Spec: ltx §7.3.
pub fn page_checksum(pgno: Pgno, data: &[u8]) -> Checksum {
    let mut hasher = Hasher::new();
    hasher.update(&pgno.get().to_be_bytes());
    hasher.update(data);
    Checksum::present(hasher.digest().crc())
}

/// The rolling checksum of a database: the XOR of its pages' checksums.
///
/// Independent of the order of pages. To replace a page, toggle the old
/// checksum and the new one. The lock page never takes part; leaving it out is
/// the caller's duty.
///
/// Spec: ltx §7.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseChecksum(u64);

impl DatabaseChecksum {
    /// The checksum of a database without pages.
    pub const fn new() -> Self {
        Self(Checksum::FLAG)
    }

    /// Adds a page that is not in the sum, or removes one that is.
    pub const fn toggle(&mut self, page: Checksum) {
        self.0 = Checksum::FLAG | (self.0 ^ page.get());
    }

    /// The present sum, always with the flag set.
    pub const fn value(self) -> Checksum {
        Checksum(self.0)
    }
}

impl Default for DatabaseChecksum {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Checksum> for DatabaseChecksum {
    /// Continues from a known sum; [`Checksum::NONE`] starts an empty one.
    fn from(sum: Checksum) -> Self {
        Self(Checksum::FLAG | sum.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_that_of_a_txid() {
        let sum: Checksum = "C18D4ca06f0a6195".parse().unwrap();
        assert_eq!(sum.to_string(), "c18d4ca06f0a6195");
        assert!(sum.has_flag());
        for text in ["", "1", "0xc18d4ca06f0a61", "c18d4ca06f0a61955"] {
            assert_eq!(text.parse::<Checksum>(), Err(ParseChecksumError), "{text:?}");
        }
    }

    #[test]
    fn an_empty_database_sums_to_the_flag_alone() {
        assert_eq!(DatabaseChecksum::new().value(), Checksum::EMPTY);
        assert_eq!(DatabaseChecksum::from(Checksum::NONE).value(), Checksum::EMPTY);
    }

    #[test]
    fn toggling_twice_changes_nothing() {
        let page = page_checksum(Pgno::FIRST, &[7; 512]);
        let mut sum = DatabaseChecksum::new();
        sum.toggle(page);
        assert_eq!(sum.value(), page);
        sum.toggle(page);
        assert_eq!(sum.value(), Checksum::EMPTY);
    }

    #[test]
    fn rolling_sum_follows_the_example_of_the_specification() {
        let mut sum = DatabaseChecksum::new();
        let mut seen = Vec::new();
        for page in ["8eef7f8f892f8de2", "ce88013fe625ec77", "895513d92ed99002", "88bf21c92ed99002"] {
            sum.toggle(page.parse().unwrap());
            seen.push(sum.value().to_string());
        }
        assert_eq!(seen, ["8eef7f8f892f8de2", "c0677eb06f0a6195", "c9326d6941d3f197", "c18d4ca06f0a6195"]);
    }
}
