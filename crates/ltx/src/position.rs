//! Where a database stands in its own history.

use std::fmt;
use std::str::FromStr;

use crate::{Checksum, Txid};

/// A transaction and the database checksum after it.
///
/// Text form: `<16 hex>/<16 hex>` (spec: ltx §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pos {
    /// The last transaction applied.
    pub txid: Txid,
    /// The database after it; absent when checksums are not tracked.
    pub checksum: Checksum,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.txid, self.checksum)
    }
}

/// The text is not `<16 hex>/<16 hex>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid position format")]
pub struct ParsePosError;

impl FromStr for Pos {
    type Err = ParsePosError;

    fn from_str(text: &str) -> Result<Self, ParsePosError> {
        let (txid, checksum) = text.split_once('/').ok_or(ParsePosError)?;
        Ok(Self {
            txid: txid.parse().map_err(|_| ParsePosError)?,
            checksum: checksum.parse().map_err(|_| ParsePosError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let text = "000000000000001f/c18d4ca06f0a6195";
        let pos: Pos = text.parse().unwrap();
        assert_eq!(pos, Pos { txid: Txid::new(31), checksum: Checksum::new(0xc18d_4ca0_6f0a_6195) });
        assert_eq!(pos.to_string(), text);
        for bad in ["", "000000000000001f", "000000000000001f/", "1f/c18d4ca06f0a6195"] {
            assert_eq!(bad.parse::<Pos>(), Err(ParsePosError), "{bad:?}");
        }
    }
}
