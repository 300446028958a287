//! Everything that exists only while the database is open: connections, pins,
//! file handles.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ltx::PageSize;

use crate::continuity::{Tail, Tally};
use crate::error::{Error, ErrorKind, Result};
use crate::pin_chain::{Held, PinChain, Side};
use crate::position::Inode;
use crate::sqlite::Connection;
use crate::wal::{self, Chain, Salts, WalHeader, WalPosition};
use crate::wal_index::WalIndex;

/// An open database with its pins.
///
/// Connections are declared before the file handles on purpose: fields drop in
/// order, and closing any descriptor of the database file drops SQLite's locks.
pub(super) struct Live {
    /// The side that holds no pin may be closed: see [`rest`](Self::rest).
    pins: [Option<Connection>; 2],
    locker: Option<Connection>,
    pub(super) chain: PinChain,
    pub(super) db: Arc<File>,
    pub(super) wal: Arc<File>,
    pub(super) inode: Inode,
    wal_inode: Inode,
    pub(super) page_size: PageSize,
    path: PathBuf,
    wal_path: PathBuf,
    busy_timeout: Duration,
    /// Frames that were certainly in the WAL when the newest pin was opened.
    pub(super) pinned_frames: u32,
    /// SQLite's count of commits where capture stands; `None` until everything before the
    /// first pin has been captured. Until then a restart of the WAL proves nothing,
    /// because the first pin may sit on slot 0.
    pub(super) tally: Option<Tally>,
}

impl Live {
    /// Opens the database and takes the first pin. From here on the WAL is
    /// protected, but nothing is known yet about what it held before.
    pub(super) fn open(path: &Path, busy_timeout: Duration, keep: &mut Option<(Inode, Arc<File>)>) -> Result<Self> {
        // SQLite opens `<database>-wal` beside the file a symlink points to.
        let path = fs::canonicalize(path).map_err(missing)?;
        let metadata = fs::metadata(&path).map_err(missing)?;
        if metadata.is_dir() {
            return Err(Error::new(ErrorKind::Setup, "the path is a directory, not a database file"));
        }
        if metadata.len() == 0 {
            // Switching an empty file to WAL would fix its page size before the
            // application had its say.
            return Err(Error::new(ErrorKind::Missing, "database is still empty"));
        }
        let inode = Inode::of(&metadata);
        let db = match keep {
            Some((known, file)) if *known == inode => file.clone(),
            _ => {
                let file = Arc::new(File::open(&path).map_err(|e| Error::io("open database", e))?);
                *keep = Some((inode, file.clone()));
                file
            }
        };
        if !says_wal(&db) {
            require_wal(&path, busy_timeout)?;
        }
        let first = Connection::open(&path, busy_timeout)?;
        let mut chain = PinChain::new();
        chain.begin(crate::pin_chain::Goal::Advance);
        first.begin_read()?;
        chain.step(crate::pin_chain::Event::Ok);
        let page_size = first.page_size()?;
        let wal_path = with_suffix(&path, "-wal");
        let wal = File::open(&wal_path).map_err(|e| Error::io(format!("open {}", wal_path.display()), e))?;
        let wal_inode = Inode::of(&wal.metadata().map_err(|e| Error::io("read attributes of wal", e))?);
        Ok(Self {
            pins: [Some(first), None],
            locker: None,
            chain,
            db,
            wal: Arc::new(wal),
            inode,
            wal_inode,
            page_size,
            path,
            wal_path,
            busy_timeout,
            pinned_frames: 0,
            tally: None,
        })
    }

    /// The files behind the paths are still the ones that are open, and the pin
    /// is really held.
    pub(super) fn check(&self) -> Result<()> {
        // The WAL first: where both go at once, with their directory or one after the
        // other, it is the database that tells that there is something to capture last.
        let wal = fs::metadata(&self.wal_path);
        let db = fs::metadata(&self.path).map_err(missing)?;
        if Inode::of(&db) != self.inode {
            return Err(Error::new(ErrorKind::Discontinuous, "the database file was replaced"));
        }
        if !wal.is_ok_and(|wal| Inode::of(&wal) == self.wal_inode) {
            return Err(Error::new(ErrorKind::Discontinuous, "the wal file was deleted or replaced"));
        }
        if self.chain.held() == Held::None {
            return Err(Error::new(ErrorKind::Discontinuous, "no read transaction is held"));
        }
        if !self.reader()?.is_reading() {
            return Err(Error::new(ErrorKind::Discontinuous, "the read transaction was lost"));
        }
        Ok(())
    }

    /// The connection of a side that holds the pin or has just been opened.
    pub(super) fn pin(&self, side: Side) -> Result<&Connection> {
        let [a, b] = &self.pins;
        let connection = match side {
            Side::A => a,
            Side::B => b,
        };
        connection.as_ref().ok_or_else(|| Error::new(ErrorKind::Discontinuous, "the connection of the pin is closed"))
    }

    /// As [`pin`](Self::pin), opened if need be.
    pub(super) fn open_pin(&mut self, side: Side) -> Result<&Connection> {
        let [a, b] = &mut self.pins;
        let connection = match side {
            Side::A => a,
            Side::B => b,
        };
        if connection.is_none() {
            let fresh = Connection::open(&self.path, self.busy_timeout)?;
            // A checkpoint wants a connection that has read before.
            fresh.begin_read()?;
            fresh.end()?;
            *connection = Some(fresh);
        }
        self.pin(side)
    }

