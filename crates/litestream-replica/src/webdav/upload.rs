//! Uploads: under a temporary name first, then one step that makes the file
//! visible.
//!
//! A server shows a file while it arrives, and keeps what arrived when the
//! connection breaks; upstream lives with that. Here a file gets its name by
//! `MOVE`, which also tells atomically whether the name was taken. Servers
//! without `MOVE` get a plain `PUT`, and a line in the log that says so.
//!
//! Spec: backends §9, RFC 4918 §9.3, §9.7, §9.9.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::api::{Api, Call};
use super::list::Member;
use crate::file::is_temporary_name;
use crate::http::range;
use crate::layout::Layout;
use crate::staged::{Comparison, Staged};
use crate::{Error, ErrorKind, Result, WriteMode, WriteRequest};

/// Everything that writes, and what it has learnt about the server.
pub(super) struct Uploads {
    pub(super) api: Arc<Api>,
    pub(super) layout: Layout,
    /// Where long streams are kept until their length is known.
    pub(super) temp_dir: PathBuf,
    pub(super) moves: Moves,
    /// Collections that are there. Locked while one is made, so that the first
    /// writes do not race to make the same one.
    pub(super) made: AsyncMutex<HashSet<String>>,
    /// Whether the server has shown that it keeps what it is sent.
    pub(super) keeps: AtomicBool,
    /// Whether it has shown that files arrive where they are moved to.
    pub(super) arrives: AtomicBool,
    /// Temporary files whose writers are gone, found by listings.
    pub(super) stale: Mutex<Vec<String>>,
}

/// How this server wants to be told where a file moves to.
pub(super) struct Moves(AtomicU8);

impl Moves {
    pub(super) const fn new() -> Self {
        Self(AtomicU8::new(Self::URL))
    }

    /// A whole URL, which the oldest servers insist on.
    const URL: u8 = 0;
    /// The path alone, for servers behind a proxy that changes scheme or host.
    const PATH: u8 = 1;
    /// Not at all.
    const MISSING: u8 = 2;

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, form: u8) {
        self.0.store(form, Ordering::Relaxed);
    }
}

/// How a move went.
enum Moved {
    Done,
    /// The name is taken, and was not to be replaced.
    Taken,
    /// An earlier attempt may have moved it.
    SourceGone,
    /// The server does not move files.
    Unsupported,
}

impl Uploads {
    /// Stores one file and returns its size.
    pub(super) async fn write(&self, request: WriteRequest) -> Result<u64> {
        let key = self.layout.key(request.id);
        let body = Staged::new(request.body, self.temp_dir.clone()).await?;
        let upload = Upload {
            uploads: self,
            collection: self.layout.level_prefix(request.id.level),
            key,
            body,
            mtime: request.timestamp.as_second().max(0).to_string(),
            create_only: request.mode == WriteMode::CreateOnly,
        };
        self.remove_stale().await;
        self.make_collection(&upload.collection).await?;
        if self.moves.get() == Moves::MISSING { upload.in_place().await } else { upload.by_move().await }?;
        Ok(upload.body.len())
    }

    /// Remembers temporary files of ours that are a day older than the newest
    /// file beside them; the next write removes them.
    pub(super) fn note_stale(&self, collection: &str, others: &[Member], newest: Option<jiff::Timestamp>) {
        let Some(newest) = newest else { return };
        let old = |member: &&Member| member.modified.is_some_and(|time| newest.as_second() - time.as_second() > A_DAY);
        let stale = others.iter().filter(|member| is_temporary_name(&member.name)).filter(old);
        let mut noted = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = stale.map(|member| format!("{collection}{}", member.name)).take(MOST_STALE).collect();
    }

    /// Failures are dropped: a file that stays only takes space.
    async fn remove_stale(&self) {
        let stale = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        for path in stale {
            if remove(&self.api, &path).await.is_ok() {
                tracing::debug!(path, "removed a file whose writer was killed");
            }
        }
    }

    async fn make_collection(&self, path: &str) -> Result<()> {
        let mut made = self.made.lock().await;
        if made.contains(path) {
            return Ok(());
        }
        let mut missing = Vec::new();
        let mut current = path;
        while !self.make_one(current).await? {
            missing.push(current);
            current = parent(current).ok_or_else(|| self.no_place(path))?;
        }
        for path in missing.into_iter().rev() {
            if !self.make_one(path).await? {
                return Err(self.no_place(path));
            }
        }
        made.insert(path.to_owned());
        Ok(())
    }

