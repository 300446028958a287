//! The local side of a restore: what may stand at the output path, the temporary
//! file, and the one step that replaces the old database by the new.
//!
//! Rule that must never break: what stands at the output path is untouched until
//! the new database is complete, verified and on the disk, and at no moment does
//! a new database stand beside an old `-wal`, `-shm` or `-journal`, which SQLite
//! would replay onto it.
//!
//! Spec: store-and-restore §12, §13.2.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ltx::{PageSize, Pgno};
use rustix::fs::{FlockOperation, OFlags, flock};

use super::attributes::Attributes;
use super::journal::Journal;
use super::sidecar::{self, with_suffix};
use crate::{Error, ErrorKind, Result};

/// What to do about a database that stands at the output path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputPolicy {
    /// Refuse if a non-empty file or any SQLite side file is there.
    #[default]
    RefuseExisting,
    /// Replace it and remove its side files, once the new one is proven.
    Force,
}

/// Checks whether a restore may write `output`, changing nothing.
///
/// Side files (`-wal`, `-shm`, `-journal`) count as existing output even where
/// the database itself is missing: SQLite would replay them onto the new one.
///
/// # Errors
/// [`Conflict`](ErrorKind::Conflict) when something is there that `policy`
/// keeps; [`Setup`](ErrorKind::Setup) when the path cannot be an output at all.
pub fn check_output(output: &Path, policy: OutputPolicy) -> Result<()> {
    if output.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::Setup, "output path required"));
    }
    let shown = output.display();
    let existing = existing(output)?;
    match &existing {
        Some(found) if found.is_dir() => {
            return Err(Error::new(ErrorKind::Setup, format!("cannot restore, output path is a directory: {shown}")));
        }
        Some(found) if !found.is_file() => {
            return Err(Error::new(
                ErrorKind::Setup,
                format!("cannot restore, output path is not a regular file: {shown}"),
            ));
        }
        Some(found) if found.len() > 0 && policy == OutputPolicy::RefuseExisting => {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "cannot restore, output path already exists and is not empty: {shown}. Use -force to overwrite"
                ),
            ));
        }
        _ => {}
    }
    let stale = sidecar::existing(output)?;
    // Found out now, and not when the old database is already gone.
    if let Some(sidecar) = stale.iter().find(|sidecar| sidecar.is_dir()) {
        return Err(Error::new(
            ErrorKind::Setup,
            format!("cannot restore, SQLite sidecar path is a directory: {}", sidecar.display()),
        ));
    }
    match stale.first() {
        Some(sidecar) if policy == OutputPolicy::RefuseExisting => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "cannot restore, SQLite sidecar path already exists: {}. Use -force to overwrite",
                sidecar.display()
            ),
        )),
        _ => Ok(()),
    }
}

/// `<output>.tmp`, open and locked; removed on drop unless published.
///
/// The lock tells a restore that is running from one that was killed: the
/// latter's leftover is replaced, the former's is not.
#[derive(Debug)]
pub(crate) struct TempFile {
    output: PathBuf,
    path: PathBuf,
    file: Arc<File>,
    /// Directories made for the output, outermost first.
    made_dirs: Vec<PathBuf>,
    attributes: Attributes,
    keep: bool,
    /// Whether the file is the leftover of a restore that did not end.
    is_leftover: bool,
    #[cfg(test)]
    kill: tests::Kill,
}

impl TempFile {
    /// Creates the file, and its directory where that is missing (mode 0700).
    ///
    /// With `resume` the leftover of a restore that was killed is taken as it is,
    /// if it is safely our own.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) when another restore is writing it.
    pub(crate) fn create(output: &Path, resume: bool) -> Result<Self> {
        let made_dirs = make_parents(output)?;
        let path = with_suffix(output, ".tmp");
        let opened = existing(output).and_then(|replaced| open_locked(&path, replaced.as_ref(), resume));
        match opened {
            Ok((file, is_leftover)) => {
                let file = Arc::new(file);
                Ok(Self {
                    output: output.to_owned(),
                    path,
                    file,
                    made_dirs,
                    attributes: Attributes::default(),
                    keep: false,
                    is_leftover,
                    #[cfg(test)]
                    kill: tests::Kill::default(),
                })
            }
            Err(error) => {
                remove_dirs(&made_dirs);
                Err(error)
            }
        }
    }

    /// Lets the output have these attributes.
    pub(crate) fn with_attributes(mut self, attributes: Attributes) -> Result<Self> {
        self.attributes = attributes;
        attributes.narrow(&self.file)?;
        Ok(self)
    }

