//! `<output>-txid`: where a followed copy stands.
//!
//! Sixteen hex digits and a newline, as upstream writes it. The next position is
//! on the disk as `<output>-txid.tmp` before the database changes and gets its
//! name afterwards. So a leftover temporary file says that the database may stand
//! at either of two positions.
//!
//! Spec: store-and-restore §14.2.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ltx::Txid;

use crate::error::{Error, ErrorKind, Result};
use crate::private;

/// The sidecar's path for a copy at `output`.
pub fn txid_path(output: &Path) -> PathBuf {
    with_suffix(output, "-txid")
}

/// The saved position; `None` without a file, or with one that says zero.
///
/// # Errors
/// [`ErrorKind::Setup`] when the file holds something else.
pub(super) fn read(output: &Path) -> Result<Option<Txid>> {
    let path = txid_path(output);
    let context = "read txid file for crash recovery";
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(context, e)),
    };
    match text.trim().parse::<Txid>() {
        Ok(txid) => Ok(Some(txid).filter(|txid| !txid.is_none())),
        Err(e) => Err(Error::with_source(ErrorKind::Setup, format!("{context}: parse txid file"), e)),
    }
}

/// The position a batch was going to when its follower died, if any.
pub(super) fn pending(output: &Path) -> Option<Txid> {
    read_text(&pending_path(output)).ok()?.trim().parse().ok()
}

/// The whole file, which has a line of text and no more.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_LEN + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX_LEN} bytes")));
    }
    Ok(text)
}

/// Puts the next position on the disk, under its temporary name.
pub(super) fn prepare(output: &Path, txid: Txid) -> Result<()> {
    let path = pending_path(output);
    let write = || {
        let mut file = private::replace(&path)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(format!("{txid}\n").as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    sync_parent(&path)
}

/// Makes the prepared position the saved one.
pub(super) fn publish(output: &Path) -> Result<()> {
    let (from, to) = (pending_path(output), txid_path(output));
    fs::rename(&from, &to).map_err(|e| Error::io(format!("rename {}", from.display()), e))?;
    sync_parent(&to)
}

/// Makes changes of names beside `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|dir| dir.sync_all());
    synced.map_err(|e| Error::io(format!("fsync directory {}", parent.display()), e))
}

fn pending_path(output: &Path) -> PathBuf {
    with_suffix(output, "-txid.tmp")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Spaces around the digits are put up with.
const MAX_LEN: u64 = 1024;

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;

    #[test]
    fn no_sidecar_crashes_or_is_believed_unless_it_is_a_transaction() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("copy.db");
        let long = [b"00000000000000ab".to_vec(), vec![b'\n'; 5000]].concat();
        let sound = [b"00000000000000ab\n".to_vec(), b"ffffffffffffffff".to_vec(), long];
        let words = ["00000000000000000", "\u{feff}", "-1", "0x", "\0", "\r\n"];
        Target::new("txid sidecar", sound).words(&words).run(|input| {
            fs::write(txid_path(&db), input).unwrap();
            fs::write(pending_path(&db), input).unwrap();
            let bound = Bound { base: 16 << 10, per_byte: 0 };
            let (saved, pending) = bounded(input.len(), bound, || (read(&db), pending(&db)));
            let text = String::from_utf8_lossy(input);
            let digits = text.trim();
            let is_one = input.len() <= 1024 && digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            assert_eq!(saved.is_ok(), is_one, "{text:?}");
            assert_eq!(pending.is_some(), is_one, "{text:?}");
            if let Ok(Some(txid)) = saved {
                assert_eq!(txid.to_string(), digits.to_lowercase());
            }
        });
    }

    #[test]
    fn a_position_is_seventeen_bytes_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("copy.db");
        assert_eq!(read(&db).unwrap(), None);
        prepare(&db, Txid::new(0xab)).unwrap();
        assert_eq!((read(&db).unwrap(), pending(&db)), (None, Some(Txid::new(0xab))));
        publish(&db).unwrap();
        assert_eq!((read(&db).unwrap(), pending(&db)), (Some(Txid::new(0xab)), None));
        assert_eq!(fs::read(txid_path(&db)).unwrap(), b"00000000000000ab\n");
    }

    #[test]
    fn nonsense_is_refused_in_known_words() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("copy.db");
        fs::write(txid_path(&db), "12\n").unwrap();
        let error = read(&db).unwrap_err().to_string();
        assert!(error.starts_with("read txid file for crash recovery: parse txid file: "), "{error}");
        fs::write(txid_path(&db), "0000000000000000\n").unwrap();
        assert_eq!(read(&db).unwrap(), None);
    }
}
