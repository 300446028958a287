//! The last bytes of a file: index size, then two checksums.
//!
//! ```text
//! … index | index length u64 | post-apply checksum u64 | file checksum u64
//! ```
//!
//! Spec: ltx §6.

use crate::error::{Error, Result};
use crate::{Checksum, Header, frame};

/// The checksums that end a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The database after applying; absent when checksums are not tracked.
    pub post_apply: Checksum,
    /// The file itself, but for this field (spec: ltx §7.2).
    pub file: Checksum,
}

impl Trailer {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// Reads a trailer from the first 16 bytes of `bytes`. Does not validate.
    ///
    /// # Errors
    /// [`Error::Truncated`] when there are fewer.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (post_apply, rest) = bytes.split_first_chunk().ok_or(Error::Truncated { part: PART })?;
        let file = rest.first_chunk().ok_or(Error::Truncated { part: PART })?;
        Ok(Self {
            post_apply: Checksum::new(u64::from_be_bytes(*post_apply)),
            file: Checksum::new(u64::from_be_bytes(*file)),
        })
    }

    /// The bytes of the trailer.
    pub fn encode(&self) -> [u8; Self::LEN] {
        (u128::from(self.post_apply.get()) << 64 | u128::from(self.file.get())).to_be_bytes()
    }

    /// Checks the form of both checksums against the header's flags.
    ///
    /// # Errors
    /// The first rule broken (spec: ltx §6.2). A file checksum without its flag
    /// can match no file, so it is a [`Error::FileChecksumMismatch`].
    pub fn validate(&self, header: &Header) -> Result<()> {
        validate_post_apply(self.post_apply, header)?;
        if self.file.has_flag() { Ok(()) } else { Err(Error::FileChecksumMismatch) }
    }
}

/// The rules for the post-apply checksum alone.
pub(crate) fn validate_post_apply(post_apply: Checksum, header: &Header) -> Result<()> {
    match (header.flags.no_checksum(), post_apply) {
        (true, sum) if !sum.is_none() => Err(Error::PostApplyNotAllowed),
        (false, sum) if sum.is_none() => Err(Error::PostApplyRequired),
        (false, sum) if !sum.has_flag() => Err(Error::PostApplyFormat),
        _ => Ok(()),
    }
}

/// What the last 24 bytes say: where the index is, and the trailer.
///
/// The way into a file for readers that fetch byte ranges. Such readers never
/// see the file checksum; they rely on checking each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// First byte of the index, from the start of the file.
    pub index_offset: u64,
    /// Length of the index in bytes, terminator included, size field not.
    pub index_len: u64,
    /// The trailer, not validated.
    pub trailer: Trailer,
}

impl Footer {
    /// Bytes needed from the end of a file.
    pub const TAIL_LEN: usize = 24;

    /// Reads the footer from `tail`, the last bytes of a file of `file_size`
    /// bytes; the more of them, the better the chance of
    /// [`Footer::index_in`].
    ///
    /// # Errors
    /// [`Error::TooShortForIndex`] for a tail below [`Footer::TAIL_LEN`];
    /// [`Error::IndexSize`] when an index of that size cannot be in the file.
    pub fn parse(tail: &[u8], file_size: u64) -> Result<Self> {
        let footer = tail
            .len()
            .checked_sub(Self::TAIL_LEN)
            .and_then(|start| tail.get(start..))
            .ok_or(Error::TooShortForIndex { len: tail.len() as u64 })?;
        let (index_len, trailer) = footer.split_first_chunk().ok_or(Error::Truncated { part: PART })?;
        let index_len = u64::from_be_bytes(*index_len);
        let index_offset = file_size
            .checked_sub(Self::TAIL_LEN as u64)
            .and_then(|end| end.checked_sub(index_len))
            .filter(|offset| index_len >= 1 && *offset >= FIRST_INDEX)
            .ok_or(Error::IndexSize { index_len, file_size })?;
        Ok(Self { index_offset, index_len, trailer: Trailer::parse(trailer)? })
    }

    /// The bytes of the index, when `tail` reaches back to its start.
    pub fn index_in<'a>(&self, tail: &'a [u8]) -> Option<&'a [u8]> {
        let end = tail.len().checked_sub(Self::TAIL_LEN)?;
        let start = end.checked_sub(usize::try_from(self.index_len).ok()?)?;
        tail.get(start..end)
    }
}

/// Where the index of a file without pages starts; no index starts before.
const FIRST_INDEX: u64 = (Header::LEN + frame::END.len()) as u64;
pub(crate) const PART: &str = "trailer";

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(index_len: u64) -> [u8; 24] {
        let mut tail = [0; 24];
        tail[..8].copy_from_slice(&index_len.to_be_bytes());
        tail
    }

    #[test]
    fn index_sizes_outside_the_file_are_refused() {
        for (index_len, file_size) in [
            (0, 131),
            (2, 131),
            (0, 1 << 40),
            (1 << 63, 1 << 40),
            (u64::MAX, 1 << 40),
            (u64::MAX - 23, 131),
            (1, 24),
            (1, 0),
        ] {
            let error = Footer::parse(&tail(index_len), file_size).unwrap_err();
            assert!(matches!(error, Error::IndexSize { .. }), "{index_len} in {file_size}");
        }
        assert_eq!(Footer::parse(&tail(1), 131).unwrap().index_offset, 106);
    }

    #[test]
    fn a_tail_below_24_bytes_is_refused() {
        let error = Footer::parse(&[0; 23], 1000).unwrap_err();
        assert_eq!(error.to_string(), "ltx file too short to contain a page index: 23 bytes");
    }

    #[test]
    fn the_index_is_in_the_tail_or_it_is_not() {
        let mut tail = vec![0x11; 29];
        tail.extend(self::tail(29));
        let footer = Footer::parse(&tail, 1000).unwrap();
        assert_eq!(footer.index_in(&tail), Some(&[0x11; 29][..]), "the tail starts exactly with the index");
        assert_eq!(footer.index_in(&tail[1..]), None);
    }
}
