//! The page index: where each frame of a file lies.
//!
//! ```text
//! index = (uvarint pgno, uvarint frame offset, uvarint frame length)* 0x00
//! ```
//!
//! Readers of single pages depend on it, so what is written here must be right
//! to the byte; a wrong index does not fail the file checksum.
//!
//! Spec: ltx §5, §6.3.

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::{Footer, Header, Pgno, frame};

/// Where one page frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The page.
    pub pgno: Pgno,
    /// First byte of the frame, from the start of the file.
    pub offset: u64,
    /// Length of the frame in bytes, head and payload.
    pub len: u32,
}

/// Reads a page index that arrives in pieces.
///
/// Keeps a few bytes, however many pages there are. Beyond the grammar it holds
/// each entry against the layout of a file: pages ascend, the first frame starts
/// behind the header, each next one where the last ended.
#[derive(Debug, Default)]
pub struct IndexParser {
    triples: Triples,
    last: Option<IndexEntry>,
    len: u64,
    expected: Option<Footer>,
}

impl IndexParser {
    /// For an index whose footer is not known.
    pub fn new() -> Self {
        Self::default()
    }

    /// For the index that `footer` points at: its length must be that, and its
    /// last frame must end where the page block does.
    pub fn for_footer(footer: &Footer) -> Self {
        Self { expected: Some(*footer), ..Self::default() }
    }

    /// Takes the next bytes, cut anywhere, and appends the entries they complete.
    ///
    /// # Errors
    /// [`Error::Index`] or [`Error::IndexVarint`] at the first entry that cannot
    /// be right, and for bytes after the terminator.
    pub fn push(&mut self, bytes: &[u8], entries: &mut Vec<IndexEntry>) -> Result<()> {
        for byte in bytes {
            if let Some((pgno, offset, len)) = self.triples.push(*byte)? {
                entries.push(self.check(pgno, offset, len)?);
            }
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks that the index is complete.
    ///
    /// # Errors
    /// [`Error::Truncated`] without terminator; [`Error::Index`] when it does not
    /// agree with the footer.
    pub fn finish(self) -> Result<()> {
        if !self.triples.ended() {
            return Err(Error::Truncated { part: PART });
        }
        let Some(footer) = self.expected else { return Ok(()) };
        if self.len != footer.index_len {
            return Err(Error::Index { reason: "length differs from its size field" });
        }
        let end = self.last.map_or(FIRST_FRAME, |last| last.offset.saturating_add(u64::from(last.len)));
        if Some(end) != footer.index_offset.checked_sub(frame::END.len() as u64) {
            return Err(Error::Index { reason: "last frame does not end with the page block" });
        }
        Ok(())
    }

    fn check(&mut self, pgno: Pgno, offset: u64, len: u64) -> Result<IndexEntry> {
        let expected_offset = match self.last {
            Some(last) if last.pgno >= pgno => return Err(Error::Index { reason: "pages do not ascend" }),
            Some(last) => last.offset.checked_add(u64::from(last.len)),
            None => Some(FIRST_FRAME),
        };
        if Some(offset) != expected_offset {
            return Err(Error::Index { reason: "frames are not contiguous" });
        }
        let len = u32::try_from(len).ok().filter(|len| *len > 0).ok_or(Error::Index { reason: "bad frame length" })?;
        let entry = IndexEntry { pgno, offset, len };
        self.last = Some(entry);
        Ok(entry)
    }
}

/// Reads a whole page index: `bytes` from the first entry to the terminator.
///
/// # Errors
/// As [`IndexParser`].
pub fn parse_index(bytes: &[u8]) -> Result<Vec<IndexEntry>> {
    let mut entries = Vec::new();
    let mut parser = IndexParser::new();
    parser.push(bytes, &mut entries)?;
    parser.finish()?;
    Ok(entries)
}

/// Builds the bytes of an index, frame by frame.
#[derive(Clone)]
pub(crate) struct IndexBuilder {
    next_offset: u64,
}

impl IndexBuilder {
    pub(crate) fn new() -> Self {
        Self { next_offset: FIRST_FRAME }
    }

    /// Appends the entry of the next frame to `index`.
    pub(crate) fn push(&mut self, pgno: Pgno, frame_len: u32, index: &mut Vec<u8>) {
        push_uvarint(u64::from(pgno.get()), index);
        push_uvarint(self.next_offset, index);
        push_uvarint(u64::from(frame_len), index);
        self.next_offset += u64::from(frame_len);
    }

    /// Where the page block ends, before its end marker.
    pub(crate) fn next_offset(&self) -> u64 {
        self.next_offset
    }
}

/// The index a file should have, as a digest: enough to compare, whatever the
/// number of pages.
pub(crate) struct ExpectedIndex {
    builder: IndexBuilder,
    pending: Vec<u8>,
    hasher: Hasher,
}

impl ExpectedIndex {
    pub(crate) fn new() -> Self {
        Self { builder: IndexBuilder::new(), pending: Vec::new(), hasher: Hasher::new() }
    }

    pub(crate) fn push(&mut self, pgno: Pgno, frame_len: u32) {
        self.builder.push(pgno, frame_len, &mut self.pending);
        if self.pending.len() >= 4096 {
            self.flush();
        }
    }

    pub(crate) fn finish(mut self) -> Digest {
        self.pending.push(TERMINATOR);
        self.flush();
        self.hasher.digest()
    }

    fn flush(&mut self) {
        self.hasher.update(&self.pending);
        self.pending.clear();
    }
}

/// Splits index bytes into triples; knows the grammar, not the layout.
#[derive(Debug, Default)]
pub(crate) struct Triples {
    varint: Uvarint,
    pgno: Option<Pgno>,
    offset: Option<u64>,
    ended: bool,
}

impl Triples {
    /// Takes one byte; gives page, offset and length when it completes them.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<(Pgno, u64, u64)>> {
        if self.ended {
            return Err(Error::Index { reason: "data after the terminator" });
        }
        let Some(value) = self.varint.push(byte)? else { return Ok(None) };
        match (self.pgno, self.offset) {
            (None, _) if value == 0 => self.ended = true,
            (None, _) => {
                let number = u32::try_from(value).map_err(|_| Error::Index { reason: "page number overflow" })?;
                self.pgno = Pgno::new(number);
            }
            (Some(_), None) => self.offset = Some(value),
            (Some(pgno), Some(offset)) => {
                (self.pgno, self.offset) = (None, None);
                return Ok(Some((pgno, offset, value)));
            }
        }
        Ok(None)
    }

    /// True once the terminator was taken.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }
}

/// An unsigned LEB128 number in the making: at most ten bytes, the tenth ≤ 1.
#[derive(Debug, Default)]
struct Uvarint {
    value: u64,
    shift: u32,
}

impl Uvarint {
    fn push(&mut self, byte: u8) -> Result<Option<u64>> {
        if self.shift == 63 && byte > 1 {
            return Err(Error::IndexVarint);
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        if byte & 0x80 != 0 {
            self.shift += 7;
            return Ok(None);
        }
        Ok(Some(std::mem::take(self).value))
    }
}

fn push_uvarint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "below 0x80 after the loop")]
    out.push(value as u8);
}

