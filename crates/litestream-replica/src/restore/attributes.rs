//! Who owns a restored database, and who may read it.
//!
//! What was asked for is done or is an error. Otherwise a database looks like the
//! one it replaces. A new one gets the mode of any new file, as upstream's does, but
//! opens to nobody whom its directory keeps out: what lay in a private directory is
//! not for everybody once it is moved. Where the process is allowed to give files
//! away it gets the owner of its directory: a restore run by root must not leave the
//! application with a file it cannot open.
//!
//! Spec: docs/restore.md, "The output".

use std::fs::{self, File, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What a restore shall make of the owner and the mode of its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// User to give the file to.
    pub user: Option<u32>,
    /// Group to give the file to.
    pub group: Option<u32>,
    /// Permission bits.
    pub mode: Option<u32>,
}

impl Attributes {
    /// Gives a new, empty file no wider mode than it will have.
    pub(super) fn narrow(self, file: &File) -> Result<()> {
        let Some(mode) = self.mode else { return Ok(()) };
        file.set_permissions(Permissions::from_mode(mode & 0o666 | 0o600)).map_err(|e| Error::io("set mode", e))
    }

    /// Makes the file at `path`, which is about to become `output`, look as it
    /// should, and the directories that were made for it belong to the same.
    pub(super) fn apply(
        self,
        file: &File,
        output: &Path,
        replaced: Option<&Metadata>,
        made_dirs: &[PathBuf],
    ) -> Result<()> {
        let Self { user, group, mode } = self;
        let like = match replaced {
            Some(replaced) => Some(replaced.clone()),
            None => directory_before(output, made_dirs).and_then(|dir| fs::metadata(dir).ok()),
        };
        if let Some(like) = &like {
            // Only root may give files away; everybody else keeps the new owner.
            let _ = fchown(file, Some(like.uid()), Some(like.gid()));
            for dir in made_dirs {
                let _ = chown(dir, Some(like.uid()), Some(like.gid()));
            }
        }
        if user.is_some() || group.is_some() {
            let failed = |e| Error::io(format!("set owner of {}", output.display()), e);
            fchown(file, user, group).map_err(failed)?;
            made_dirs.iter().try_for_each(|dir| chown(dir, user, group)).map_err(failed)?;
        }
        let narrowed = || {
            let (new, dir) = (file.metadata().ok()?.mode() & 0o7777, like.as_ref()?.mode());
            Some(new & granted_below(dir)).filter(|narrowed| *narrowed != new)
        };
        // After the owner: giving a file away clears bits of its mode.
        match mode.or_else(|| replaced.map(|replaced| replaced.mode() & 0o7777)).or_else(narrowed) {
            Some(mode) => file
                .set_permissions(Permissions::from_mode(mode))
                .map_err(|e| Error::io(format!("set mode of {}", output.display()), e)),
            None => Ok(()),
        }
    }
}

/// What a directory of this mode lets anybody but its owner do with a file in it:
/// read where they may enter or look, write where they may make files of their own.
fn granted_below(dir: u32) -> u32 {
    let of = |shift: u32| {
        let bits = dir >> shift & 0o7;
        let read = if bits & 0o5 == 0 { 0 } else { 0o4 };
        (read | bits & 0o2) << shift
    };
    0o7700 | of(3) | of(0)
}

/// The innermost directory above `output` that stood before the restore.
fn directory_before<'a>(output: &'a Path, made_dirs: &'a [PathBuf]) -> Option<&'a Path> {
    let parent = made_dirs.first().map_or(output, PathBuf::as_path).parent()?;
    Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_opens_to_nobody_whom_its_directory_keeps_out() {
        for (dir, umask, file) in [
            (0o755, 0o022, 0o644),
            (0o755, 0o000, 0o644),
            (0o775, 0o002, 0o664),
            (0o750, 0o022, 0o640),
            (0o700, 0o022, 0o600),
            (0o711, 0o022, 0o644),
            (0o1777, 0o022, 0o644),
            (0o777, 0o077, 0o600),
            (0o2770, 0o002, 0o660),
        ] {
            assert_eq!(0o666 & !umask & granted_below(dir), file, "{dir:o}, {umask:o}");
        }
    }
}