    /// True when the collection is there now, false when the one above is not.
    async fn make_one(&self, path: &str) -> Result<bool> {
        let call = Call::new("make collection", "MKCOL", path).accept(&[403, 404, 405, 409]);
        let status = self.api.status(&call).await?;
        match status.as_u16() {
            404 | 409 => Ok(false),
            // It exists; or the user may not make any, which is fine if it does.
            403 | 405 if self.api.is_collection(path).await? => Ok(true),
            403 | 405 => Err(self.api.refuse(&call, status, &http::HeaderMap::new())),
            _ => Ok(true),
        }
    }

    fn no_place(&self, path: &str) -> Error {
        let (origin, base) = (self.api.server.origin(), &self.api.server.base_path);
        let message = format!(
            "webdav: make collection {path}: {origin}{base}/ does not exist or may not be written to; create it or \
             correct webdav-url"
        );
        Error::new(ErrorKind::Setup, message)
    }
}

/// One file on its way.
struct Upload<'a> {
    uploads: &'a Uploads,
    collection: String,
    key: String,
    body: Staged,
    mtime: String,
    create_only: bool,
}

impl Upload<'_> {
    fn api(&self) -> &Arc<Api> {
        &self.uploads.api
    }

    async fn by_move(&self) -> Result<()> {
        let temporary = format!("{}.{}-{:016x}.tmp", self.key, std::process::id(), fastrand::u64(..));
        let unfinished = Unfinished::new(self.api(), &temporary);
        self.put(&temporary, false).await?;
        self.check_kept(&temporary).await?;
        match self.rename(&temporary).await? {
            Moved::Done if self.has_arrived().await? => {
                unfinished.disarm();
                Ok(())
            }
            Moved::Taken => {
                unfinished.remove().await;
                self.settle(ErrorKind::Conflict).await
            }
            Moved::SourceGone => {
                unfinished.disarm();
                self.settle(if self.create_only { ErrorKind::Conflict } else { ErrorKind::Transient }).await
            }
            Moved::Done | Moved::Unsupported => {
                unfinished.remove().await;
                self.uploads.moves.set(Moves::MISSING);
                let server = self.api().server.origin();
                tracing::warn!(
                    server,
                    "server does not rename files as it should, readers may see them while they arrive"
                );
                self.in_place().await
            }
        }
    }

    /// Straight to the final name, for servers that leave no choice.
    async fn in_place(&self) -> Result<()> {
        if !self.create_only {
            self.put(&self.key, false).await?;
            return self.check_kept(&self.key).await;
        }
        if self.api().head(&self.key).await?.is_none() {
            let unfinished = Unfinished::new(self.api(), &self.key);
            if self.put(&self.key, true).await? {
                self.check_kept(&self.key).await?;
                unfinished.disarm();
                return Ok(());
            }
            // Somebody else's by now, or our own whose answer was lost.
            unfinished.disarm();
        }
        match self.compare().await? {
            Comparison::Same => Ok(()),
            // What an upload that broke off has left.
            Comparison::Beginning => {
                self.put(&self.key, false).await?;
                self.check_kept(&self.key).await
            }
            Comparison::Different => Err(self.conflict(ErrorKind::Conflict)),
        }
    }

    /// False when `only_new` and the name is taken.
    async fn put(&self, path: &str, only_new: bool) -> Result<bool> {
        for attempt in 0..2 {
            let mut call = Call::new("store", "PUT", path).staged(&self.body).accept(&[404, 409]);
            call = call.header("content-type", "application/octet-stream")?;
            // Kept as modification time by ownCloud, Nextcloud and rclone.
            call = call.header("x-oc-mtime", &self.mtime)?;
            if only_new {
                call = call.header("if-none-match", "*")?.accept(&[404, 409, 412]);
            }
            let status = self.api().status(&call).await?;
            match status.as_u16() {
                412 => return Ok(false),
                404 | 409 if attempt == 0 => {
                    // Somebody has removed the collection since it was made.
                    self.uploads.made.lock().await.remove(&self.collection);
                    self.uploads.make_collection(&self.collection).await?;
                }
                404 | 409 => return Err(self.uploads.no_place(&self.collection)),
                _ => return Ok(true),
            }
        }
        Ok(true)
    }

    /// Asks for the size of what was stored: some servers say yes and keep nothing.
    /// Once is enough for small files; for large ones one more request is nothing.
    async fn check_kept(&self, path: &str) -> Result<()> {
        if self.body.len() < ALWAYS_CHECKED && self.uploads.keeps.load(Ordering::Relaxed) {
            return Ok(());
        }
        let stored = self.api().head(path).await?.map(|head| head.size);
        match stored {
            Some(Some(size)) if size == self.body.len() => self.uploads.keeps.store(true, Ordering::Relaxed),
            // A server that does not tell the size.
            Some(None) => {}
            stored => {
                let kept = stored.flatten().unwrap_or_default();
                let message = format!("webdav: store {path}: the server kept {kept} of {} bytes", self.body.len());
                return Err(Error::new(ErrorKind::Transient, message));
            }
        }
        Ok(())
    }

    /// Looks once whether a file that was moved is where it should be: WsgiDAV
    /// takes an escaped question mark for the end of the path, and says yes.
    async fn has_arrived(&self) -> Result<bool> {
        if self.uploads.arrives.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let head = self.api().head(&self.key).await?;
        let arrived = head.is_some_and(|head| head.size.is_none_or(|size| size == self.body.len()));
        self.uploads.arrives.store(arrived, Ordering::Relaxed);
        Ok(arrived)
    }

    async fn rename(&self, temporary: &str) -> Result<Moved> {
        loop {
            let form = self.uploads.moves.get();
            let target = self.api().target(&self.key);
            let destination =
                if form == Moves::URL { format!("{}{target}", self.api().server.origin()) } else { target };
            let mut call = Call::new("rename", "MOVE", temporary).header("destination", &destination)?;
            call = call.header("overwrite", if self.create_only { "F" } else { "T" })?;
            call = call.accept(if form == Moves::URL { REFUSED_URL } else { REFUSED_PATH });
            let status = self.api().status(&call).await?.as_u16();
            match status {
                412 => return Ok(Moved::Taken),
                404 => return Ok(Moved::SourceGone),
                // "Another server": one behind a proxy does not know its own name.
                400 | 502 if form == Moves::URL => self.uploads.moves.set(Moves::PATH),
                400 | 403 | 405 | 501 => return Ok(Moved::Unsupported),
                // Of one file, a list of results says that something failed.
                207 => return Ok(Moved::SourceGone),
                _ => return Ok(Moved::Done),
            }
        }
    }

    /// The name is taken, perhaps by an earlier attempt of this very upload:
    /// success if it holds the same bytes.
    async fn settle(&self, otherwise: ErrorKind) -> Result<()> {
        match self.compare().await {
            Ok(Comparison::Same) => Ok(()),
            Ok(_) => Err(self.conflict(otherwise)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message = format!("webdav: store {}: it has vanished meanwhile", self.key);
                Err(Error::with_source(ErrorKind::Transient, message, error))
            }
            Err(error) => Err(error),
        }
    }

    async fn compare(&self) -> Result<Comparison> {
        let call = Call::new("read", "GET", &self.key);
        let response = self.api().open(&call).await?;
        self.body.compare(range::cut(response, 0, 0, call.describe())?).await
    }

    fn conflict(&self, kind: ErrorKind) -> Error {
        Error::new(kind, format!("webdav: store {}: another file of this name exists", self.key))
    }
}

