//! The local copy of a merged file.
//!
//! It carries another name until the store has it, so a file under the final name
//! is one that was uploaded. Dropped before that, it is removed. The other name does not
//! end in `.tmp`: upstream sweeps such files of the directory both may use.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::Fault;
use crate::disk::{Disk, DiskFile};
use crate::error::Error;

/// A local copy that is not to stay unless told.
pub(super) struct Staging {
    unfinished: PathBuf,
    path: PathBuf,
    disk: Disk,
    keep: bool,
}

impl Staging {
    /// Makes the file, and its directory if need be. What an earlier try left is
    /// overwritten.
    pub(super) fn create(path: PathBuf, disk: Disk) -> Result<(Self, DiskFile), Fault> {
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".part");
        let unfinished = PathBuf::from(unfinished);
        let failed = |err| Fault::Other(Error::io(format!("create {}", unfinished.display()), err));
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        }
        let file = disk.create(&unfinished).map_err(failed)?;
        Ok((Self { unfinished, path, disk, keep: false }, file))
    }

    /// Where the file is for now.
    pub(super) fn unfinished(&self) -> &Path {
        &self.unfinished
    }

    /// Gives the file its name. That it fails is no failure of the compaction: the
    /// next one reads the store instead.
    pub(super) fn keep(mut self) {
        match self.disk.rename(&self.unfinished, &self.path) {
            Ok(()) => self.keep = true,
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "local copy of a compaction is lost"),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.disk.remove(&self.unfinished)
        {
            // Overwritten by the next try; until then it only takes space.
            tracing::debug!(path = %self.unfinished.display(), %error, "cannot remove local copy of a compaction");
        }
    }
}
