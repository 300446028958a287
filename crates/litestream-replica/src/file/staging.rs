//! One file on its way to its final name: written under a temporary one, made
//! durable, then made visible in one step.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use jiff::Timestamp;
use ltx::FileName;

use super::{FileOptions, READ_LEN};
use crate::flushes::{FLUSHES, Pieces};
use crate::layout::level_dir;
use crate::{Error, ErrorKind, Level, Result, WriteMode};

/// Everything needed to bring one file to its final name.
pub(super) struct Staging {
    pub(super) path: PathBuf,
    pub(super) options: Arc<FileOptions>,
    pub(super) swept: Arc<Once>,
    pub(super) timestamp: Timestamp,
    pub(super) mode: WriteMode,
    pub(super) gone: CallerGone,
}

/// `true` once the caller has dropped its future. Held across the one step that
/// makes the file visible, so that nothing appears afterwards.
pub(super) type CallerGone = Arc<Mutex<bool>>;

pub(super) struct GoneOnDrop(pub(super) CallerGone);

impl Drop for GoneOnDrop {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

impl Staging {
    pub(super) fn error(&self, what: &str, source: io::Error) -> Error {
        Error::io(format!("{what} {}", self.path.display()), source)
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    pub(super) fn check_cancelled(&self) -> Result<()> {
        match *self.gone.lock().unwrap_or_else(PoisonError::into_inner) {
            true => Err(Error::new(ErrorKind::Cancelled, format!("write {}", self.path.display()))),
            false => Ok(()),
        }
    }

    /// Creates the temporary file, and its directory if need be.
    pub(super) fn create(&self) -> Result<Temp> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        self.swept.call_once(|| sweep(&self.options.path));
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".{}-{count}-{:08x}{TEMPORARY}", std::process::id(), fastrand::u32(..)));
        let path = self.path.with_file_name(name);

        let open = || OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&path);
        let file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let dir = self.dir();
                self.create_dir(dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
                open()
            }
            other => other,
        };
        let file = file.map_err(|e| self.error("create", e))?;
        // Tells a sweep by another process that this file is in use. Filesystems
        // without locks cannot tell, and are not swept either.
        let _ = file.try_lock();
        Ok(Temp { path, file, size: 0, pieces: Pieces::default(), armed: true })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(Path::new("."));
        self.create_dir(parent)?;
        let mode = self.options.dir_mode.unwrap_or(0o700);
        match fs::DirBuilder::new().mode(mode).create(dir) {
            // Another writer was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        }
        // The umask does not apply to a mode that copies the database's.
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
        if let Some((user, group)) = self.options.owner {
            give_away(std::os::unix::fs::chown(dir, Some(user), Some(group)))?;
        }
        sync_dir(parent)
    }
}

/// Removes temporary files of ours whose writers were killed: an unfinished image
/// may be as large as the database. Failures are dropped, for a file that stays
/// only takes space, and the next start tries again.
fn sweep(root: &Path) {
    for level in Level::all() {
        for entry in fs::read_dir(level_dir(root, level)).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(is_temporary_name) {
                continue;
            }
            // Its writer holds a lock for as long as it lives.
            let unused = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            if unused && fs::remove_file(entry.path()).is_ok() {
                tracing::debug!(path = %entry.path().display(), "removed a file whose writer was killed");
            }
        }
    }
}

/// `<min>-<max>.ltx.<process>-<count>-<random>.tmp`. Upstream's are never touched:
/// it does not lock them.
pub(crate) fn is_temporary_name(name: &str) -> bool {
    let Some(name) = name.strip_suffix(TEMPORARY) else { return false };
    name.rsplit_once('.').is_some_and(|(file, writer)| FileName::parse(file).is_some() && writer.contains('-'))
}

/// A temporary file, removed when dropped unless it was published.
pub(super) struct Temp {
    path: PathBuf,
    pub(super) file: File,
    pub(super) size: u64,
    pieces: Pieces,
    armed: bool,
}

impl Temp {
    pub(super) fn append(&mut self, staging: &Staging, data: &[u8]) -> Result<()> {
        self.file.write_all(data).map_err(|e| staging.error("write", e))?;
        self.grown(staging, data.len() as u64)
    }

