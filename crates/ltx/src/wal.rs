//! SQLite's write-ahead log as bytes: header, frame headers, cumulative checksum.
//!
//! Pages of an LTX file come from here, and backups of Litestream 0.3 are made of
//! it. Which frames count, and what becomes of them, is the reader's business.
//!
//! Format: <https://sqlite.org/fileformat2.html#walformat>.

use crate::{PageSize, Pgno};

/// The two random numbers that name one generation of a WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salts(
    /// Counts up at every restart.
    pub u32,
    /// Random.
    pub u32,
);

impl Salts {
    /// True when `self` is what SQLite writes at the first restart after `old`.
    pub fn follows(self, old: Self) -> bool {
        self.0 == old.0.wrapping_add(1)
    }
}

/// The cumulative checksum after a header or frame. It covers everything before
/// it in the generation, so equal values prove equal prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain(
    /// First word.
    pub u32,
    /// Second word.
    pub u32,
);

impl Chain {
    /// Continues the checksum over `bytes`, whose length is a multiple of 8.
    #[must_use]
    pub fn over(self, bytes: &[u8], order: WordOrder) -> Self {
        let Self(mut s0, mut s1) = self;
        let (pairs, rest) = bytes.as_chunks::<8>();
        debug_assert!(rest.is_empty(), "WAL checksums cover whole 8-byte pairs");
        for &[a0, a1, a2, a3, b0, b1, b2, b3] in pairs {
            let (a, b) = match order {
                WordOrder::Little => (u32::from_le_bytes([a0, a1, a2, a3]), u32::from_le_bytes([b0, b1, b2, b3])),
                WordOrder::Big => (u32::from_be_bytes([a0, a1, a2, a3]), u32::from_be_bytes([b0, b1, b2, b3])),
            };
            s0 = s0.wrapping_add(a).wrapping_add(s1);
            s1 = s1.wrapping_add(b).wrapping_add(s0);
        }
        Self(s0, s1)
    }
}

/// Byte order of the words a checksum adds up; the header's magic tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordOrder {
    /// Magic `0x377f0682`.
    Little,
    /// Magic `0x377f0683`.
    Big,
}

/// The 32 bytes at the start of a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// Byte order of every checksum in this generation.
    pub order: WordOrder,
    /// The database's page size.
    pub page_size: PageSize,
    /// Names the generation.
    pub salts: Salts,
    /// Checksum of the header, which seeds the first frame's.
    pub chain: Chain,
}

impl WalHeader {
    /// Parses a header. `None` when its checksum fails, which is what a reader
    /// sees while SQLite is writing it: the log counts as empty.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let word = |i: usize| -> u32 {
            match bytes.get(i..i + 4) {
                Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
                _ => 0,
            }
        };
        let order = match word(0) {
            0x377f_0682 => WordOrder::Little,
            0x377f_0683 => WordOrder::Big,
            _ => return None,
        };
        if word(4) != 3_007_000 {
            return None;
        }
        let chain = Chain::default().over(bytes.get(..24)?, order);
        if chain != Chain(word(24), word(28)) {
            return None;
        }
        Some(Self { order, page_size: PageSize::new(word(8))?, salts: Salts(word(16), word(20)), chain })
    }
}

/// The 24 bytes before each page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Which page follows.
    pub pgno: Pgno,
    /// Database size in pages after the transaction whose last frame this is;
    /// 0 for every other frame.
    pub commit: u32,
    /// The generation; a frame counts only under the header's.
    pub salts: Salts,
    /// Cumulative checksum up to and including this frame.
    pub chain: Chain,
}

impl FrameHeader {
    /// Parses the 24 bytes of a frame header; `None` for another length or page 0.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let &[pgno, commit, salt1, salt2, chain1, chain2] = words else { return None };
        let [commit, salt1, salt2, chain1, chain2] = [commit, salt1, salt2, chain1, chain2].map(u32::from_be_bytes);
        Some(Self {
            pgno: Pgno::new(u32::from_be_bytes(pgno))?,
            commit,
            salts: Salts(salt1, salt2),
            chain: Chain(chain1, chain2),
        })
    }
}

/// Bytes of one frame, header included.
pub fn frame_len(page_size: PageSize) -> usize {
    FRAME_HEADER_LEN + page_size.len()
}

/// Where the frame after `frame` frames starts. 64-bit, because a WAL may pass 4 GiB.
pub fn frame_offset(page_size: PageSize, frame: u32) -> u64 {
    HEADER_LEN as u64 + u64::from(frame) * frame_len(page_size) as u64
}

/// The number of frames before byte `offset`; `None` unless it is a frame boundary.
pub fn frame_at(page_size: PageSize, offset: u64) -> Option<u32> {
    let frames = offset.checked_sub(HEADER_LEN as u64)?;
    let frame_len = frame_len(page_size) as u64;
    if frames % frame_len != 0 {
        return None;
    }
    u32::try_from(frames / frame_len).ok()
}

/// Bytes of the WAL header.
pub const HEADER_LEN: usize = 32;
/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 24;
