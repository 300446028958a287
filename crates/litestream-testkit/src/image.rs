//! The oracle: which bytes a WAL database consists of at this moment.
//!
//! A database's logical image is its main file overlaid with the committed
//! frames of its WAL, cut to the size of the last commit, with the page that
//! holds SQLite's lock bytes zeroed. This reader shares no code with the one under
//! test.
//!
//! The rule that must never break: this process must not open a live database or
//! its `-shm` as plain files. Closing such a descriptor drops every POSIX lock
//! that the process holds on that file, and the database may be open here through
//! the code under test. So children make copies, and only copies are read.
//!
//! Sources: SQLite "Database File Format" §1.3 and §4; spec ltx.md (lock page).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use crate::sigv4::hex;

/// A database's content at one commit.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    page_size: usize,
    bytes: Vec<u8>,
}

impl Image {
    /// The image of a database in a plain file that nobody has open, such as one
    /// just restored. A `-wal` beside it counts.
    ///
    /// # Errors
    /// When the files cannot be read or are no database.
    pub fn of_closed_file(path: &Path) -> Result<Self> {
        let wal = sidecar(path, "-wal");
        let wal_bytes = if wal.exists() { fs::read(&wal)? } else { Vec::new() };
        let main = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::assemble(main, &wal_bytes)
    }

    /// Lays the committed frames of `wal` (may be empty) over `main`.
    ///
    /// # Errors
    /// When neither names a page size.
    pub fn assemble(main: Vec<u8>, wal: &[u8]) -> Result<Self> {
        let wal = Wal::parse(wal);
        let Some(page_size) = wal.page_size.or_else(|| page_size_of(&main)) else {
            ensure!(main.is_empty(), "no database: {} bytes without a page size", main.len());
            return Ok(Self { page_size: 0, bytes: main });
        };
        let mut bytes = main;
        let len = match wal.commit {
            Some(page_count) => page_count * page_size,
            None => bytes.len() / page_size * page_size,
        };
        bytes.resize(len, 0);
        for (page_number, data) in &wal.pages {
            // A page beyond the end belongs to a commit that was truncated later.
            if let Some(page) = bytes.chunks_exact_mut(page_size).nth(page_number - 1) {
                page.copy_from_slice(data);
            }
        }
        if let Some(lock_page) = bytes.chunks_exact_mut(page_size).nth(PENDING_BYTE / page_size) {
            lock_page.fill(0);
        }
        Ok(Self { page_size, bytes })
    }

    /// `page_count × page_size` bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes in a page; 0 for a database without pages.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// Pages in the database.
    pub fn page_count(&self) -> usize {
        self.bytes.len().checked_div(self.page_size).unwrap_or(0)
    }

    /// SHA-256 of [`bytes`](Self::bytes), in lower-case hexadecimal.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }

    /// Where `actual` first differs from this image; `None` if they are equal.
    pub fn difference(&self, actual: &Self) -> Option<Difference> {
        if self == actual {
            return None;
        }
        let offset = self.bytes.iter().zip(&actual.bytes).position(|(expected, actual)| expected != actual);
        let pages = |image: &Self| image.bytes.chunks(image.page_size.max(1)).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let different_pages = if self.page_size == actual.page_size {
            pages(self).iter().zip(pages(actual)).filter(|(expected, actual)| *expected != actual).count()
        } else {
            0
        };
        Some(Difference {
            page_sizes: (self.page_size, actual.page_size),
            page_counts: (self.page_count(), actual.page_count()),
            first: offset.map(|offset| (offset / self.page_size.max(1) + 1, offset % self.page_size.max(1))),
            different_pages,
        })
    }

    /// Panics unless `actual` equals this image, naming the first page that
    /// differs. `what` says which images these are.
    ///
    /// # Panics
    /// As said.
    #[track_caller]
    pub fn assert_same(&self, actual: &Self, what: &str) {
        if let Some(difference) = self.difference(actual) {
            panic!("{what}: {difference}");
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} pages of {} bytes, sha256 {})", self.page_count(), self.page_size, self.sha256())
    }
}

/// How two images differ. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Expected and actual.
    pub page_sizes: (usize, usize),
    /// Expected and actual.
    pub page_counts: (usize, usize),
    /// Page number and offset in that page of the first byte that differs, as far
    /// as both images reach.
    pub first: Option<(usize, usize)>,
    /// How many pages differ, among those that both have.
    pub different_pages: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (expected, actual) = self.page_counts;
        write!(f, "images differ: {expected} pages expected, {actual} found")?;
        if self.page_sizes.0 != self.page_sizes.1 {
            write!(f, "; page size {} expected, {} found", self.page_sizes.0, self.page_sizes.1)?;
        }
        if let Some((page, offset)) = self.first {
            write!(f, "; {} pages differ, first page {page} at its byte {offset}", self.different_pages)?;
        }
        Ok(())
    }
}

/// The image of a live database that nobody writes at this moment; checkpoints
/// and readers may go on, in this process or elsewhere.
///
/// # Errors
/// When a writer was active during each of several attempts, or a file cannot be
/// read.
pub fn read_image(db: &Path) -> Result<Image> {
    let copy = quiet_copy(db)?;
    Image::assemble(fs::read(copy.db())?, &fs::read(copy.wal())?)
}

