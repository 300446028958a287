//! Who may listen on the control socket.
//!
//! The rules that must never break: a socket somebody listens on is never taken
//! away, not even for a moment between two daemons that start together; nobody but
//! the owner can connect before the configured mode is set; and only the file that
//! this process made is removed at the end (lessons 27 and 28).

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// A bound socket. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode of the file we made.
    file: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug)]
pub(crate) enum BindError {
    /// Somebody listens there.
    InUse,
    /// Anything else, in upstream's words where it has any.
    Failed(String),
}

impl ControlSocket {
    /// Binds `path` with the permission bits `mode`. Blocks for a moment at most.
    ///
    /// # Errors
    /// [`BindError::InUse`] when another process answers there.
    pub(crate) fn bind(path: &str, mode: u32) -> Result<Self, BindError> {
        if path.is_empty() {
            return Err(BindError::Failed("socket path required".to_owned()));
        }
        let failed = |what: &str, err: &dyn std::fmt::Display| BindError::Failed(format!("{what}: {err}"));
        let path = PathBuf::from(path);
        // Held from the look at what is there until the new socket stands.
        let _turn = take_turn(&path).map_err(|err| failed("listen on unix socket", &err))?;
        match fs::symlink_metadata(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(failed("stat socket path", &err)),
            Ok(file) if !file.file_type().is_socket() => {
                return Err(BindError::Failed(format!("socket path exists but is not a socket: {}", path.display())));
            }
            Ok(_) if is_alive(&path) => return Err(BindError::InUse),
            Ok(_) => {}
        }
        let (listener, file) = listen(&path, mode).map_err(|err| failed("listen on unix socket", &err))?;
        Ok(Self { listener: Some(listener), path, file })
    }

    /// The listener, once.
    pub(crate) fn listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Service managers may have removed the directory before us.
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "control socket not removed");
        }
    }
}

/// Makes the socket where nobody else can reach it, gives it its mode, and moves it
/// to its place, over a stale one.
///
/// A umask would do for the mode as well, but belongs to all threads.
fn listen(path: &Path, mode: u32) -> io::Result<(UnixListener, (u64, u64))> {
    // Short: the system limits a socket's path to about a hundred bytes.
    let private = parent(path).join(format!(".ls{}", std::process::id()));
    match fs::DirBuilder::new().mode(0o700).create(&private) {
        // Left by a process of the same number that was killed in between.
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_dir_all(&private)?;
            fs::DirBuilder::new().mode(0o700).create(&private)?;
        }
        other => other?,
    }
    let made = private.join("s");
    let bound = UnixListener::bind(&made).and_then(|listener| {
        fs::set_permissions(&made, Permissions::from_mode(mode & 0o777))?;
        let file = fs::symlink_metadata(&made)?;
        fs::rename(&made, path)?;
        Ok((listener, (file.dev(), file.ino())))
    });
    // Whatever went wrong above is what matters.
    if let Err(error) = fs::remove_dir_all(&private) {
        tracing::debug!(path = %private.display(), %error, "directory left behind");
    }
    bound
}

/// The directory part, `.` for a bare file name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// True when somebody listens, as far as can be told.
fn is_alive(path: &Path) -> bool {
    let (sender, answer) = std::sync::mpsc::channel();
    let path = path.to_owned();
    // A daemon that is frozen keeps those waiting who connect once its queue is
    // full; it is alive all the same.
    std::thread::spawn(move || sender.send(UnixStream::connect(path)));
    match answer.recv_timeout(PROBE_PATIENCE) {
        Ok(Ok(_)) | Err(_) => true,
        // Bound by nobody, or gone meanwhile. Whatever else stands in the way may
        // hide a live one.
        Ok(Err(error)) => !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
    }
}

/// Keeps other daemons from looking at the same directory at the same time.
fn take_turn(path: &Path) -> io::Result<File> {
    let dir = File::open(parent(path))?;
    let deadline = Instant::now() + TURN_PATIENCE;
    loop {
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(dir),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            // Somebody else's lock on the directory says nothing about the socket.
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(dir),
            Err(error) => return Err(error.into()),
        }
    }
}

const PROBE_PATIENCE: Duration = Duration::from_secs(1);
const TURN_PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn path(dir: &tempfile::TempDir) -> String {
        dir.path().join("ls.sock").display().to_string()
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(path(&dir)).unwrap());
        let socket = ControlSocket::bind(&path(&dir), 0o660).unwrap();
        assert_eq!(fs::metadata(socket.path()).unwrap().mode() & 0o777, 0o660);
        assert!(matches!(ControlSocket::bind(&path(&dir), 0o600), Err(BindError::InUse)));
        assert!(is_alive(socket.path()), "the probe took nothing away");
    }

    /// Upstream makes the socket first and sets its mode then: for a moment anybody
    /// may connect that the umask lets in.
    #[test]
    fn lesson_28_nobody_else_can_connect_before_the_mode_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(&dir);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut modes = std::collections::BTreeSet::new();
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    modes.extend(fs::symlink_metadata(&path).map(|file| file.mode() & 0o777));
                }
                modes
            });
            for _ in 0..300 {
                drop(ControlSocket::bind(&path, 0o640).unwrap());
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            let modes = watcher.join().unwrap();
            assert!(modes.iter().all(|mode| *mode == 0o640), "modes {modes:?}");
        });
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let first = ControlSocket::bind(&path(&dir), 0o600).unwrap();
        fs::remove_file(path(&dir)).unwrap();
        let second = ControlSocket::bind(&path(&dir), 0o600).unwrap();
        drop(first);
        assert!(is_alive(second.path()), "the second one's file stays");
        drop(second);
        assert!(!Path::new(&path(&dir)).exists());
    }

    #[test]
    fn other_files_and_missing_directories_are_refused_in_known_words() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(&dir), "x").unwrap();
        let refused = |path: &str| match ControlSocket::bind(path, 0o600) {
            Err(BindError::Failed(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&path(&dir)), format!("socket path exists but is not a socket: {}", path(&dir)));
        assert_eq!(refused(""), "socket path required");
        assert!(refused(&format!("{}/no/ls.sock", dir.path().display())).starts_with("listen on unix socket: "));
    }
}
