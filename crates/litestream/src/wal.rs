//! A live write-ahead log: which frames count, and which page is where.
//!
//! The caller holds the read transaction that keeps SQLite from restarting the
//! log; without it every offset below may move. Nothing here decides *whether*
//! to go on after a restart; that is `continuity`'s business.
//!
//! The bytes themselves are [`ltx::wal`]'s. Spec: replication §5.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ltx::Pgno;
pub(crate) use ltx::wal::{
    Chain, FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Salts, WalHeader, WordOrder, frame_at, frame_len, frame_offset,
};

/// Reads the header of an open log; `None` for a log without a valid one.
pub(crate) fn read_header(wal: &File) -> io::Result<Option<WalHeader>> {
    let mut bytes = [0; HEADER_LEN];
    match wal.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(WalHeader::parse(&bytes)),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(err) => Err(err),
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
    /// Frames that end a transaction.
    pub(crate) commits: u32,
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
    let mut state = Scan {
        committed: BTreeMap::new(),
        open: Vec::new(),
        commit: 0,
        commits: 0,
        end: from,
        start_frame: from.frame,
    };
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
    commits: u32,
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
            self.commits += 1;
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
        Some(Frames { pages: self.committed, commit: self.commit, commits: self.commits, end: self.end })
    }
}

/// How much one read asks for: large enough that system calls do not count.
const READ_LEN: usize = 1 << 20;

#[cfg(test)]
mod tests;
