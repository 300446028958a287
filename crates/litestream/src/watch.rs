//! Wakes a database's capture when its WAL is written to.
//!
//! One-shot notifications: a watch fires once and is gone until it is armed
//! again, so a busy writer costs nothing between two looks, and an idle database
//! costs nothing at all. Where the system has none, [`Watcher::arm`] says so and
//! the caller looks at intervals.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;

/// Shared by all databases of a process.
#[derive(Debug)]
pub(crate) struct Watcher {
    #[cfg(target_os = "linux")]
    inner: Option<linux::Inotify>,
}

impl Watcher {
    /// Starts watching on the current runtime. Without notifications on this
    /// system every [`arm`](Self::arm) answers false.
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            inner: linux::Inotify::start()
                .inspect_err(|err| tracing::warn!(error = %err, "no file notification, looking at intervals"))
                .ok(),
        }
    }

    /// For a database that is not open here and has no WAL: notifies `wake` once when
    /// somebody opens or uses it. False when that cannot be promised.
    pub(crate) fn arm_without_wal(&self, db: &Path, wake: &Arc<Notify>) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(inner) = &self.inner {
            return inner.arm_without_wal(db, wake).is_ok();
        }
        #[cfg(not(target_os = "linux"))]
        let _unused = (db, wake);
        false
    }

    /// Notifies `wake` once when the WAL of `db` is written to or when either file
    /// is moved or deleted. False when that cannot be promised.
    ///
    /// Something may happen right before the watch stands: look again after arming.
    pub(crate) fn arm(&self, db: &Path, wake: &Arc<Notify>) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(inner) = &self.inner {
            return inner
                .arm(db, wake)
                .inspect_err(|err| tracing::debug!(db = %db.display(), error = %err, "watch"))
                .is_ok();
        }
        #[cfg(not(target_os = "linux"))]
        let _unused = (db, wake);
        false
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, PoisonError};

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    use tokio::io::unix::AsyncFd;
    use tokio::sync::Notify;
    use tokio::task::AbortHandle;

    type Watches = Mutex<HashMap<i32, Arc<Notify>>>;

    #[derive(Debug)]
    pub(super) struct Inotify {
        fd: Arc<AsyncFd<OwnedFd>>,
        watches: Arc<Watches>,
        reader: AbortHandle,
    }

    impl Inotify {
        pub(super) fn start() -> io::Result<Self> {
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            #[allow(
                deprecated,
                reason = "deprecated for descriptors that may be closed elsewhere; an OwnedFd is closed by its owner only"
            )]
            let fd = Arc::new(AsyncFd::new(fd)?);
            let watches = Arc::new(Watches::default());
            let reader = tokio::spawn(read(fd.clone(), watches.clone())).abort_handle();
            Ok(Self { fd, watches, reader })
        }

        pub(super) fn arm(&self, db: &Path, wake: &Arc<Notify>) -> io::Result<()> {
            let mut wal = db.as_os_str().to_owned();
            wal.push("-wal");
            self.add(&PathBuf::from(wal), GONE | WatchFlags::MODIFY, wake)?;
            self.add(db, GONE, wake)
        }

        pub(super) fn arm_without_wal(&self, db: &Path, wake: &Arc<Notify>) -> io::Result<()> {
            // A connection that was opened before reads the header before it makes a WAL.
            self.add(db, GONE | WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::MODIFY, wake)
        }

        fn add(&self, path: &Path, flags: WatchFlags, wake: &Arc<Notify>) -> io::Result<()> {
            // The lock is held over both steps, so that an event cannot be read
            // before the watch it belongs to is known.
            let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            let watch = inotify::add_watch(self.fd.get_ref(), path, flags)?;
            watches.insert(watch, wake.clone());
            Ok(())
        }
    }

    const GONE: WatchFlags =
        WatchFlags::ATTRIB.union(WatchFlags::DELETE_SELF).union(WatchFlags::MOVE_SELF).union(WatchFlags::ONESHOT);

    impl Drop for Inotify {
        fn drop(&mut self) {
            self.reader.abort();
        }
    }

    async fn read(fd: Arc<AsyncFd<OwnedFd>>, watches: Arc<Watches>) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        loop {
            let Ok(mut ready) = fd.readable().await else { return };
            let mut reader = inotify::Reader::new(fd.get_ref(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        let mut watches = watches.lock().unwrap_or_else(PoisonError::into_inner);
                        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                            // Anything may have been lost: everybody looks.
                            watches.drain().for_each(|(_, wake)| wake.notify_one());
                        } else if let Some(wake) = watches.remove(&event.wd()) {
                            wake.notify_one();
                        }
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            ready.clear_ready();
        }
    }
}
