//! The local state directory of one database.
//!
//! ```text
//! .<file>-litestream/
//!   ltx/0/<txid>-<txid>.ltx   level-0 files, kept until uploaded and old enough
//!   position                  where capture stands (ours; see `position`)
//!   page-sums                 checksum of every page (ours; see `page_sums`)
//!   open-delta, sealed-delta  scratch space for pages between two files (ours)
//!   image-expected            an image was begun and is not known to be stored (ours)
//!   held-tail                 scratch space for frames copied under the lock (ours)
//!   compacted/<level>/…       copies of merged files (ours; see `staged`)
//!   replica-problem           what is wrong with the replica (ours; see `health`)
//!   lock                      held while a daemon works on this database (ours)
//! ```
//!
//! Upstream reads `ltx/0` alone and ignores the rest, so either program can take
//! over the directory from the other. Nothing of ours ends in `.tmp` or stands
//! under `ltx/`, because upstream sweeps both.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use litestream_replica::flushes::{FLUSHES, Pieces};
use ltx::{FileName, Txid};
use rustix::fs::OFlags;

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, ErrorKind, Result};
use crate::private;

/// Where the local state of `db` lives unless configured: `<dir>/.<file>-litestream`.
pub fn default_path(db: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(db.file_name().unwrap_or_default());
    name.push("-litestream");
    db.with_file_name(name)
}

/// The newest local transaction, from file names alone. `None` without any.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn local_txid(meta: &Path) -> io::Result<Option<Txid>> {
    Ok(list_l0(meta)?.last().copied())
}

/// True while a daemon of this implementation works on the database whose local
/// state is here. Upstream's takes no lock.
///
/// # Errors
/// When that cannot be found out.
pub fn is_in_use(meta: &Path) -> io::Result<bool> {
    let lock = match File::options().read(true).open(meta.join(LOCK)) {
        Ok(lock) => lock,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(err) => return Err(err),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(err)) => Err(err),
    }
}

/// Local level-0 files of transactions after `after`: their total size in bytes,
/// and when the oldest was written. Reads the directory.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn unsent_files(meta: &Path, after: Txid) -> io::Result<(u64, Option<jiff::Timestamp>)> {
    let mut total = 0;
    let mut oldest = None;
    for txid in list_l0(meta)?.into_iter().filter(|txid| *txid > after) {
        let path = meta.join("ltx/0").join(FileName { min: txid, max: txid }.to_string());
        // One that is gone meanwhile was sent and expired.
        let Ok(file) = fs::metadata(path) else { continue };
        total += file.len();
        if oldest.is_none() {
            oldest = file.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
        }
    }
    Ok((total, oldest))
}

/// TXIDs of the local level-0 files, ascending.
fn list_l0(meta: &Path) -> io::Result<Vec<Txid>> {
    let entries = match fs::read_dir(meta.join("ltx/0")) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut txids = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(name) = name.to_str().and_then(FileName::parse)
            && name.min == name.max
        {
            txids.push(name.max);
        }
    }
    txids.sort_unstable();
    Ok(txids)
}

/// Who owns the files we make: like the database, so that an application running
/// as another user is never locked out (spec: replication §3.3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ownership {
    file_mode: u32,
    dir_mode: u32,
    file_owner: (u32, u32),
    dir_owner: (u32, u32),
}

impl Ownership {
    /// Takes mode and owner from the database file and its directory.
    pub(crate) fn of(db: &Path) -> io::Result<Self> {
        let file = fs::metadata(db)?;
        let dir = fs::metadata(parent(db))?;
        Ok(Self {
            file_mode: file.mode() & 0o777,
            dir_mode: dir.mode() & 0o7777,
            file_owner: (file.uid(), file.gid()),
            dir_owner: (dir.uid(), dir.gid()),
        })
    }

    fn apply_to_file(self, file: &File) -> io::Result<()> {
        // The umask still applies, as it does to every other new file here.
        file.set_permissions(Permissions::from_mode(self.file_mode & !umask()))?;
        give(file, self.file_owner);
        Ok(())
    }

    fn apply_to_dir(self, path: &Path) -> io::Result<()> {
        let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed();
        let dir = File::options().read(true).custom_flags(flags).open(path)?;
        dir.set_permissions(Permissions::from_mode(self.dir_mode & !umask()))?;
        give(&dir, self.dir_owner);
        Ok(())
    }
}

