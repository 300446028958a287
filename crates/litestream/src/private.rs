//! Files that nobody else can have prepared, or opened before their mode is set.
//!
//! What stands in the state directory and beside a followed copy holds pages of the
//! database. Whoever may write to that directory, as anybody may in `/tmp`, could
//! put a link in the place of a file that is about to be made, and have another
//! one overwritten; and between making a file and giving it its mode a reader could
//! open it. So a file is made by us or not at all, is closed to others at first,
//! and later changes go to the open file, never to its name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Makes a file for reading and writing, in place of what an earlier try left.
///
/// # Errors
/// Also when somebody makes one at the same moment.
pub(crate) fn replace(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    create(path)
}

/// Opens a file for reading and writing, and makes it if it is not there: then the
/// second value is true.
///
/// # Errors
/// Also when a symbolic link stands there.
pub(crate) fn open(path: &Path) -> io::Result<(File, bool)> {
    match create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
            let file = OpenOptions::new().read(true).write(true).custom_flags(nofollow).open(path)?;
            Ok((file, false))
        }
        created => Ok((created?, true)),
    }
}

/// Makes a file for reading and writing that nobody else can open.
///
/// # Errors
/// Also when there is something of this name.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(file: &File) -> u32 {
        file.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_planted_link_is_replaced_and_what_it_names_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("new"));
        fs::write(&victim, "precious").unwrap();
        for is_symbolic in [true, false] {
            if is_symbolic { symlink(&victim, &path) } else { fs::hard_link(&victim, &path) }.unwrap();
            let file = replace(&path).unwrap();
            assert_eq!((file.metadata().unwrap().len(), mode(&file)), (0, 0o600));
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(fs::read(&victim).unwrap(), b"precious");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_link_in_place_of_a_file_that_is_kept_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("state"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &path).unwrap();
        open(&path).unwrap_err();
        symlink(dir.path().join("nowhere"), dir.path().join("dangling")).unwrap();
        open(&dir.path().join("dangling")).unwrap_err();
        assert!(!dir.path().join("nowhere").exists());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn a_file_is_closed_to_others_when_it_is_made_and_kept_as_it_is_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (file, is_new) = open(&path).unwrap();
        assert!(is_new && mode(&file) == 0o600);
        file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        let (again, is_new) = open(&path).unwrap();
        assert!(!is_new && mode(&again) == 0o640);
    }
}
