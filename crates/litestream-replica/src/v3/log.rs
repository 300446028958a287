//! One write-ahead log, laid over the database as SQLite's checkpoint would.
//!
//! Frames are checked as they come. The pages of a transaction wait until its
//! commit, in memory while it is small and in a scratch file beyond that, and are
//! then written in their order, so that the newest version of a page stays.
//!
//! SQLite ends a log silently at the first frame that does not fit. That is right
//! for what an unfinished transaction left behind, and it is loss of data if a
//! commit lies at that place or after it; then it is an error here.
//!
//! Format: <https://sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ltx::wal::{Chain, FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, WalHeader, frame_len};
use ltx::{PageSize, Pgno};

use crate::restore::output::scratch_file;
use crate::{Error, ErrorKind, Result};

/// A log being applied.
pub(super) struct Log<'a> {
    database: &'a File,
    page_size: PageSize,
    /// Bytes taken in.
    len: u64,
    header: Option<WalHeader>,
    /// What is not a whole header or frame yet.
    rest: Vec<u8>,
    /// Frames read, whether they fit or not.
    frame_count: u64,
    chain: Chain,
    open: Transaction<'a>,
    /// Database size in pages after the last commit.
    commit: Option<u32>,
    /// The first frame that does not fit.
    broken: Option<Broken>,
}

#[derive(Clone, Copy)]
struct Broken {
    frame: u64,
    what: &'static str,
}

impl<'a> Log<'a> {
    /// An empty log over `database`, whose path names the scratch file.
    pub(super) fn new(database: &'a File, path: &'a Path, page_size: PageSize) -> Self {
        Self {
            database,
            page_size,
            len: 0,
            header: None,
            rest: Vec::new(),
            frame_count: 0,
            chain: Chain::default(),
            open: Transaction { path, memory: Vec::new(), scratch: None, spilled: 0 },
            commit: None,
            broken: None,
        }
    }

    /// Bytes taken in so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Takes in the next bytes and writes what they commit.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) when committed pages are damaged; errors of
    /// the disk.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        let mut bytes = bytes;
        loop {
            let wanted = if self.header.is_some() { frame_len(self.page_size) } else { HEADER_LEN };
            if self.rest.is_empty() && bytes.len() >= wanted {
                let (unit, after) = bytes.split_at(wanted);
                bytes = after;
                self.unit(unit)?;
                continue;
            }
            let (missing, after) = bytes.split_at(bytes.len().min(wanted - self.rest.len()));
            self.rest.extend_from_slice(missing);
            bytes = after;
            if self.rest.len() < wanted {
                return Ok(());
            }
            let unit = std::mem::take(&mut self.rest);
            self.unit(&unit)?;
            self.rest = unit;
            self.rest.clear();
        }
    }

    /// Cuts the database to the size of the last commit.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(super) fn finish(self) -> Result<()> {
        if self.header.is_none() && !self.rest.is_empty() {
            return Err(corrupt("the WAL ends within its header"));
        }
        let rest_commits = self.header.is_some_and(|header| commits(&self.rest, &header));
        if rest_commits {
            return Err(corrupt(format!("the WAL ends within frame {}, which commits", self.frame_count + 1)));
        }
        if let Some(Broken { frame, what }) = self.broken {
            tracing::debug!(frame, what, "wal ends before frames of no finished transaction");
        }
        let Some(commit) = self.commit else { return Ok(()) };
        let len = u64::from(commit) * u64::from(self.page_size.get());
        self.database.set_len(len).map_err(|e| Error::io("set length of database", e))
    }

    fn unit(&mut self, unit: &[u8]) -> Result<()> {
        match self.header {
            None => self.start(unit),
            Some(header) => self.frame(&header, unit),
        }
    }

    fn start(&mut self, bytes: &[u8]) -> Result<()> {
        let header = bytes.first_chunk().and_then(WalHeader::parse);
        let header = header.ok_or_else(|| corrupt("the WAL has no valid header"))?;
        if header.page_size != self.page_size {
            let (log, database) = (header.page_size, self.page_size);
            return Err(corrupt(format!("the WAL has pages of {log}, the database of {database}")));
        }
        self.chain = header.chain;
        self.header = Some(header);
        Ok(())
    }

    fn frame(&mut self, header: &WalHeader, bytes: &[u8]) -> Result<()> {
        self.frame_count += 1;
        if self.broken.is_none() {
            match self.check(header, bytes) {
                Ok(frame) => return self.take(frame, bytes),
                Err(what) => self.broken = Some(Broken { frame: self.frame_count, what }),
            }
        }
        match self.broken {
            Some(Broken { frame, what }) if commits(bytes, header) => {
                let committed = self.frame_count;
                Err(corrupt(format!("WAL frame {frame}: {what}, and frame {committed} commits")))
            }
            _ => Ok(()),
        }
    }

    /// Whether this frame continues the log.
    fn check(&mut self, header: &WalHeader, bytes: &[u8]) -> Result<FrameHeader, &'static str> {
        let (head, page) = bytes.split_at(FRAME_HEADER_LEN);
        let frame = FrameHeader::parse(head).ok_or("page number 0")?;
        if frame.salts != header.salts {
            return Err("its salts are of another log");
        }
        let chain = self.chain.over(head.get(..8).unwrap_or_default(), header.order).over(page, header.order);
        if chain != frame.chain {
            return Err("its checksum does not match");
        }
        self.chain = chain;
        Ok(frame)
    }

    fn take(&mut self, frame: FrameHeader, bytes: &[u8]) -> Result<()> {
        let page = bytes.get(FRAME_HEADER_LEN..).unwrap_or_default();
        self.open.push(frame.pgno, page)?;
        if frame.commit != 0 {
            self.open.write_to(self.database, self.page_size)?;
            self.commit = Some(frame.commit);
        }
        Ok(())
    }
}

