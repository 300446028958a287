//! The checksum of every page as the replica has it, 8 bytes a page.
//!
//! With it a lost continuity costs the pages that really differ instead of the
//! whole database: whatever happened to the file, comparing each page with its
//! sum finds the difference. The rule that must never break: **the table is used
//! only when it is known to describe one TXID exactly**, because a sum that is
//! newer or older than claimed would hide a change.
//!
//! ```text
//! header (64 bytes): magic | stamp TXID | commit | page size | CRC
//! u64 little-endian sum of page 1, page 2, …        (0 for the lock page)
//! ```
//!
//! Entries of transactions up to the stamp are durable. Entries written after it
//! may or may not have reached the disk, so opening the table replays the level-0
//! files after the stamp; they stay on local disk until the stamp has passed them.
//!
//! Spec: ltx §7.3, replication §19 R7.

use std::io;
use std::os::unix::fs::FileExt;

use crc_fast::{CrcAlgorithm, checksum};
use ltx::{Checksum, PageSize, Pgno, Txid};

use crate::disk::DiskFile;
use crate::error::{Error, Result};

/// See the module's description.
#[derive(Debug)]
pub(crate) struct PageSums {
    file: DiskFile,
    page_size: PageSize,
    commit: u32,
    /// What the table describes.
    txid: Txid,
    /// What it is known to describe after a power failure.
    stamp: Txid,
}

impl PageSums {
    /// Opens a table whose header is whole; `None` when there is none. It
    /// describes its stamp: the caller replays what came after.
    pub(crate) fn open(file: DiskFile) -> Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        match file.as_file().read_exact_at(&mut header, 0) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(err) => return Err(Error::io("read page sums", err)),
        }
        Ok(Header::decode(&header).map(|Header { stamp, commit, page_size }| Self {
            file,
            page_size,
            commit,
            txid: stamp,
            stamp,
        }))
    }

    /// Starts an empty table. Until the first [`stamp`](Self::stamp) it does not
    /// exist for [`open`](Self::open).
    pub(crate) fn create(file: DiskFile, page_size: PageSize) -> Result<Self> {
        // Flushed, or an old header could come back over new entries.
        file.set_len(0).and_then(|()| file.sync_data()).map_err(|e| Error::io("clear page sums", e))?;
        Ok(Self { file, page_size, commit: 0, txid: Txid::NONE, stamp: Txid::NONE })
    }

    /// The transaction the table describes.
    pub(crate) fn txid(&self) -> Txid {
        self.txid
    }

    /// The newest transaction whose level-0 file a replay does not need.
    pub(crate) fn durable_txid(&self) -> Txid {
        self.stamp
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The sums of `count` pages from `first`; pages beyond the table have none.
    pub(crate) fn read(&self, first: Pgno, count: usize) -> Result<Vec<Checksum>> {
        let known = self.commit.saturating_sub(first.get() - 1) as usize;
        let mut bytes = vec![0; count.min(known) * ENTRY_LEN];
        self.file
            .as_file()
            .read_exact_at(&mut bytes, entry_offset(first))
            .map_err(|e| Error::io("read page sums", e))?;
        let entries = bytes.as_chunks::<ENTRY_LEN>().0;
        let mut sums: Vec<Checksum> = entries.iter().map(|entry| Checksum::new(u64::from_le_bytes(*entry))).collect();
        sums.resize(count, Checksum::NONE);
        Ok(sums)
    }

    /// Applies one transaction: new sums of ascending pages, and the size of the
    /// database after it.
    pub(crate) fn apply(&mut self, txid: Txid, commit: u32, sums: &[(Pgno, Checksum)]) -> Result<()> {
        if commit < self.commit {
            // An entry that stayed would shine through when the database regrows.
            self.file
                .set_len(HEADER_LEN as u64 + u64::from(commit) * ENTRY_LEN as u64)
                .map_err(|e| Error::io("write page sums", e))?;
        }
        self.commit = commit;
        // Contiguous pages are written together.
        for run in sums.chunk_by(|(a, _), (b, _)| a.get() + 1 == b.get()) {
            if let Some(&(first, _)) = run.first() {
                self.write_run(first, run.iter().map(|&(_, sum)| sum))?;
            }
        }
        self.pad()?;
        self.txid = txid;
        Ok(())
    }

    /// Appends the sums of the pages from `first` on, for a table that is built in
    /// page order.
    pub(crate) fn append(&mut self, first: Pgno, sums: &[Checksum]) -> Result<()> {
        self.commit = first.get() - 1 + u32::try_from(sums.len()).unwrap_or(u32::MAX);
        self.write_run(first, sums.iter().copied())
    }

    /// Declares a table built by [`append`](Self::append) complete: it describes
    /// `txid` exactly.
    pub(crate) fn complete(&mut self, txid: Txid, commit: u32) -> Result<()> {
        self.commit = commit;
        self.txid = txid;
        self.pad()
    }

    /// Makes the table durable as of its present transaction.
    pub(crate) fn stamp(&mut self) -> Result<()> {
        let failed = |e| Error::io("write page sums", e);
        self.file.sync_data().map_err(failed)?;
        let header = Header { stamp: self.txid, commit: self.commit, page_size: self.page_size };
        self.file.write_all_at(&header.encode(), 0).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.stamp = self.txid;
        Ok(())
    }

    /// Makes the file as long as its last entry, which a lock page at the end
    /// would otherwise leave out.
    fn pad(&self) -> Result<()> {
        let expected = HEADER_LEN as u64 + u64::from(self.commit) * ENTRY_LEN as u64;
        let failed = |e| Error::io("write page sums", e);
        if self.file.as_file().metadata().map_err(failed)?.len() < expected {
            self.file.set_len(expected).map_err(failed)?;
        }
        Ok(())
    }

    fn write_run(&self, first: Pgno, sums: impl Iterator<Item = Checksum>) -> Result<()> {
        let bytes: Vec<u8> = sums.flat_map(|sum| sum.get().to_le_bytes()).collect();
        self.file.write_all_at(&bytes, entry_offset(first)).map_err(|e| Error::io("write page sums", e))
    }
}

