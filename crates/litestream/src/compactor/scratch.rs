//! Temporary files without a name: gone when they are closed, however that comes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ltx::SpillFile;

/// An empty file in `dir`, which is made when it is missing.
pub(super) fn temporary_file(dir: &Path) -> io::Result<Box<dyn SpillFile>> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let path = dir.join(format!("merge-{}-{:016x}.part", std::process::id(), fastrand::u64(..)));
    let file: File = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(Box::new(file))
}
