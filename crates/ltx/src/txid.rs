//! Transaction IDs: the position of a database in its own history.

use std::fmt;
use std::str::FromStr;

/// A transaction ID. Counts from 1; [`Txid::NONE`] (zero) stands before the first.
///
/// Printed as 16 lower-case hex digits everywhere, and parsed from exactly that
/// form in either case (spec: ltx §2).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(u64);

impl Txid {
    /// "No transaction yet".
    pub const NONE: Self = Self(0);
    /// The first transaction. A file that starts here is a snapshot.
    pub const FIRST: Self = Self(1);

    /// The last ID there is. No database reaches it, but a name may claim it.
    pub const LAST: Self = Self(u64::MAX);

    /// Wraps a raw ID; zero gives [`Txid::NONE`].
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The raw ID.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// True for [`Txid::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The next ID. Saturates, which no database reaches in practice.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The ID before; `NONE` before the first.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Txid({:x})", self.0)
    }
}

/// The text is not 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid txid format")]
pub struct ParseTxidError;

impl FromStr for Txid {
    type Err = ParseTxidError;

    fn from_str(text: &str) -> Result<Self, ParseTxidError> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseTxidError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| ParseTxidError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_sixteen_hex_digits() {
        assert_eq!(Txid::new(0x1f).to_string(), "000000000000001f");
        assert_eq!("000000000000001F".parse(), Ok(Txid::new(0x1f)));
        assert_eq!("0000000000000010".parse(), Ok(Txid::new(16)), "digits are hex, not decimal");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "1", "0x00000000000001", "+000000000000001", "00000000000000001", " 00000000000000a"] {
            assert_eq!(text.parse::<Txid>(), Err(ParseTxidError), "{text:?}");
        }
    }
}
