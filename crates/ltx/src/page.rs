//! Page numbers, page sizes and the page nobody may write.

use std::fmt;
use std::num::NonZeroU32;

/// Page number, counted from 1 as SQLite does. Zero is not a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// The first page, which holds the database header.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for zero.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Where the page starts in the database file, in bytes.
    pub const fn offset(self, page_size: PageSize) -> u64 {
        (self.0.get() as u64 - 1) * page_size.get() as u64
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pgno({})", self.0)
    }
}

/// A legal SQLite page size in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// `None` unless `bytes` is a power of two from 512 to 65536.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65536 { Some(Self(bytes)) } else { None }
    }

    /// The size in bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The size in bytes, for indexing.
    #[allow(clippy::len_without_is_empty, reason = "no page is empty")]
    pub const fn len(self) -> usize {
        self.0 as usize
    }

    /// The page that holds the lock bytes at 1 GiB; see [`lock_page`].
    pub const fn lock_page(self) -> Pgno {
        lock_page(self)
    }

    /// Number of pages a database of `commit` pages stores in a snapshot: all
    /// but the lock page.
    pub const fn stored_pages(self, commit: u32) -> u32 {
        if commit >= self.lock_page().get() { commit - 1 } else { commit }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({})", self.0)
    }
}

/// The page that contains byte 1 GiB, where SQLite keeps its file locks.
///
/// SQLite never writes it; it is in no LTX file, in no checksum, and is a page
/// of zeros in a rebuilt database (spec: ltx §8.3).
pub const fn lock_page(page_size: PageSize) -> Pgno {
    match Pgno::new(LOCK_BYTE_OFFSET / page_size.get() + 1) {
        Some(pgno) => pgno,
        None => unreachable!(),
    }
}

const LOCK_BYTE_OFFSET: u32 = 0x4000_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_page_is_the_one_at_one_gibibyte() {
        for (size, expected) in [
            (512, 2_097_153),
            (1024, 1_048_577),
            (2048, 524_289),
            (4096, 262_145),
            (8192, 131_073),
            (16384, 65_537),
            (32768, 32_769),
            (65536, 16_385),
        ] {
            let size = PageSize::new(size).unwrap();
            assert_eq!(size.lock_page().get(), expected);
            assert_eq!(size.lock_page().offset(size), 1 << 30);
        }
    }

    #[test]
    fn only_powers_of_two_in_range_are_page_sizes() {
        for bytes in [0, 1, 256, 1000, 4095, 131_072] {
            assert_eq!(PageSize::new(bytes), None, "{bytes}");
        }
    }

    #[test]
    fn a_snapshot_leaves_out_the_lock_page() {
        let size = PageSize::new(65536).unwrap();
        assert_eq!(size.stored_pages(16384), 16384);
        assert_eq!(size.stored_pages(16385), 16384);
        assert_eq!(size.stored_pages(16386), 16385);
    }
}