    /// Counts what was written to the file, and flushes it piece by piece: one large
    /// flush would hold up everybody else's.
    pub(super) fn grown(&mut self, staging: &Staging, len: u64) -> Result<()> {
        self.size += len;
        if self.pieces.is_due(len) {
            let _turn = FLUSHES.turn();
            self.file.sync_data().map_err(|e| staging.error("write", e))?;
        }
        Ok(())
    }

    /// Makes the file durable, then visible. Returns its size.
    pub(super) fn publish(mut self, staging: &Staging) -> Result<u64> {
        // Held to the end: the directory is flushed as well.
        let _turn = FLUSHES.turn();
        self.finish(&staging.options, staging.timestamp).map_err(|e| staging.error("write", e))?;
        {
            let gone = staging.gone.lock().unwrap_or_else(PoisonError::into_inner);
            if *gone {
                return Err(Error::new(ErrorKind::Cancelled, format!("write {}", staging.path.display())));
            }
            let moved = match staging.mode {
                WriteMode::Overwrite => fs::rename(&self.path, &staging.path).map(|()| Moved::Renamed),
                WriteMode::CreateOnly => rename_new(&self.path, &staging.path),
            };
            match moved {
                Ok(Moved::Renamed) => self.armed = false,
                Ok(Moved::Linked) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    drop(gone);
                    return self.compare_with_existing(staging);
                }
                Err(e) => return Err(staging.error("rename", e)),
            }
        }
        sync_dir(staging.dir()).map_err(|e| staging.error("fsync directory of", e))?;
        Ok(self.size)
    }

    /// Times, mode and owner are set before the fsync, so that a crash cannot
    /// leave a file that carries the wrong moment.
    fn finish(&mut self, options: &FileOptions, timestamp: Timestamp) -> io::Result<()> {
        let time =
            rustix::fs::Timespec { tv_sec: timestamp.as_second(), tv_nsec: timestamp.subsec_nanosecond().into() };
        self.file.set_permissions(fs::Permissions::from_mode(options.file_mode.unwrap_or(0o600)))?;
        if let Some((user, group)) = options.owner {
            give_away(std::os::unix::fs::fchown(&self.file, Some(user), Some(group)))?;
        }
        rustix::fs::futimens(&self.file, &rustix::fs::Timestamps { last_access: time, last_modification: time })?;
        self.file.sync_all()
    }

    /// The name is taken: success if it holds the same bytes.
    fn compare_with_existing(&mut self, staging: &Staging) -> Result<u64> {
        let same = (|| {
            let mut existing = File::open(&staging.path)?;
            if existing.metadata()?.len() != self.size {
                return Ok(false);
            }
            self.file.seek(SeekFrom::Start(0))?;
            let same = same_content(&mut existing, &mut self.file)?;
            if same {
                // Its writer may have failed between rename and fsync.
                existing.sync_all()?;
                sync_dir(staging.dir())?;
            }
            Ok(same)
        })();
        match same {
            Ok(true) => Ok(self.size),
            Ok(false) => Err(Error::new(
                ErrorKind::Conflict,
                format!("write {}: another file of this name exists", staging.path.display()),
            )),
            Err(e) => Err(staging.error("compare with existing", e)),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.armed {
            // What cannot be removed here keeps a name that no listing reads.
            let _ = fs::remove_file(&self.path);
        }
    }
}

enum Moved {
    /// The temporary name is gone.
    Renamed,
    /// Both names exist; the temporary one is to be removed.
    Linked,
}

/// Renames without replacing, atomically where the filesystem can.
fn rename_new(from: &Path, to: &Path) -> io::Result<Moved> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Moved::Renamed),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    match fs::hard_link(from, to) {
        Ok(()) => Ok(Moved::Linked),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // Neither is possible here (FAT, some network filesystems): look, then
        // rename. A second writer may slip in between, as it may upstream.
        Err(_) if to.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to).map(|()| Moved::Renamed),
    }
}

fn same_content(a: &mut File, b: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        a.take(READ_LEN).read_to_end(&mut left)?;
        b.take(READ_LEN).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

/// Only root may give files away. A replica owned by the wrong user is still a
/// replica, so that refusal does not stop replication.
fn give_away(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    match File::open(dir)?.sync_all() {
        // Some network filesystems cannot; they make names durable themselves.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

/// What the names of files being written end in.
pub(super) const TEMPORARY: &str = ".tmp";