/// Gives a file of ours the mode and owner of the database at `db`.
pub(crate) fn own_file(db: &Path, file: &File) -> io::Result<()> {
    Ownership::of(db)?.apply_to_file(file)
}

/// Makes a directory of ours, and those above it, with mode and owner of the
/// directory of the database at `db`.
pub(crate) fn own_dirs(db: &Path, path: &Path) -> Result<()> {
    let ownership = Ownership::of(db).map_err(|e| Error::io("read attributes of database", e))?;
    create_dirs(path, ownership)
}

/// Changes the owner where we may; an unprivileged process cannot, and then owns
/// the file like every other it makes.
fn give(file: &File, (uid, gid): (u32, u32)) {
    let unprivileged = std::os::unix::fs::fchown(file, Some(uid), Some(gid)).is_err();
    if unprivileged {
        tracing::trace!(uid, gid, "owner not changed");
    }
}

/// The process's umask. There is no call that only reads it.
fn umask() -> u32 {
    use std::sync::OnceLock;
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        rustix::process::umask(mask);
        mask.as_raw_mode()
    })
}

/// The directory of one open database, locked against a second daemon.
#[derive(Debug)]
pub(crate) struct MetaDir {
    root: PathBuf,
    ownership: Ownership,
    disk: Disk,
    _lock: File,
}

impl MetaDir {
    /// Creates what is missing, locks the directory and sweeps unfinished files.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] when another process holds the lock.
    pub(crate) fn open(root: &Path, db: &Path, disk: Disk) -> Result<Self> {
        let ownership = Ownership::of(db).map_err(|e| Error::io("read attributes of database", e))?;
        create_dirs(root, ownership)?;
        let lock = lock(root, db, ownership)?;
        let meta = Self { root: root.to_owned(), ownership, disk, _lock: lock };
        create_dirs(&meta.l0_dir(), ownership)?;
        meta.sweep()?;
        Ok(meta)
    }

    fn l0_dir(&self) -> PathBuf {
        self.root.join("ltx/0")
    }

    /// Path of the level-0 file of one transaction.
    pub(crate) fn l0_path(&self, txid: Txid) -> PathBuf {
        self.l0_dir().join(FileName { min: txid, max: txid }.to_string())
    }

    /// TXIDs of the local level-0 files, ascending.
    pub(crate) fn l0_txids(&self) -> Result<Vec<Txid>> {
        list_l0(&self.root).map_err(|e| Error::io("list local ltx files", e))
    }

    /// Writes a level-0 file under its temporary name, flushed as `pace` says. It
    /// becomes real, and durable, by [`publish_l0`](Self::publish_l0); dropping it
    /// removes it.
    pub(crate) fn stage_l0<T>(
        &self,
        txid: Txid,
        pace: Pace,
        write: impl FnOnce(&mut io::BufWriter<Steady>) -> Result<T>,
    ) -> Result<(StagedL0, T)> {
        // Counting saturates there, so that a second file would take its name.
        if txid == Txid::LAST {
            let problem = "no transaction ID is left behind those in the replica; it holds a file no writer made";
            return Err(Error::new(ErrorKind::Setup, problem));
        }
        let path = self.l0_path(txid);
        let stage = |step: &str, err| Error::io(format!("{step} ltx file {}", path.display()), err);
        if !self.l0_dir().exists() {
            create_dirs(&self.l0_dir(), self.ownership)?;
        }
        let staging = path.with_extension("ltx.tmp");
        let file = self.disk.create(&staging).map_err(|e| stage("stage-open", e))?;
        let unfinished = Unfinished { path: staging, disk: self.disk.clone() };
        self.ownership.apply_to_file(file.as_file()).map_err(|e| stage("stage-open", e))?;
        let mut out = io::BufWriter::with_capacity(WRITE_BUFFER_LEN, Steady { file, pieces: Pieces::default(), pace });
        let value = write(&mut out)?;
        let out = out.into_inner().map_err(|e| stage("stage-write", e.into_error()))?;
        Ok((StagedL0 { path, out, unfinished }, value))
    }

