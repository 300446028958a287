//! A rollback journal in SQLite's own format.
//!
//! While pages are written into a live database, its old pages stand in
//! `<database>-journal`. A process that dies half way leaves that file behind,
//! and SQLite calls it *hot*: whoever opens the database next, our own next start
//! or any reader that may write, puts the old pages back before it reads one.
//!
//! ```text
//! d9 d5 05 f9 20 a1 63 d7 | records | nonce | pages before | sector | page size | zeros up to 512
//! page number | old page | nonce + every 200th byte                                  … records
//! ```
//!
//! Order that must never change: records on the disk, then their count, then the
//! name, and only then the first write to the database; the database on the disk,
//! and only then the journal removed, which is the commit.
//!
//! Source: sqlite.org/fileformat2.html §3, sqlite.org/atomiccommit.html.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ltx::{PageSize, Pgno};
use rustix::fs::OFlags;

use super::sidecar::sync_parent;
use crate::error::{Error, Result};

/// A journal being written. Dropped before it is sealed, it is removed: the
/// database has not been touched. Dropped later, it stays and is hot.
pub(super) struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    page_size: PageSize,
    nonce: u32,
    count: u32,
    is_sealed: bool,
}

impl Journal {
    /// Begins a journal for the database at `database`, which has `page_count`
    /// pages. The caller holds its EXCLUSIVE lock, and SQLite has dealt with
    /// older journals.
    pub(super) fn create(database: &Path, page_size: PageSize, page_count: u32) -> Result<Self> {
        let path = path_of(database);
        let failed = |e| Error::io(format!("create {}", path.display()), e);
        // Whoever may read the database must be able to roll it back.
        let owner = fs::metadata(database).map_err(failed)?;
        // SQLite does not follow a link there either.
        let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(owner.mode() & 0o777).custom_flags(nofollow);
        let file = options.open(&path).map_err(failed)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid()), rustix::fs::Gid::from_raw(owner.gid()));
        // Only root can, and only for root does it matter.
        let _ = rustix::fs::fchown(&file, Some(uid), Some(gid));
        let mut journal = Self {
            path,
            file: BufWriter::with_capacity(WRITE_LEN, file),
            page_size,
            nonce: fastrand::u32(..),
            count: 0,
            is_sealed: false,
        };
        let mut header = [0; SECTOR_LEN as usize];
        let words = [0, journal.nonce, page_count, SECTOR_LEN, page_size.get()].map(u32::to_be_bytes).concat();
        for (place, byte) in header.iter_mut().zip(MAGIC.into_iter().chain(words)) {
            *place = byte;
        }
        journal.file.write_all(&header).map_err(|e| journal.failed("write", e))?;
        Ok(journal)
    }

    /// Adds a page as it is in the database. Each page at most once.
    pub(super) fn push(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        debug_assert_eq!(page.len(), self.page_size.len());
        let sum = checksum(self.nonce, page).to_be_bytes();
        for part in [&pgno.get().to_be_bytes()[..], page, &sum[..]] {
            self.file.write_all(part).map_err(|e| self.failed("write", e))?;
        }
        self.count += 1;
        Ok(())
    }

    /// Makes the journal durable. From here on it protects the database.
    pub(super) fn seal(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| self.failed("write", e))?;
        let file = self.file.get_ref();
        // The count is what makes records valid; a count on the disk before its
        // records would put garbage into the database.
        file.sync_all().map_err(|e| self.failed("fsync", e))?;
        file.write_all_at(&self.count.to_be_bytes(), COUNT_OFFSET).map_err(|e| self.failed("write", e))?;
        file.sync_all().map_err(|e| self.failed("fsync", e))?;
        sync_parent(&self.path)?;
        self.is_sealed = true;
        Ok(())
    }

    /// Removes the journal: the new pages, which are on the disk, are the
    /// database from here on.
    pub(super) fn commit(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|e| self.failed("remove", e))?;
        sync_parent(&self.path)
    }

    fn failed(&self, what: &str, error: io::Error) -> Error {
        Error::io(format!("{what} {}", self.path.display()), error)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_sealed {
            // Nothing it holds was overwritten. Should it stay, rolling it back
            // changes nothing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where SQLite looks for the journal of `database`, a path without symbolic
/// links.
pub(super) fn path_of(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-journal");
    path.into()
}

/// As SQLite has it: cheap, and enough to notice a record that was never written.
fn checksum(nonce: u32, page: &[u8]) -> u32 {
    let mut sum = nonce;
    let mut at = page.len().saturating_sub(CHECKSUM_STEP);
    while at > 0 {
        sum = sum.wrapping_add(page.get(at).copied().map_or(0, u32::from));
        at = at.saturating_sub(CHECKSUM_STEP);
    }
    sum
}

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Records begin at the second sector.
const SECTOR_LEN: u32 = 512;
const COUNT_OFFSET: u64 = 8;
const CHECKSUM_STEP: usize = 200;
const WRITE_LEN: usize = 256 << 10;
