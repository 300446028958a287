//! `<min TXID>-<max TXID>.ltx`.

use std::fmt;

use crate::Txid;

/// The TXID range of a file, as its name carries it.
///
/// Names of one level sort as text exactly as by `(min, max)` (spec: ltx §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// First transaction in the file.
    pub min: Txid,
    /// Last transaction in the file.
    pub max: Txid,
}

impl FileName {
    /// Reads a name; `None` for every other name, which listings skip silently.
    ///
    /// Upper-case digits do not match: upstream ignores such files, so they are
    /// not part of any replica. Nor are ranges that no header can have (spec: ltx
    /// §3.2): believed, they would be a hole or an end of the history.
    pub fn parse(name: &str) -> Option<Self> {
        let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let name = Self { min: min.parse().ok()?, max: max.parse().ok()? };
        (Txid::FIRST <= name.min && name.min <= name.max).then_some(name)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.ltx", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_round_trips() {
        let name = FileName { min: Txid::new(2), max: Txid::new(0xab) };
        assert_eq!(name.to_string(), "0000000000000002-00000000000000ab.ltx");
        assert_eq!(FileName::parse(&name.to_string()), Some(name));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in [
            "0000000000000002-00000000000000AB.ltx",
            "0000000000000002-00000000000000ab.ltx.tmp",
            "2-2.ltx",
            "lock.json",
            "0000000000000002.ltx",
            "0000000000000000-0000000000000002.ltx",
            "0000000000000003-0000000000000002.ltx",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