    /// Makes a staged file durable under its final name and returns its path.
    pub(crate) fn publish_l0(&self, staged: StagedL0) -> Result<PathBuf> {
        let StagedL0 { path, out, unfinished } = staged;
        let stage = |step: &str, err| Error::io(format!("{step} ltx file {}", path.display()), err);
        let _turn = (out.pace == Pace::Aside).then(|| FLUSHES.turn());
        out.file.sync_all().map_err(|e| stage("stage-sync", e))?;
        self.disk.rename(&unfinished.path, &path).map_err(|e| stage("rename", e))?;
        unfinished.keep();
        self.disk.sync_dir(&self.l0_dir()).map_err(|e| stage("stage-sync", e))?;
        Ok(path)
    }

    /// Deletes one level-0 file; absent counts as deleted.
    pub(crate) fn remove_l0(&self, txid: Txid) -> Result<()> {
        match self.disk.remove(&self.l0_path(txid)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Error::io("delete local ltx file", err)),
            _ => Ok(()),
        }
    }

    /// Notes, for good, that an image begins whose arrival will have to be known.
    pub(crate) fn expect_image(&self, txid: Txid) -> Result<()> {
        let failed = |e| Error::io("note that an image is on its way", e);
        let note = self.disk.create(&self.root.join(IMAGE_EXPECTED)).map_err(failed)?;
        self.ownership.apply_to_file(note.as_file()).map_err(failed)?;
        note.write_all_at(format!("{txid}\n").as_bytes(), 0).map_err(failed)?;
        note.sync_all().map_err(failed)?;
        self.disk.sync_dir(&self.root).map_err(failed)
    }

    /// The number of an image that began, when nobody learned whether it arrived;
    /// [`Txid::NONE`] where the note does not say.
    pub(crate) fn expected_image(&self) -> Option<Txid> {
        let note = File::open(self.root.join(IMAGE_EXPECTED)).ok()?;
        let mut digits = [0; 16];
        let text = note.read_exact_at(&mut digits, 0).ok().and_then(|()| str::from_utf8(&digits).ok());
        Some(text.and_then(|text| text.parse().ok()).unwrap_or(Txid::NONE))
    }

    /// The image has arrived.
    pub(crate) fn image_arrived(&self) -> Result<()> {
        match self.disk.remove(&self.root.join(IMAGE_EXPECTED)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Error::io("note that an image arrived", err)),
            _ => Ok(()),
        }
    }

    /// Makes deletions of level-0 files durable.
    pub(crate) fn flush_names(&self) -> Result<()> {
        self.disk.sync_dir(&self.l0_dir()).map_err(|e| Error::io("flush names of local ltx files", e))
    }

    /// Puts a damaged file out of the way, keeping it for whoever wants to look.
    pub(crate) fn quarantine_l0(&self, txid: Txid) -> Result<PathBuf> {
        let path = self.l0_path(txid);
        let aside = self.root.join(format!("damaged-{txid}.ltx"));
        self.disk.rename(&path, &aside).map_err(|e| Error::io("set damaged ltx file aside", e))?;
        Ok(aside)
    }

    /// Removes files that a crash left half written.
    fn sweep(&self) -> Result<()> {
        let entries = fs::read_dir(self.l0_dir()).map_err(|e| Error::io("list local ltx files", e))?;
        for entry in entries {
            let path = entry.map_err(|e| Error::io("list local ltx files", e))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                self.disk.remove(&path).map_err(|e| Error::io("delete unfinished ltx file", e))?;
            }
        }
        Ok(())
    }

    /// Opens one of our side files for reading and writing, making it if absent.
    pub(crate) fn open_side_file(&self, name: &str) -> Result<DiskFile> {
        let path = self.root.join(name);
        if !self.root.exists() {
            create_dirs(&self.root, self.ownership)?;
        }
        let (file, is_new) = self.disk.open(&path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
        if is_new {
            self.ownership
                .apply_to_file(file.as_file())
                .map_err(|e| Error::io(format!("set mode of {}", path.display()), e))?;
        }
        Ok(file)
    }
}

