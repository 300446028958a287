//! Our own files on local disk, through one door.
//!
//! Everything that makes, changes, flushes, renames or removes a file of the local
//! state goes through a [`Disk`], so that a test can stand in between: it may let an
//! operation fail, let other things happen first, or remember what a loss of power
//! would take back. In production there is no layer and each call is the system's.
//!
//! The application's database and its side files are SQLite's and do not belong
//! here; reading does neither.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::private;

/// One change of the local disk, about to happen.
#[derive(Debug)]
pub enum DiskOp<'a> {
    /// A file is opened for writing and made if it is missing; with `truncate` it is
    /// emptied.
    Open {
        /// Its path.
        path: &'a Path,
        /// Whether what it holds goes.
        truncate: bool,
    },
    /// Bytes are written.
    Write {
        /// Path it was opened under.
        path: &'a Path,
        /// The open file.
        file: &'a File,
        /// Where in the file.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// A file gets another length.
    SetLen {
        /// Path it was opened under.
        path: &'a Path,
        /// The open file.
        file: &'a File,
        /// Its new length in bytes.
        len: u64,
    },
    /// A file's bytes are flushed.
    Sync {
        /// Path it was opened under.
        path: &'a Path,
        /// The open file.
        file: &'a File,
    },
    /// A file gets another name, in place of what had it.
    Rename {
        /// Present name.
        from: &'a Path,
        /// New name.
        to: &'a Path,
    },
    /// A name goes.
    Remove {
        /// Which.
        path: &'a Path,
    },
    /// The names in a directory are flushed.
    SyncDir {
        /// Which directory.
        path: &'a Path,
    },
    /// No change of the disk: work has come to this step.
    Reach {
        /// Its name.
        step: &'static str,
    },
}

/// What stands between our code and the disk.
pub trait DiskLayer: Send + Sync {
    /// Called right before an operation, on the thread that does it; must not call
    /// back. `Ok` lets it happen.
    ///
    /// # Errors
    /// What the operation fails with. Nothing has happened then but what the layer
    /// itself did.
    fn before(&self, op: &DiskOp<'_>) -> io::Result<()>;
}

/// The local disk. Clones share the layer.
#[derive(Clone, Default)]
pub struct Disk {
    layer: Option<Arc<dyn DiskLayer>>,
}

impl Disk {
    /// The disk behind a layer.
    pub fn behind(layer: Arc<dyn DiskLayer>) -> Self {
        Self { layer: Some(layer) }
    }

    fn before(&self, op: &DiskOp<'_>) -> io::Result<()> {
        self.layer.as_ref().map_or(Ok(()), |layer| layer.before(op))
    }

    /// Work has come to this step.
    pub(crate) fn reach(&self, step: &'static str) -> io::Result<()> {
        self.before(&DiskOp::Reach { step })
    }

    /// Opens a file for reading and writing, and makes it if it is missing: then the
    /// second value is true.
    ///
    /// # Errors
    /// Also when a symbolic link stands there ([`private`]).
    pub(crate) fn open(&self, path: &Path) -> io::Result<(DiskFile, bool)> {
        self.before(&DiskOp::Open { path, truncate: false })?;
        let (file, is_new) = private::open(path)?;
        Ok((self.file(file, path), is_new))
    }

    /// Makes an empty file in place of what an earlier try left ([`private`]).
    ///
    /// # Errors
    /// Also when somebody makes one at the same moment.
    pub(crate) fn create(&self, path: &Path) -> io::Result<DiskFile> {
        if path.symlink_metadata().is_ok() {
            self.remove(path)?;
        }
        self.before(&DiskOp::Open { path, truncate: true })?;
        Ok(self.file(private::create(path)?, path))
    }

    fn file(&self, file: File, path: &Path) -> DiskFile {
        DiskFile { file, path: path.to_owned(), disk: self.clone(), end: 0 }
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(&DiskOp::Rename { from, to })?;
        fs::rename(from, to)
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.before(&DiskOp::Remove { path })?;
        fs::remove_file(path)
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.before(&DiskOp::SyncDir { path })?;
        File::open(path)?.sync_all()
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.layer.is_some() { "Disk(layered)" } else { "Disk" })
    }
}

/// A file of ours, open for writing.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    path: PathBuf,
    disk: Disk,
    /// Where [`Write`] goes on.
    end: u64,
}

impl DiskFile {
    /// The file itself, for reading.
    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.before(&DiskOp::Write { path: &self.path, file: &self.file, offset, bytes })?;
        self.file.write_all_at(bytes, offset)
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.before(&DiskOp::SetLen { path: &self.path, file: &self.file, len })?;
        self.file.set_len(len)
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.disk.before(&DiskOp::Sync { path: &self.path, file: &self.file })?;
        self.file.sync_data()
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.disk.before(&DiskOp::Sync { path: &self.path, file: &self.file })?;
        self.file.sync_all()
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl From<File> for DiskFile {
    fn from(file: File) -> Self {
        Self { file, path: PathBuf::new(), disk: Disk::default(), end: 0 }
    }
}