/// Closes the index: no page is number zero.
pub(crate) const TERMINATOR: u8 = 0;
pub(crate) const PART: &str = "page index";
const FIRST_FRAME: u64 = Header::LEN as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn uvarint(bytes: &[u8]) -> Result<Option<u64>> {
        let mut varint = Uvarint::default();
        let mut last = None;
        for byte in bytes {
            last = varint.push(*byte)?;
        }
        Ok(last)
    }

    #[test]
    fn varints_round_trip_at_the_edges() {
        for value in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut bytes = Vec::new();
            push_uvarint(value, &mut bytes);
            assert_eq!(uvarint(&bytes).unwrap(), Some(value));
        }
    }

    #[test]
    fn varints_beyond_64_bits_are_refused() {
        let mut bytes = [0xff; 10];
        bytes[9] = 2;
        assert!(matches!(uvarint(&bytes), Err(Error::IndexVarint)));
        bytes[9] = 0x81;
        assert!(matches!(uvarint(&bytes), Err(Error::IndexVarint)));
    }

    #[test]
    fn the_example_of_the_specification_parses_in_any_split() {
        let bytes = [0x01, 0x64, 0x82, 0x02, 0x02, 0xe6, 0x02, 0x32, 0x00];
        let entry = |pgno, offset, len| IndexEntry { pgno: Pgno::new(pgno).unwrap(), offset, len };
        let expected = [entry(1, 100, 258), entry(2, 358, 50)];
        assert_eq!(parse_index(&bytes).unwrap(), expected);
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let (mut parser, mut entries) = (IndexParser::new(), Vec::new());
            parser.push(head, &mut entries).unwrap();
            parser.push(tail, &mut entries).unwrap();
            parser.finish().unwrap();
            assert_eq!(entries, expected);
            assert!(matches!(parse_index(head), Err(Error::Truncated { .. })), "cut at {cut}");
        }
    }

    #[test]
    fn entries_that_cannot_be_right_are_refused() {
        for (bytes, reason) in [
            (&[1, 101, 9, 0][..], "frames are not contiguous"),
            (&[1, 100, 9, 2, 108, 1, 0], "frames are not contiguous"),
            (&[2, 100, 9, 2, 109, 1, 0], "pages do not ascend"),
            (&[1, 100, 0, 0], "bad frame length"),
            (&[1, 100, 0x80, 0x80, 0x80, 0x80, 0x10, 0], "bad frame length"),
            (&[0x80, 0x80, 0x80, 0x80, 0x10, 100, 1, 0], "page number overflow"),
            (&[0, 0], "data after the terminator"),
        ] {
            let error = parse_index(bytes).unwrap_err();
            assert_eq!(error.to_string(), format!("page index: {reason}"));
        }
    }
}
