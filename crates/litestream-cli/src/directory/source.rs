//! Notifications about a tree of directories, from the system.
//!
//! Told are names only: what was made, closed after writing, moved or deleted.
//! Writes themselves are not, because a busy database would wake us all the time.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use super::roster::Event;

/// Watches directories; each must be given to [`cover`](Self::cover).
pub(crate) struct Source {
    fd: AsyncFd<OwnedFd>,
    directories: HashMap<i32, PathBuf>,
    watches: HashMap<PathBuf, i32>,
    is_recursive: bool,
}

impl Source {
    /// Watches nothing yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system has no notifications to give, or no more of them.
    pub(crate) fn new(is_recursive: bool) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[allow(
            deprecated,
            reason = "deprecated for descriptors that may be closed elsewhere; an OwnedFd is closed by its owner only"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, directories: HashMap::new(), watches: HashMap::new(), is_recursive })
    }

    /// Watches these directories, and with `only` no others. True when some are new.
    ///
    /// # Errors
    /// The first directory that exists and cannot be watched, too many watches
    /// mostly; the others are.
    pub(crate) fn cover(&mut self, directories: &BTreeSet<PathBuf>, only: bool) -> io::Result<bool> {
        let gone: Vec<PathBuf> =
            self.watches.keys().filter(|known| only && !directories.contains(*known)).cloned().collect();
        for directory in gone {
            self.forget(&directory);
        }
        let mut result = Ok(false);
        for directory in directories {
            // Asked for again even if it is watched: the path may lead to another
            // directory by now.
            let before = self.watches.get(directory).copied();
            match self.watch(directory) {
                Ok(watch) => result = result.map(|some| some || watch != before),
                Err(err) => result = result.and(Err(err)),
            }
        }
        result
    }

    /// Watches a directory. One that is gone is no error: the event of its end, or the
    /// next listing, tells.
    fn watch(&mut self, directory: &Path) -> io::Result<Option<i32>> {
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        match inotify::add_watch(self.fd.get_ref(), directory, flags) {
            Ok(watch) => {
                // The same directory under another name keeps its watch.
                if let Some(before) = self.directories.insert(watch, directory.to_owned())
                    && before != directory
                {
                    self.watches.remove(&before);
                }
                self.watches.insert(directory.to_owned(), watch);
                Ok(Some(watch))
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// Stops watching a directory and all below it.
    fn forget(&mut self, directory: &Path) {
        let below: Vec<PathBuf> = self.watches.keys().filter(|known| known.starts_with(directory)).cloned().collect();
        for known in below {
            let Some(watch) = self.watches.remove(&known) else { continue };
            self.directories.remove(&watch);
            // Fails when the directory is gone, and then its watch is as well.
            let _ = inotify::remove_watch(self.fd.get_ref(), watch);
        }
    }

    /// The next events. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Vec<Event> {
        loop {
            let Ok(mut ready) = self.fd.readable().await else { return std::future::pending().await };
            let raw = read(self.fd.get_ref());
            ready.clear_ready();
            drop(ready);
            let events: Vec<Event> = raw.into_iter().filter_map(|raw| self.interpret(&raw)).collect();
            if !events.is_empty() {
                return events;
            }
        }
    }

    fn interpret(&mut self, raw: &Raw) -> Option<Event> {
        if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Event::Lost);
        }
        let directory = self.directories.get(&raw.watch)?.clone();
        let Some(name) = &raw.name else {
            // Of the directory itself.
            if !raw.flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
                return None;
            }
            self.forget(&directory);
            return Some(Event::DirectoryGone(directory));
        };
        let path = directory.join(std::ffi::OsStr::from_bytes(name));
        if !raw.flags.contains(ReadFlags::ISDIR) {
            return Some(Event::File(path));
        }
        if !self.is_recursive {
            return None;
        }
        if raw.flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            return Some(Event::Directory(path));
        }
        self.forget(&path);
        Some(Event::DirectoryGone(path))
    }
}

struct Raw {
    watch: i32,
    flags: ReadFlags,
    name: Option<Vec<u8>>,
}

/// Everything that can be read without waiting.
fn read(fd: &OwnedFd) -> Vec<Raw> {
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => events.push(Raw {
                watch: event.wd(),
                flags: event.events(),
                name: event.file_name().map(|name| name.to_bytes().to_owned()),
            }),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return events,
        }
    }
}
