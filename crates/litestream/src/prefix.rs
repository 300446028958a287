//! One database's replica as this process knows it: the client, and a mirror of
//! everything that lies under the prefix.
//!
//! One listing of all levels at the start, then every write and delete of ours is
//! entered as it succeeds, so that nothing has to be listed again: an idle
//! database costs no request. All writers of a prefix go through this wrapper. The
//! rule that must never break: after an operation whose effect is unknown (it
//! failed, or was dropped half way) the mirror is unknown too, and whoever needs
//! it next lists the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use litestream_replica::clock::Clock;
use litestream_replica::{
    ByteStream, FileId, FileInfo, Inventory, Level, ObjectInfo, ReplicaClient, Result as ReplicaResult, WriteRequest,
};
use ltx::Txid;

use crate::error::{Error, ErrorKind, Result};

/// A replica client that keeps a mirror of what it holds.
pub(crate) struct Prefix {
    client: Arc<dyn ReplicaClient>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the store holds; `None` when that is not known.
    mirror: Option<Inventory>,
    /// When the store was last listed.
    listed_at: Option<Timestamp>,
    /// Counts operations whose effect is unknown.
    doubts: u64,
    /// Listings that are under way.
    listings: u32,
    /// What was written and deleted while one was.
    meanwhile: Vec<Change>,
    /// The newest transaction this process has tried to write, once it has
    /// written any.
    attempted: Option<Txid>,
    /// The newest transaction that was there when it had not written any. Merging what
    /// it found is no reason to take the rest for somebody else's.
    found: Txid,
}

#[derive(Clone, Copy)]
enum Change {
    Written(FileInfo),
    Deleted(FileId),
}

impl Prefix {
    pub(crate) fn new(client: Arc<dyn ReplicaClient>, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, state: Mutex::default() }
    }

    /// Takes nothing for known, as after a start of the process: somebody else may
    /// have written while the database was stopped.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        state.mirror = None;
        state.listed_at = None;
        state.attempted = None;
        state.found = Txid::NONE;
        state.doubts += 1;
    }

    /// What the store holds, without asking it; `None` when that is not known.
    pub(crate) fn known(&self) -> Option<Inventory> {
        self.state().mirror.clone()
    }

    /// As [`known`](Self::known), without a copy. `f` must be quick.
    pub(crate) fn inspect<T>(&self, f: impl FnOnce(&Inventory) -> T) -> Option<T> {
        self.state().mirror.as_ref().map(f)
    }

    /// When the store was last listed.
    pub(crate) fn listed_at(&self) -> Option<Timestamp> {
        self.state().listed_at
    }

    /// What the store holds; lists it when that is not known.
    ///
    /// # Errors
    /// As [`list_all`](Self::list_all).
    pub(crate) async fn inventory(&self) -> Result<Inventory> {
        match self.known() {
            Some(mirror) => Ok(mirror),
            None => self.list_all().await,
        }
    }

    /// Lists all levels of the store and takes the result as the mirror.
    ///
    /// # Errors
    /// When a listing fails, and [`ErrorKind::Setup`] when the store holds
    /// transactions beyond any of ours.
    pub(crate) async fn list_all(&self) -> Result<Inventory> {
        let listing = Listing::begin(self);
        let mut inventory = Inventory::load_cautiously(&*self.client).await?;
        let known = listing.finish(&mut inventory);
        let newest = inventory.newest_txid();
        if newest > known {
            // Nothing may be planned from it.
            self.state().mirror = None;
            return Err(Error::new(
                ErrorKind::Setup,
                format!(
                    "another writer appends to {} (found txid {newest}); stop it, then restart litestream to continue above it",
                    self.client.location()
                ),
            ));
        }
        Ok(inventory)
    }

    /// The store was seen not to hold this file, whatever the mirror says.
    pub(crate) fn is_gone(&self, id: FileId) {
        if let Some(mirror) = &mut self.state().mirror {
            mirror.remove(id);
        }
    }

    /// Transactions up to this one may be written by this process from here on.
    pub(crate) fn attempts(&self, txid: Txid) {
        let mut state = self.state();
        state.attempted = state.attempted.max(Some(txid));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, change: Change) {
        if let Some(mirror) = &mut self.mirror {
            apply(mirror, change);
        }
        if self.listings > 0 {
            self.meanwhile.push(change);
        }
    }
}