    /// Starts over with an empty file.
    ///
    /// It is a new file of the same name: work of the attempt before may still
    /// be running, and must not reach this one.
    pub(crate) fn renew(&mut self) -> Result<()> {
        remove_if_there(&self.path)?;
        let (file, _) = open_locked(&self.path, existing(&self.output)?.as_ref(), false)?;
        self.attributes.narrow(&file)?;
        self.file = Arc::new(file);
        self.is_leftover = false;
        Ok(())
    }

    /// The journal that belongs to this file.
    pub(super) fn journal(&self) -> Journal {
        Journal::open(&with_suffix(&self.path, JOURNAL), self.is_leftover)
    }

    /// Leaves file and journal behind, for a later restore to go on from.
    pub(super) fn keep_for_later(mut self) -> PathBuf {
        self.keep = true;
        self.path.clone()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Puts the file in the output's place.
    ///
    /// Where no side file holds anything, this is one atomic rename: a crash leaves
    /// the old database or the new one. Where a WAL or a journal belongs to the old
    /// database, the old database goes first, then its side files, then comes the
    /// rename, each step on the disk before the next: a crash in between leaves the
    /// new database under its temporary name, rather than a mixed one at the
    /// output. Removing a hot journal or WAL first would leave an old database that
    /// looks sound and is not.
    ///
    /// # Errors
    /// As [`check_output`], which is asked again. When the old database is
    /// already gone, the new one stays under its temporary name and the error
    /// says so.
    pub(crate) fn publish(mut self, policy: OutputPolicy) -> Result<()> {
        check_output(&self.output, policy)?;
        let replaced = existing(&self.output)?;
        self.attributes.apply(&self.file, &self.output, replaced.as_ref(), &self.made_dirs)?;
        sidecar::remove_all(&self.path);
        let stale = sidecar::existing(&self.output)?;
        self.reached("checked")?;
        let cleared = if stale.iter().all(|path| sidecar::is_spent(path)) {
            self.remove_all(&stale)
        } else {
            self.clear_output(&stale)
        };
        let result = cleared.and_then(|()| self.rename(policy));
        match result {
            Ok(()) => {
                self.keep = true;
                // Without its file it says nothing; the next restore empties it.
                let _ = fs::remove_file(with_suffix(&self.path, JOURNAL));
            }
            Err(error) if replaced.is_some() && fs::symlink_metadata(&self.output).is_err() => {
                self.keep = true;
                return Err(error.context(format!("the restored database is at {}", self.path.display())));
            }
            Err(error) => return Err(error),
        }
        self.reached("renamed")?;
        sync_parent(&self.output)?;
        for dir in &self.made_dirs {
            sync_parent(dir)?;
        }
        Ok(())
    }

    /// Removes the old database, then its side files.
    fn clear_output(&self, stale: &[PathBuf]) -> Result<()> {
        remove_if_there(&self.output)?;
        self.reached("old database removed")?;
        sync_parent(&self.output)?;
        self.reached("its removal on the disk")?;
        self.remove_all(stale)
    }

    /// Removes side files, on the disk before the next step.
    fn remove_all(&self, stale: &[PathBuf]) -> Result<()> {
        for sidecar in stale {
            remove_if_there(sidecar)?;
            self.reached("side file removed")?;
        }
        if stale.is_empty() { Ok(()) } else { sync_parent(&self.output) }
    }

    /// A place between two steps. Tests stop here as a kill would: nothing of what
    /// follows happens, cleaning up included.
    #[cfg_attr(not(test), expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "only tests stop here"))]
    fn reached(&self, step: &'static str) -> Result<()> {
        #[cfg(test)]
        return self.kill.reached(step);
        #[cfg(not(test))]
        {
            let _ = step;
            Ok(())
        }
    }

    fn rename(&self, policy: OutputPolicy) -> Result<()> {
        let failed =
            |e: io::Error| Error::io(format!("rename {} to {}", self.path.display(), self.output.display()), e);
        // An application may have made its database while we were busy; the
        // kernel knows better than any look beforehand.
        #[cfg(target_os = "linux")]
        if policy == OutputPolicy::RefuseExisting && fs::symlink_metadata(&self.output).is_err() {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            use rustix::io::Errno;
            match renameat_with(CWD, &self.path, CWD, &self.output, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                Err(Errno::NOSYS | Errno::INVAL) => {} // the filesystem cannot; rename plainly
                Err(Errno::EXIST) => {
                    return check_output(&self.output, policy)
                        .and_then(|()| fs::rename(&self.path, &self.output).map_err(failed));
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = policy;
        fs::rename(&self.path, &self.output).map_err(failed)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        #[cfg(test)]
        if self.kill.has_come() {
            return;
        }
        // What a check of the file with SQLite may have left beside it.
        sidecar::remove_all(&self.path);
        if !self.keep {
            // Nobody is left to tell; the lock is gone, so the next restore
            // replaces whatever stays.
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_file(with_suffix(&self.path, JOURNAL));
            remove_dirs(&self.made_dirs);
        }
    }
}

/// A file for passing needs beside the temporary file `path`. It has a name only
/// until this returns, so that nothing can be left behind.
pub(crate) fn scratch_file(path: &Path) -> Result<File> {
    let path = with_suffix(path, "-wal");
    let failed = |e: io::Error| Error::io(format!("create {}", path.display()), e);
    remove_if_there(&path)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    remove_if_there(&path)?;
    Ok(file)
}

/// Gives the file its final length and reserves the space for it, so that a disk
/// too small is known before anything is fetched.
pub(crate) fn allocate(file: &File, len: u64) -> Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    let failed = |e: io::Error| Error::io(format!("reserve {len} bytes of disk for the restored database"), e);
    file.set_len(len).map_err(failed)?;
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        // Not every filesystem can reserve; then the writes will tell.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Fills one page with zeros.
pub(super) fn clear_page(file: &File, pgno: Pgno, page_size: PageSize) -> Result<()> {
    file.write_all_at(&vec![0; page_size.len()], pgno.offset(page_size)).map_err(|e| Error::io("write database", e))
}

/// The file at `path`, symbolic links followed. A link without target counts as
/// missing, and is replaced.
fn existing(path: &Path) -> Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("stat {}", path.display()), e)),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("remove {}", path.display()), e)),
        _ => Ok(()),
    }
}