/// A copy of a live database into the file `output`, checkpointed by SQLite
/// itself; same conditions as [`read_image`]. Leaves no `-wal` or `-shm`.
///
/// # Errors
/// As [`read_image`], and when SQLite fails or is blocked.
pub fn checkpointed_copy(db: &Path, output: &Path) -> Result<()> {
    let copy = quiet_copy(db)?;
    let connection = Connection::open(copy.db())?;
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    ensure!(busy == 0, "checkpoint of a private copy was blocked");
    connection.close().map_err(|(_, error)| error)?;
    fs::copy(copy.db(), output).with_context(|| format!("copy to {}", output.display()))?;
    Ok(())
}

/// Private copies of a database and its WAL; removed when dropped.
pub(crate) struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    pub(crate) fn db(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.dir.path().join("db-wal")
    }
}

pub(crate) fn quiet_copy(db: &Path) -> Result<Copy> {
    let copy = Copy { dir: tempfile::tempdir()? };
    let wal = sidecar(db, "-wal");
    let wal_after = copy.dir.path().join("wal-after");
    for _ in 0..20 {
        // The WAL goes first: a checkpoint between the copies only moves into the
        // main file what the copied WAL holds too. Whoever writes, or truncates
        // the WAL after writing, changes the WAL, and the copies are made again.
        copy_by_child(&wal, &copy.wal())?;
        copy_by_child(db, &copy.db())?;
        copy_by_child(&wal, &wal_after)?;
        let (before, after) = (fs::read(copy.wal())?, fs::read(&wal_after)?);
        fs::remove_file(&wal_after)?;
        if before == after {
            return Ok(copy);
        }
    }
    bail!("{} is being written; an image needs a quiet moment", db.display())
}

fn copy_by_child(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        return fs::write(to, b"").with_context(|| format!("write {}", to.display()));
    }
    let output = Command::new("cp").arg("--").arg(from).arg(to).output().context("run cp")?;
    ensure!(output.status.success(), "cp {}: {}", from.display(), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// `db` with `suffix` appended to its file name.
pub(crate) fn sidecar(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The byte that SQLite locks; its page is never used.
const PENDING_BYTE: usize = 0x4000_0000;

fn page_size_of(main: &[u8]) -> Option<usize> {
    match main.get(16..18)? {
        [0, 1] => Some(65_536),
        [high, low] => Some(usize::from(*high) << 8 | usize::from(*low)).filter(|size| *size >= 512),
        _ => None,
    }
}

/// Committed content of a WAL.
#[derive(Default)]
pub(crate) struct Wal<'a> {
    page_size: Option<usize>,
    /// Bytes up to the end of the last commit.
    pub(crate) committed_len: usize,
    /// Database size in pages after the last commit.
    commit: Option<usize>,
    /// Newest committed version of each page, by page number.
    pages: BTreeMap<usize, &'a [u8]>,
}

impl<'a> Wal<'a> {
    /// Reads frames up to the first that fails its salt or checksum; what follows
    /// the last commit does not count.
    pub(crate) fn parse(bytes: &'a [u8]) -> Self {
        Self::try_parse(bytes).unwrap_or_default()
    }

    fn try_parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..32)?;
        let big_endian = match word(header, 0)? {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let page_size = usize::try_from(word(header, 8)?).ok()?;
        if !page_size.is_power_of_two() || !(512..=65_536).contains(&page_size) {
            return None;
        }
        let mut sum = checksum((0, 0), header.get(..24)?, big_endian);
        if sum != (word(header, 24)?, word(header, 28)?) {
            return None;
        }
        let mut wal = Wal { page_size: Some(page_size), ..Wal::default() };
        let mut open_pages = BTreeMap::new();
        for (number, frame) in bytes.get(32..)?.chunks_exact(24 + page_size).enumerate() {
            let (head, data) = frame.split_at(24);
            sum = checksum(sum, head.get(..8)?, big_endian);
            sum = checksum(sum, data, big_endian);
            let page_number = usize::try_from(word(head, 0)?).ok()?;
            let intact = head.get(8..16)? == header.get(16..24)? && sum == (word(head, 16)?, word(head, 20)?);
            if !intact || page_number == 0 {
                break;
            }
            open_pages.insert(page_number, data);
            let commit = usize::try_from(word(head, 4)?).ok()?;
            if commit != 0 {
                wal.pages.append(&mut open_pages);
                wal.commit = Some(commit);
                wal.committed_len = 32 + (number + 1) * (24 + page_size);
            }
        }
        Some(wal)
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// SQLite's WAL checksum, continued from `sum`, over a multiple of eight bytes.
fn checksum(sum: (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let (words, _) = bytes.as_chunks::<4>();
    let word = |bytes: [u8; 4]| if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    let (pairs, _) = words.as_chunks::<2>();
    pairs.iter().fold(sum, |(first, second), [even, odd]| {
        let first = first.wrapping_add(word(*even)).wrapping_add(second);
        (first, second.wrapping_add(word(*odd)).wrapping_add(first))
    })
}