fn apply(mirror: &mut Inventory, change: Change) {
    match change {
        Change::Written(info) => mirror.insert(info),
        Change::Deleted(id) => {
            mirror.remove(id);
        }
    }
}

/// A listing that is under way; what happens meanwhile is kept, because the
/// listing may have seen it or not.
struct Listing<'a> {
    prefix: &'a Prefix,
    doubts: u64,
}

impl<'a> Listing<'a> {
    fn begin(prefix: &'a Prefix) -> Self {
        let mut state = prefix.state();
        state.listings += 1;
        let doubts = state.doubts;
        drop(state);
        Self { prefix, doubts }
    }

    /// Brings the listing up to date and makes it the mirror, unless something of
    /// unknown effect happened meanwhile. Returns the newest transaction that is ours
    /// or was there before us.
    fn finish(&self, inventory: &mut Inventory) -> Txid {
        let now = self.prefix.clock.now();
        let mut state = self.prefix.state();
        for &change in &state.meanwhile {
            apply(inventory, change);
        }
        state.mirror = (state.doubts == self.doubts).then(|| inventory.clone());
        state.listed_at = Some(now);
        if state.attempted.is_none() {
            state.found = state.found.max(inventory.newest_txid());
        }
        state.found.max(state.attempted.unwrap_or(Txid::NONE))
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        let mut state = self.prefix.state();
        state.listings -= 1;
        if state.listings == 0 {
            state.meanwhile.clear();
        }
    }
}

/// An operation whose effect is unknown until it is settled.
struct Pending<'a> {
    prefix: &'a Prefix,
}

impl Pending<'_> {
    fn settle(self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.prefix.state();
        for change in changes {
            state.apply(change);
        }
        drop(state);
        std::mem::forget(self);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = self.prefix.state();
        state.mirror = None;
        state.doubts += 1;
    }
}

#[async_trait::async_trait]
impl ReplicaClient for Prefix {
    fn kind(&self) -> &'static str {
        self.client.kind()
    }

    fn location(&self) -> String {
        self.client.location()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        self.client.log_fields()
    }

    async fn init(&self) -> ReplicaResult<()> {
        self.client.init().await
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> ReplicaResult<Vec<FileInfo>> {
        self.client.list(level, seek, metadata).await
    }

    fn lists_true_times(&self) -> bool {
        self.client.lists_true_times()
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> ReplicaResult<ByteStream> {
        self.client.open(id, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> ReplicaResult<FileInfo> {
        self.attempts(request.id.max);
        let pending = Pending { prefix: self };
        let info = self.client.write(request).await?;
        pending.settle([Change::Written(info)]);
        Ok(info)
    }

    async fn delete(&self, files: &[FileId]) -> ReplicaResult<()> {
        let pending = Pending { prefix: self };
        self.client.delete(files).await?;
        pending.settle(files.iter().copied().map(Change::Deleted));
        Ok(())
    }

    async fn list_objects(&self, prefix: &str) -> ReplicaResult<Vec<ObjectInfo>> {
        self.client.list_objects(prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> ReplicaResult<ByteStream> {
        self.client.open_object(key, offset, len).await
    }

    async fn delete_all(&self) -> ReplicaResult<()> {
        let pending = Pending { prefix: self };
        let result = self.client.delete_all().await;
        // Too much to enter one by one.
        drop(pending);
        result
    }

    /// Writing is possible when this returns. A new right means that others may have
    /// written, so nothing is taken for known before it is used.
    async fn claim(&self) -> ReplicaResult<bool> {
        let mut is_new = false;
        while self.client.claim().await? {
            self.forget();
            is_new = true;
        }
        Ok(is_new)
    }

    async fn release(&self) -> ReplicaResult<()> {
        self.client.release().await
    }
}

#[cfg(test)]
mod tests;