/// Creates `path` and locks it; true where it was there. A leftover that nobody
/// has locked is removed, unless it can be resumed and shall be.
fn open_locked(path: &Path, replaced: Option<&Metadata>, resume: bool) -> Result<(File, bool)> {
    let failed = |e: io::Error| Error::io(format!("create {}", path.display()), e);
    // As strict as the file to be replaced, from the first byte on.
    let mode = replaced.map_or(0o666, |found| found.mode() & 0o666 | 0o600);
    let busy = || Error::new(ErrorKind::Conflict, format!("another restore is writing {}", path.display()));
    for _ in 0..LOCK_ATTEMPTS {
        let created = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path);
        let (file, is_new) = match created {
            Ok(file) => (file, true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
                match OpenOptions::new().read(true).write(true).custom_flags(nofollow).open(path) {
                    Ok(file) => (file, false),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(failed(e)),
                }
            }
            Err(e) => return Err(failed(e)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A filesystem without locks: go on without the protection.
            Ok(()) | Err(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(busy()),
            Err(errno) => return Err(failed(errno.into())),
        }
        // Between opening and locking, another restore may have finished with
        // this very file or removed it; then the name means another file.
        let ours = file.metadata().map_err(failed)?;
        let named = fs::symlink_metadata(path);
        if !named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
            continue;
        }
        if is_new {
            return Ok((file, false));
        }
        if resume && is_own(&ours, mode) && fs::symlink_metadata(with_suffix(path, JOURNAL)).is_ok_and(|j| j.is_file())
        {
            return Ok((file, true));
        }
        remove_if_there(&with_suffix(path, JOURNAL))?;
        remove_if_there(path)?;
    }
    Err(busy())
}

/// Whether nobody else can have a hand in a file: it would be trusted between
/// our checks and its publication. `mode` is the most it may allow.
fn is_own(file: &Metadata, mode: u32) -> bool {
    let is_closed = file.mode() & 0o777 & !mode == 0 && file.mode() & 0o022 == 0;
    file.is_file() && file.nlink() == 1 && is_closed && file.uid() == rustix::process::geteuid().as_raw()
}

/// Creates the missing directories above `output`, outermost first.
fn make_parents(output: &Path) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut dir = output.parent();
    while let Some(path) = dir
        && !path.as_os_str().is_empty()
        && !path.exists()
    {
        missing.push(path.to_owned());
        dir = path.parent();
    }
    missing.reverse();
    let mut made = Vec::new();
    for path in missing {
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => made.push(path),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                remove_dirs(&made);
                return Err(Error::io(format!("create directory {}", path.display()), e));
            }
        }
    }
    Ok(made)
}

/// Removes directories that we made and nobody else uses.
fn remove_dirs(made: &[PathBuf]) {
    for dir in made.iter().rev() {
        // Fails when somebody has put a file there, and then it shall stay.
        let _ = fs::remove_dir(dir);
    }
}

/// Makes a change of names in the parent directory durable.
fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(format!("fsync directory {}", parent.display()), e))
}

/// What the temporary file's journal is called behind its name.
const JOURNAL: &str = "-resume";

/// How often to race other restores for the temporary name before giving up.
const LOCK_ATTEMPTS: u32 = 8;

#[cfg(test)]
mod tests;