    /// Closes the connections that hold nothing, as far as they can be told; an idle
    /// database needs one.
    pub(super) fn rest(&mut self) {
        let [a, b] = &mut self.pins;
        match self.chain.held() {
            Held::One(Side::A) => *b = None,
            Held::One(Side::B) => *a = None,
            Held::None | Held::Both { .. } => {}
        }
        self.locker = None;
        if let Ok(reader) = self.reader() {
            reader.release_wal_index();
        }
    }

    /// The third connection, for the write lock; opened when first needed.
    pub(super) fn locker(&mut self) -> Result<&Connection> {
        if self.locker.is_none() {
            self.locker = Some(Connection::open(&self.path, self.busy_timeout)?);
        }
        self.locker.as_ref().ok_or_else(|| Error::new(ErrorKind::Transient, "no connection for the write lock"))
    }

    /// Gives the write lock back, whatever happened.
    pub(super) fn unlock_writers(&self) -> Result<()> {
        self.locker.as_ref().map_or(Ok(()), Connection::end)
    }

    /// A connection of its own for a long read, such as a snapshot.
    pub(super) fn connect(&self) -> Result<Connection> {
        Connection::open(&self.path, self.busy_timeout)
    }

    /// What SQLite says about the WAL at this moment.
    pub(super) fn index(&self) -> Result<WalIndex> {
        self.reader()?.wal_index().ok_or_else(|| Error::new(ErrorKind::Busy, "the wal-index is being written"))
    }

    /// As [`index`](Self::index) without waiting for a writer in the act.
    pub(super) fn peek(&self) -> Option<WalIndex> {
        self.reader().ok()?.peek_wal_index()
    }

    /// The connection that holds the pin.
    fn reader(&self) -> Result<&Connection> {
        match self.chain.held() {
            Held::None => self.pin(Side::A),
            Held::One(side) | Held::Both { old: side } => self.pin(side),
        }
    }

    /// What was read from frames of generation `salts` until now is what they held. A pin
    /// on slot 0, which SQLite gives when everything was copied, does not keep the WAL
    /// from starting over; that is published in the wal-index before the first frame is
    /// overwritten.
    ///
    /// # Errors
    /// [`ErrorKind::Discontinuous`] when the WAL has started over.
    pub(super) fn is_still_in(&self, salts: Salts) -> Result<()> {
        if self.index()?.end.salts == salts {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Discontinuous, "the wal started over while it was read"))
    }

    /// The WAL header of generation `salts`, and the place before its first frame.
    pub(super) fn header(&self, salts: Salts) -> Result<WalHeader> {
        let header = wal::read_header(&self.wal).map_err(|e| Error::io("read wal header", e))?;
        header
            .filter(|header| header.salts == salts)
            .ok_or_else(|| Error::new(ErrorKind::Discontinuous, "the wal header is not the one the wal-index names"))
    }

    /// The database behind symlinks, and its WAL.
    pub(super) fn paths(&self) -> (&Path, &Path) {
        (&self.path, &self.wal_path)
    }

    /// What stands in the WAL where the next frame after `place` would go. `None` at
    /// the end of the file.
    pub(super) fn tail(&self, place: &WalPosition) -> Option<Tail> {
        let mut frame_header = [0; wal::FRAME_HEADER_LEN];
        self.wal.read_exact_at(&mut frame_header, wal::frame_offset(self.page_size, place.frame)).ok()?;
        Some(Tail { place: *place, wal_inode: self.wal_inode, frame_header })
    }

    /// Salts and checksum stored in the frame right before `place`.
    pub(super) fn frame_before(&self, place: &WalPosition) -> Result<Option<(Salts, Chain)>> {
        let Some(frame) = place.frame.checked_sub(1) else { return Ok(None) };
        let mut words = [0; wal::FRAME_HEADER_LEN];
        match self.wal.read_exact_at(&mut words, wal::frame_offset(self.page_size, frame)) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(err) => return Err(Error::io("read wal frame", err)),
        }
        let word = |i: usize| words.get(i..i + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        Ok(Some((Salts(word(8), word(12)), Chain(word(16), word(20)))))
    }
}

/// The header of the database says that it is in WAL mode. It is read here because
/// asking SQLite parses the schema, which a connection then keeps in memory.
fn says_wal(db: &File) -> bool {
    let mut versions = [0; 2];
    db.read_exact_at(&mut versions, FORMAT_VERSIONS_OFFSET).is_ok() && versions == WAL_FORMAT_VERSIONS
}

/// Switches the database to WAL mode unless SQLite finds it in it.
fn require_wal(path: &Path, busy_timeout: Duration) -> Result<()> {
    let connection = Connection::open(path, busy_timeout)?;
    let mode = connection.journal_mode()?;
    if mode != "wal" {
        tracing::info!(db = %path.display(), from = mode, "switching database to wal mode, which replication requires");
        connection.enable_wal()?;
    }
    Ok(())
}

fn missing(err: std::io::Error) -> Error {
    match err.kind() {
        std::io::ErrorKind::NotFound => Error::new(ErrorKind::Missing, "no database found"),
        _ => Error::io("read attributes of database", err),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Write and read version of the file format: sqlite.org/fileformat2.html §1.3.
const FORMAT_VERSIONS_OFFSET: u64 = 18;
const WAL_FORMAT_VERSIONS: [u8; 2] = [2, 2];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod tests;
