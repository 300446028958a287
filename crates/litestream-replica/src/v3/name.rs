//! Names of 0.3 objects.
//!
//! Offsets and indexes are compared as numbers, never as text: an offset has
//! eight hexadecimal digits below 4 GiB and up to sixteen beyond.

use std::fmt;

/// Directory of all generations, as a listing prefix.
pub(super) const GENERATIONS: &str = "generations/";

/// One unbroken history of a database: from a snapshot on, log after log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// Reads 16 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() == 16 { parse_hex(text).map(Self) } else { None }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A byte of a generation's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Which log; at most 31 bits.
    pub index: u32,
    /// Bytes of it before this one; at most 63 bits.
    pub offset: u64,
}

impl LogPosition {
    /// The first byte of a log.
    pub fn start_of(index: u32) -> Self {
        Self { index, offset: 0 }
    }
}

impl fmt::Display for LogPosition {
    /// `<index>/<offset>`, decimal, as upstream's messages have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.offset)
    }
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ObjectName {
    Snapshot { generation: Generation, index: u32 },
    Segment { generation: Generation, start: LogPosition },
}

impl ObjectName {
    /// The meaning of a key relative to the replica; `None` for foreign names.
    pub(super) fn parse(key: &str) -> Option<Self> {
        let (generation, rest) = key.strip_prefix(GENERATIONS)?.split_once('/')?;
        let generation = Generation::parse(generation)?;
        let (directory, name) = rest.split_once('/')?;
        match directory {
            "snapshots" => {
                let index = parse_index(name.strip_suffix(".snapshot.lz4")?)?;
                Some(Self::Snapshot { generation, index })
            }
            "wal" => {
                let (index, offset) = name.strip_suffix(".wal.lz4")?.split_once('_')?;
                let index = parse_index(index)?;
                if !(8..=16).contains(&offset.len()) {
                    return None;
                }
                let offset = parse_hex(offset).filter(|offset| *offset <= i64::MAX.cast_unsigned())?;
                Some(Self::Segment { generation, start: LogPosition { index, offset } })
            }
            _ => None,
        }
    }
}

/// The replica that a key belongs to, itself relative; `None` for foreign names.
pub(crate) fn place_of(key: &str) -> Option<&str> {
    let start = key.rfind(GENERATIONS)?;
    let (place, name) = key.split_at_checked(start)?;
    ObjectName::parse(name)?;
    match place.is_empty() {
        true => Some(place),
        false => place.strip_suffix('/'),
    }
}

fn parse_index(text: &str) -> Option<u32> {
    let index = if text.len() == 8 { parse_hex(text)? } else { return None };
    u32::try_from(index).ok().filter(|index| *index <= i32::MAX.cast_unsigned())
}

/// Lower-case digits only; `from_str_radix` alone would take signs and capitals.
fn parse_hex(text: &str) -> Option<u64> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: &str = "generations/0123456789abcdef";

    fn segment(name: &str) -> Option<LogPosition> {
        match ObjectName::parse(&format!("{G}/wal/{name}.wal.lz4"))? {
            ObjectName::Segment { start, .. } => Some(start),
            ObjectName::Snapshot { .. } => None,
        }
    }

    #[test]
    fn names_of_both_kinds_are_read() {
        let generation = Generation::parse("0123456789abcdef").unwrap();
        assert_eq!(
            ObjectName::parse(&format!("{G}/snapshots/000000ff.snapshot.lz4")),
            Some(ObjectName::Snapshot { generation, index: 255 })
        );
        assert_eq!(segment("0000000a_00001018"), Some(LogPosition { index: 10, offset: 0x1018 }));
        assert_eq!(generation.to_string(), "0123456789abcdef");
    }

    /// L64: offsets from 4 GiB on have nine digits and more.
    #[test]
    fn offsets_beyond_four_gib_are_read_and_ordered_as_numbers() {
        let at = |name| segment(name).unwrap();
        assert_eq!(at("00000001_100000000").offset, 1 << 32);
        assert_eq!(at("00000001_0000000100000000").offset, 1 << 32);
        assert_eq!(at("00000001_7fffffffffffffff").offset, (1 << 63) - 1);
        assert!(at("00000001_fffffff8") < at("00000001_100000000"), "as text it would be the other way round");
        assert!(at("00000001_7fffffffffffffff") < at("00000002_00000000"));
        assert_eq!(at("7fffffff_00000000").index, (1 << 31) - 1);
    }

    #[test]
    fn foreign_names_are_none_of_ours() {
        for key in [
            "generations/0123456789abcde/wal/00000000_00000000.wal.lz4",
            "generations/0123456789ABCDEF/wal/00000000_00000000.wal.lz4",
            "generations/0123456789abcdef/wal/00000000_0000000.wal.lz4",
            "generations/0123456789abcdef/wal/00000000_00000000000000000.wal.lz4",
            "generations/0123456789abcdef/wal/00000000_8000000000000000.wal.lz4",
            "generations/0123456789abcdef/wal/80000000_00000000.wal.lz4",
            "generations/0123456789abcdef/wal/0000000_00000000.wal.lz4",
            "generations/0123456789abcdef/wal/+0000000_00000000.wal.lz4",
            "generations/0123456789abcdef/wal/00000000_00000000.wal",
            "generations/0123456789abcdef/wal/00000000.wal.lz4",
            "generations/0123456789abcdef/wal/sub/00000000_00000000.wal.lz4",
            "generations/0123456789abcdef/snapshots/0000000F.snapshot.lz4",
            "generations/0123456789abcdef/snapshots/ffffffff.snapshot.lz4",
            "generations/0123456789abcdef/snapshots/00000000.snapshot.lz4.tmp",
            "generations/0123456789abcdef/00000000.snapshot.lz4",
            "other/0123456789abcdef/snapshots/00000000.snapshot.lz4",
            "ltx/0/0000000000000001-0000000000000001.ltx",
        ] {
            assert_eq!(ObjectName::parse(key), None, "{key}");
        }
    }

    #[test]
    fn no_name_has_two_spellings_but_for_leading_zeros_of_offsets() {
        let names = [format!("{G}/snapshots/00000005.snapshot.lz4"), format!("{G}/wal/00000005_00001038.wal.lz4")];
        let words = ["/", "..", "_", "generations/", "00000000", "7fffffff", "ffffffffffffffff", "\0", "+"];
        litestream_fuzz::Target::new("v0.3 name", names).words(&words).cases(1000).run(|input| {
            let Ok(key) = std::str::from_utf8(input) else { return };
            let _ = place_of(key);
            match ObjectName::parse(key) {
                Some(ObjectName::Snapshot { generation, index }) => {
                    assert_eq!(key, format!("generations/{generation}/snapshots/{index:08x}.snapshot.lz4"));
                }
                Some(ObjectName::Segment { generation, start: LogPosition { index, offset } }) => {
                    assert!(key.starts_with(&format!("generations/{generation}/wal/{index:08x}_")));
                    assert!(key.ends_with(&format!("{offset:08x}.wal.lz4")));
                    assert!(index <= i32::MAX.cast_unsigned() && offset <= i64::MAX.cast_unsigned());
                }
                None => {}
            }
        });
    }
}