/// Opens and locks the lock file of a state directory.
///
/// # Errors
/// [`ErrorKind::Setup`] when another process holds it.
pub(crate) fn lock(root: &Path, db: &Path, ownership: Ownership) -> Result<File> {
    let path = root.join(LOCK);
    let (lock, is_new) = private::open(&path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
    if is_new {
        ownership.apply_to_file(&lock).map_err(|e| Error::io(format!("set mode of {}", path.display()), e))?;
    }
    acquire(&lock, &path, db)?;
    Ok(lock)
}

/// Locks the directory, or says who must be stopped.
///
/// Patient for a moment: a process that is just being started by this one holds
/// copies of its descriptors, and with them a lock given up meanwhile.
fn acquire(lock: &File, path: &Path, db: &Path) -> Result<()> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    ErrorKind::Setup,
                    format!(
                        "another litestream process already replicates {}; stop it first, two writers would corrupt the replica",
                        db.display()
                    ),
                ));
            }
            Err(TryLockError::Error(err)) => return Err(Error::io(format!("lock {}", path.display()), err)),
        }
    }
}

/// How a file is brought to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// In one flush, at once: somebody waits for it.
    AtOnce,
    /// Piece by piece, each in its turn: a large one, on the side.
    Aside,
}

/// A file with its pace.
#[derive(Debug)]
pub(crate) struct Steady {
    file: DiskFile,
    pieces: Pieces,
    pace: Pace,
}

impl io::Write for Steady {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        if self.pace == Pace::Aside && self.pieces.is_due(len as u64) {
            let _turn = FLUSHES.turn();
            self.file.sync_data()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A level-0 file that is written but neither durable nor visible.
#[derive(Debug)]
pub(crate) struct StagedL0 {
    path: PathBuf,
    out: Steady,
    unfinished: Unfinished,
}

/// A file under its temporary name; dropping it removes the file.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    disk: Disk,
}

impl Unfinished {
    /// The file has its final name.
    fn keep(mut self) {
        // An empty path is no file: nothing is removed.
        self.path = PathBuf::new();
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Best effort on the way out of an error; the sweep at the next start
        // removes what is left.
        if !self.path.as_os_str().is_empty() && self.disk.remove(&self.path).is_err() {
            tracing::debug!(path = %self.path.display(), "unfinished ltx file left behind");
        }
    }
}

fn create_dirs(path: &Path, ownership: Ownership) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    create_dirs(parent(path), ownership)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io(format!("stage-mkdir {}", path.display()), err));
        }
        _ => {}
    }
    ownership.apply_to_dir(path).map_err(|e| Error::io(format!("set mode of {}", path.display()), e))
}

/// The directory part, `.` for a bare file name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

const LOCK: &str = "lock";
const IMAGE_EXPECTED: &str = "image-expected";
const LOCK_PATIENCE: Duration = Duration::from_millis(250);
const LOCK_PAUSE: Duration = Duration::from_millis(5);
const WRITE_BUFFER_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(dir: &Path) -> MetaDir {
        let db = dir.join("db");
        fs::write(&db, "x").unwrap();
        MetaDir::open(&default_path(&db), &db, Disk::default()).unwrap()
    }

    #[test]
    fn the_last_txid_is_never_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let meta = meta(dir.path());
        let error = meta.stage_l0(Txid::LAST, Pace::AtOnce, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        let (staged, ()) = meta.stage_l0(Txid::LAST.previous(), Pace::AtOnce, |_| Ok(())).unwrap();
        meta.publish_l0(staged).unwrap();
        assert_eq!(meta.l0_txids().unwrap(), [Txid::LAST.previous()]);
    }

    #[test]
    fn files_have_the_mode_of_the_database_and_directories_that_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("db");
        fs::write(&db, "x").unwrap();
        fs::set_permissions(&db, Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o750)).unwrap();
        let meta = MetaDir::open(&default_path(&db), &db, Disk::default()).unwrap();
        let (staged, ()) = meta.stage_l0(Txid::FIRST, Pace::AtOnce, |_| Ok(())).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let path = meta.publish_l0(staged).unwrap();
        let side = meta.open_side_file("position").unwrap();
        assert_eq!(mode(&path), 0o640 & !umask());
        assert_eq!(side.as_file().metadata().unwrap().mode() & 0o777, 0o640 & !umask());
        assert_eq!(mode(path.parent().unwrap()), 0o750 & !umask());
    }
}
