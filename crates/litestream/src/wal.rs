//! SQLite's write-ahead log: header, frames, cumulative checksum, page map.
//!
//! The caller holds the read transaction that keeps SQLite from restarting the
//! log; without it every offset below may move. Nothing here decides *whether*
//! to go on after a restart; that is `continuity`'s business.
//!
//! Format: <https://sqlite.org/fileformat2.html#walformat>. Spec: replication §5.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ltx::{PageSize, Pgno};

/// The two random numbers that name one generation of a WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Salts(pub(crate) u32, pub(crate) u32);

impl Salts {
    /// True when `self` is what SQLite writes at the first restart after `old`.
    pub(crate) fn follows(self, old: Self) -> bool {
        self.0 == old.0.wrapping_add(1)
    }
}

/// The cumulative checksum after a header or frame. It covers everything before
/// it in the generation, so equal values prove equal prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain(pub(crate) u32, pub(crate) u32);

impl Chain {
    /// Continues the checksum over `bytes`, whose length is a multiple of 8.
    #[must_use]
    pub(crate) fn over(self, bytes: &[u8], order: WordOrder) -> Self {
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
pub(crate) enum WordOrder {
    /// Magic `0x377f0682`.
    Little,
    /// Magic `0x377f0683`.
    Big,
}

/// The 32 bytes at the start of a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalHeader {
    /// Byte order of every checksum in this generation.
    pub(crate) order: WordOrder,
    /// The database's page size.
    pub(crate) page_size: PageSize,
    /// Names the generation.
    pub(crate) salts: Salts,
    /// Checksum of the header, which seeds the first frame's.
    pub(crate) chain: Chain,
}

impl WalHeader {
    /// Parses a header. `None` when its checksum fails, which is what a reader
    /// sees while SQLite is writing it: the log counts as empty.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
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

    /// Reads the header of an open log; `None` for a log without a valid one.
    pub(crate) fn read(wal: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER_LEN];
        match wal.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Self::parse(&bytes)),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(err) => Err(err),
        }
    }
}

/// A place between two frames of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalPosition {
    /// The generation.
    pub(crate) salts: Salts,
    /// Frames before this place.
    pub(crate) frame: u32,
    /// Cumulative checksum up to this place.
    pub(crate) chain: Chain,
}

/// What a run of frames holds.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Newest committed version of each page: offset of the page data in the WAL.
    pub(crate) pages: BTreeMap<Pgno, u64>,
    /// Database size in pages after the last commit.
    pub(crate) commit: u32,
    /// The place after the last committed frame.
    pub(crate) end: WalPosition,
}

/// The log does not hold the frames the wal-index promises. Either the pin was
/// lost or the file was damaged: the caller must not go on from here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    /// A frame of another generation, or one whose checksum does not continue.
    #[error("wal frame {frame} does not continue the log: {what}")]
    Broken {
        /// Frame, counted from 1.
        frame: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Reading failed.
    #[error("read wal frame {frame}: {source}")]
    Io {
        /// Frame, counted from 1.
        frame: u32,
        /// The cause.
        source: io::Error,
    },
}

/// Reads the frames after `from`, up to frame number `until`, and validates each:
/// salts, checksum, and that a commit ends the run.
///
/// Stops early at the first commit at which `limit` bytes or more were read, so
/// one huge backlog becomes several files. `None` when `until` is not beyond
/// `from` or no commit lies between.
pub(crate) fn scan(
    wal: &File,
    header: &WalHeader,
    from: WalPosition,
    until: u32,
    limit: u64,
) -> Result<Option<Frames>, ScanError> {
    let frame_len = frame_len(header.page_size);
    let per_read = (READ_LEN / frame_len).max(1);
    let mut buffer = vec![0; per_read * frame_len];
    let mut state =
        Scan { committed: BTreeMap::new(), open: Vec::new(), commit: 0, end: from, start_frame: from.frame };
    let (mut chain, mut frame) = (from.chain, from.frame);
    let start = frame_offset(header.page_size, from.frame);
    while frame < until {
        let count = per_read.min((until - frame) as usize);
        let chunk = buffer.get_mut(..count * frame_len).unwrap_or_default();
        let offset = frame_offset(header.page_size, frame);
        wal.read_exact_at(chunk, offset).map_err(|source| ScanError::Io { frame: frame + 1, source })?;
        for bytes in chunk.chunks_exact(frame_len) {
            let (head, data) = bytes.split_at(FRAME_HEADER_LEN);
            let broken = |what| ScanError::Broken { frame: frame + 1, what };
            let head = FrameHeader::parse(head).ok_or(broken("page number 0"))?;
            if head.salts != from.salts {
                return Err(broken("its salts are of another generation"));
            }
            chain = chain.over(bytes.get(..8).unwrap_or_default(), header.order).over(data, header.order);
            if chain != head.chain {
                return Err(broken("its checksum does not match"));
            }
            let page_offset = frame_offset(header.page_size, frame) + FRAME_HEADER_LEN as u64;
            frame += 1;
            state.push(head, page_offset, WalPosition { salts: from.salts, frame, chain });
            if head.commit != 0 && frame_offset(header.page_size, frame) - start >= limit {
                return Ok(state.finish());
            }
        }
    }
    Ok(state.finish())
}

struct Scan {
    committed: BTreeMap<Pgno, u64>,
    /// Pages of the transaction that has not committed yet in this run.
    open: Vec<(Pgno, u64)>,
    commit: u32,
    end: WalPosition,
    start_frame: u32,
}

impl Scan {
    fn push(&mut self, head: FrameHeader, page_offset: u64, after: WalPosition) {
        self.open.push((head.pgno, page_offset));
        if head.commit != 0 {
            // One by one: BTreeMap::append would rebuild the whole map each time.
            self.committed.extend(self.open.drain(..));
            self.commit = head.commit;
            self.end = after;
        }
    }

    fn finish(mut self) -> Option<Frames> {
        if self.end.frame == self.start_frame {
            return None;
        }
        // A later commit of the same run may have shrunk the database; pages
        // beyond its end belong to nobody (spec: replication L24).
        self.committed.retain(|pgno, _| pgno.get() <= self.commit);
        Some(Frames { pages: self.committed, commit: self.commit, end: self.end })
    }
}

#[derive(Clone, Copy)]
struct FrameHeader {
    pgno: Pgno,
    commit: u32,
    salts: Salts,
    chain: Chain,
}

impl FrameHeader {
    fn parse(bytes: &[u8]) -> Option<Self> {
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
pub(crate) fn frame_len(page_size: PageSize) -> usize {
    FRAME_HEADER_LEN + page_size.len()
}

/// Where the frame after `frame` frames starts. 64-bit, because a WAL may pass 4 GiB.
pub(crate) fn frame_offset(page_size: PageSize, frame: u32) -> u64 {
    HEADER_LEN as u64 + u64::from(frame) * frame_len(page_size) as u64
}

/// The number of frames before byte `offset`; `None` unless it is a frame boundary.
pub(crate) fn frame_at(page_size: PageSize, offset: u64) -> Option<u32> {
    let frames = offset.checked_sub(HEADER_LEN as u64)?;
    let frame_len = frame_len(page_size) as u64;
    if frames % frame_len != 0 {
        return None;
    }
    u32::try_from(frames / frame_len).ok()
}

/// Bytes of the WAL header.
pub(crate) const HEADER_LEN: usize = 32;
/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_LEN: usize = 24;
/// How much one read asks for: large enough that system calls do not count.
const READ_LEN: usize = 1 << 20;

#[cfg(test)]
mod tests;