struct Header {
    stamp: Txid,
    commit: u32,
    page_size: PageSize,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.stamp.get().to_le_bytes());
        bytes.extend_from_slice(&self.commit.to_le_bytes());
        bytes.extend_from_slice(&self.page_size.get().to_le_bytes());
        bytes.resize(HEADER_LEN - 8, 0);
        bytes.extend_from_slice(&checksum(CrcAlgorithm::Crc64Nvme, &bytes).to_le_bytes());
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&bytes);
        header
    }

    fn decode(header: &[u8; HEADER_LEN]) -> Option<Self> {
        let (body, digest) = header.split_at(HEADER_LEN - 8);
        if body.get(..8)? != MAGIC || checksum(CrcAlgorithm::Crc64Nvme, body).to_le_bytes() != digest {
            return None;
        }
        Some(Self {
            stamp: Txid::new(u64::from_le_bytes(body.get(8..16)?.try_into().ok()?)),
            commit: u32::from_le_bytes(body.get(16..20)?.try_into().ok()?),
            page_size: PageSize::new(u32::from_le_bytes(body.get(20..24)?.try_into().ok()?))?,
        })
    }
}

fn entry_offset(pgno: Pgno) -> u64 {
    HEADER_LEN as u64 + u64::from(pgno.get() - 1) * ENTRY_LEN as u64
}

const MAGIC: &[u8; 8] = b"LSSUM001";
const HEADER_LEN: usize = 64;
const ENTRY_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn pgno(number: u32) -> Pgno {
        Pgno::new(number).unwrap()
    }

    fn sum(n: u64) -> Checksum {
        Checksum::new(n | 1 << 63)
    }

    fn table() -> (File, PageSums) {
        let file = tempfile::tempfile().unwrap();
        let sums = PageSums::create(file.try_clone().unwrap().into(), PageSize::new(512).unwrap()).unwrap();
        (file, sums)
    }

    #[test]
    fn sums_follow_writes_growth_and_shrinking() {
        let (_, mut sums) = table();
        sums.append(pgno(1), &[sum(1), sum(2)]).unwrap();
        sums.append(pgno(3), &[sum(3)]).unwrap();
        sums.complete(Txid::new(1), 3).unwrap();
        sums.apply(Txid::new(2), 5, &[(pgno(2), sum(20)), (pgno(4), sum(4)), (pgno(5), sum(5))]).unwrap();
        assert_eq!(sums.read(pgno(1), 5).unwrap(), [1, 20, 3, 4, 5].map(sum));
        sums.apply(Txid::new(3), 2, &[(pgno(1), sum(10))]).unwrap();
        assert_eq!(sums.read(pgno(1), 3).unwrap(), [sum(10), sum(20), Checksum::NONE]);
        sums.apply(Txid::new(4), 4, &[(pgno(4), sum(44))]).unwrap();
        let regrown = sums.read(pgno(3), 2).unwrap();
        assert_eq!(regrown, [Checksum::NONE, sum(44)], "an old entry does not shine through after regrowth");
    }

    #[test]
    fn a_table_without_a_stamp_does_not_exist() {
        let (file, mut sums) = table();
        sums.append(pgno(1), &[sum(1)]).unwrap();
        sums.complete(Txid::new(7), 1).unwrap();
        assert!(PageSums::open(file.try_clone().unwrap().into()).unwrap().is_none());
        sums.stamp().unwrap();
        let again = PageSums::open(file.try_clone().unwrap().into()).unwrap().unwrap();
        assert_eq!((again.txid(), again.read(pgno(1), 1).unwrap()), (Txid::new(7), vec![sum(1)]));
        file.write_all_at(&[0xff], 17).unwrap();
        assert!(PageSums::open(file.into()).unwrap().is_none(), "a damaged header is no header");
    }

    /// A lock page at the very end has no entry of its own to make the file long
    /// enough for it.
    #[test]
    fn a_table_that_ends_with_the_lock_page_reads_back() {
        let (_, mut sums) = table();
        sums.append(pgno(1), &[sum(1)]).unwrap();
        sums.complete(Txid::new(1), 2).unwrap();
        assert_eq!(sums.read(pgno(1), 2).unwrap(), [sum(1), Checksum::NONE]);
    }
}
