//! The wal-index (`-shm`): what SQLite itself says about the WAL.
//!
//! Only the first 136 bytes matter here, and they are read from the memory
//! SQLite has mapped anyway: opening the file by ourselves and closing it again
//! would drop SQLite's locks on it (spec: replication §2, fact 9).
//!
//! Format: <https://sqlite.org/walformat.html#the_wal_index_file_format>.

use ltx::PageSize;

use crate::wal::{Chain, Salts, WalPosition, WordOrder};

/// A consistent copy of the wal-index header and its checkpoint counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalIndex {
    /// End of the last committed transaction in the WAL.
    pub(crate) end: WalPosition,
    /// Database size in pages at that end.
    pub(crate) commit: u32,
    /// Commits so far, as SQLite counts them: grows by one with each, and begins anew
    /// when the wal-index is rebuilt.
    pub(crate) changes: u32,
    /// Frames already copied into the database file.
    pub(crate) backfilled: u32,
    /// `None` before the first transaction of a fresh WAL.
    pub(crate) page_size: Option<PageSize>,
}

impl WalIndex {
    /// Parses a raw copy. `None` when a writer was caught in the act or the index
    /// has not been built yet; read again, or let SQLite recover it.
    pub(crate) fn parse(raw: &[u8; LEN]) -> Option<Self> {
        let (first, second) = (raw.get(..48)?, raw.get(48..96)?);
        if first != second || first.get(12) == Some(&0) {
            return None;
        }
        let native = |i: usize| -> Option<u32> { Some(u32::from_ne_bytes(raw.get(i..i + 4)?.try_into().ok()?)) };
        let big = |i: usize| -> Option<u32> { Some(u32::from_be_bytes(raw.get(i..i + 4)?.try_into().ok()?)) };
        let order = if cfg!(target_endian = "little") { WordOrder::Little } else { WordOrder::Big };
        if Chain::default().over(first.get(..40)?, order) != Chain(native(40)?, native(44)?) {
            return None;
        }
        // 65536 does not fit 16 bits and is stored as 1.
        let page_size = u16::from_ne_bytes(raw.get(14..16)?.try_into().ok()?);
        let page_size = if page_size == 1 { 65536 } else { u32::from(page_size) };
        Some(Self {
            end: WalPosition {
                salts: Salts(big(32)?, big(36)?),
                frame: native(16)?,
                chain: Chain(native(24)?, native(28)?),
            },
            commit: native(20)?,
            changes: native(8)?,
            backfilled: native(96)?,
            page_size: PageSize::new(page_size),
        })
    }

    /// True when every frame has been copied into the database file, so the next
    /// writer may start the WAL over.
    pub(crate) fn is_backfilled(&self) -> bool {
        self.backfilled >= self.end.frame
    }
}

/// Bytes of the wal-index header with its checkpoint information.
pub(crate) const LEN: usize = 136;