/// Whether the start of a frame claims to be a commit of this log. What a
/// transaction leaves that was rolled back never does.
fn commits(frame: &[u8], header: &WalHeader) -> bool {
    let frame = frame.get(..FRAME_HEADER_LEN).and_then(FrameHeader::parse);
    frame.is_some_and(|frame| frame.commit != 0 && frame.salts == header.salts)
}

/// Pages that no commit has confirmed yet: page number and content, in order.
struct Transaction<'a> {
    path: &'a Path,
    memory: Vec<u8>,
    /// Made when a transaction outgrows the memory; has no name any more.
    scratch: Option<File>,
    /// Bytes in it, before those in memory.
    spilled: u64,
}

impl Transaction<'_> {
    fn push(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        self.memory.extend_from_slice(&pgno.get().to_be_bytes());
        self.memory.extend_from_slice(page);
        if self.memory.len() >= MEMORY_LEN {
            if self.scratch.is_none() {
                self.scratch = Some(scratch_file(self.path)?);
            }
            if let Some(scratch) = &self.scratch {
                scratch.write_all_at(&self.memory, self.spilled).map_err(|e| Error::io("write scratch file", e))?;
            }
            self.spilled += self.memory.len() as u64;
            self.memory.clear();
        }
        Ok(())
    }

    fn write_to(&mut self, database: &File, page_size: PageSize) -> Result<()> {
        let record_len = PGNO_LEN + page_size.len();
        if let Some(scratch) = self.scratch.as_ref().filter(|_| self.spilled > 0) {
            let mut buffer = vec![0; (READ_LEN / record_len).max(1) * record_len];
            let mut at = 0;
            while at < self.spilled {
                let len = usize::try_from(self.spilled - at).unwrap_or(usize::MAX).min(buffer.len());
                let records = buffer.get_mut(..len).unwrap_or_default();
                scratch.read_exact_at(records, at).map_err(|e| Error::io("read scratch file", e))?;
                write_records(database, page_size, records)?;
                at += len as u64;
            }
        }
        write_records(database, page_size, &self.memory)?;
        self.memory.clear();
        self.spilled = 0;
        Ok(())
    }
}

fn write_records(database: &File, page_size: PageSize, records: &[u8]) -> Result<()> {
    for record in records.chunks_exact(PGNO_LEN + page_size.len()) {
        let Some((pgno, page)) = record.split_first_chunk() else { continue };
        let Some(pgno) = Pgno::new(u32::from_be_bytes(*pgno)) else { continue };
        database.write_all_at(page, pgno.offset(page_size)).map_err(|e| Error::io("write database", e))?;
    }
    Ok(())
}

fn corrupt(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}

/// Transactions up to this size stay in memory.
const MEMORY_LEN: usize = 8 << 20;

/// How much of a larger one is read back at once.
const READ_LEN: usize = 1 << 20;

const PGNO_LEN: usize = 4;

#[cfg(test)]
mod tests;