/// Removes a file that did not come to its end, even when the future that made
/// it is dropped.
struct Unfinished {
    api: Arc<Api>,
    path: String,
    armed: bool,
}

impl Unfinished {
    fn new(api: &Arc<Api>, path: &str) -> Self {
        Self { api: api.clone(), path: path.to_owned(), armed: true }
    }

    fn disarm(mut self) {
        self.armed = false;
    }

    async fn remove(mut self) {
        self.armed = false;
        remove_or_warn(&self.api, &self.path).await;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (api, path) = (self.api.clone(), self.path.clone());
        // Without a runtime the program is ending; a later process removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remove_or_warn(&api, &path).await });
        }
    }
}

async fn remove_or_warn(api: &Api, path: &str) {
    if let Err(error) = remove(api, path).await {
        tracing::warn!(path, %error, "cannot remove an unfinished upload, it stays and takes space");
    }
}

/// Deletes one file or collection; one that is gone counts as deleted.
pub(super) async fn remove(api: &Api, path: &str) -> Result<()> {
    api.status(&Call::new("delete", "DELETE", path).accept(&[404, 410])).await.map(drop)
}

/// The collection above, with its slash; `None` above the first one.
fn parent(path: &str) -> Option<&str> {
    let (above, _) = path.trim_end_matches('/').rsplit_once('/')?;
    path.get(..=above.len()).filter(|above| !above.trim_matches('/').is_empty())
}

const REFUSED_URL: &[u16] = &[400, 403, 404, 405, 412, 501, 502];
const REFUSED_PATH: &[u16] = &[400, 403, 404, 405, 412, 501];

/// Seconds.
const A_DAY: i64 = 86_400;
/// Removed per write at most, so that no write waits long for it.
const MOST_STALE: usize = 20;
/// Files from this size on are always looked at after they were stored.
const ALWAYS_CHECKED: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_made_from_the_top() {
        assert_eq!(parent("a/b/ltx/0/"), Some("a/b/ltx/"));
        assert_eq!(parent("a/b/"), Some("a/"));
        assert_eq!(parent("a/"), None);
        assert_eq!(parent(""), None);
    }
}
