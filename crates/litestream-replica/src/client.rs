//! The contract every storage backend keeps.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use jiff::Timestamp;
use ltx::{FileName, Txid};

use crate::lease::LockStore;
use crate::{Level, Result};

/// Identity of a stored file: nothing else tells two files apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Level the file lives at.
    pub level: Level,
    /// First transaction.
    pub min: Txid,
    /// Last transaction.
    pub max: Txid,
}

impl FileId {
    /// The file's name inside its level.
    pub fn name(&self) -> FileName {
        FileName { min: self.min, max: self.max }
    }
}

impl fmt::Display for FileId {
    /// `<level>/<min>-<max>.ltx`, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.level, self.name())
    }
}

/// One row of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Which file.
    pub id: FileId,
    /// Size in bytes as stored.
    pub size: u64,
    /// When the file's last transaction was captured, or the store's own
    /// modification time where the listing was asked for no more.
    pub created_at: Timestamp,
}

/// One object below a replica's prefix, whatever layout it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// Its key, relative to the replica's prefix, segments parted by `/`, without
    /// a leading slash: `generations/0123456789abcdef/snapshots/00000000.snapshot.lz4`.
    pub key: String,
    /// Size in bytes as stored.
    pub size: u64,
    /// When the store says that it was last modified.
    pub modified: Timestamp,
}

/// Bytes of a stored file as they arrive. Dropping it aborts the transfer.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What to store.
pub enum Body {
    /// A complete file on local disk; may be read again for a retry.
    File(PathBuf),
    /// Bytes in memory; may be sent again.
    Bytes(Bytes),
    /// A stream of unknown length, readable once. An error in the stream makes
    /// the write fail and leaves nothing visible.
    Stream(ByteStream),
}

/// Whether an existing object of the same name may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Fail with [`Conflict`](crate::ErrorKind::Conflict) if the name is taken by
    /// *different* content. The same content counts as success, because a retry
    /// after a lost acknowledgement meets its own object. Backends that cannot
    /// test atomically do so before writing.
    CreateOnly,
    /// Replace whatever is there.
    Overwrite,
}

/// One object to store.
pub struct WriteRequest {
    /// Its identity, hence its name.
    pub id: FileId,
    /// The LTX header's timestamp; becomes the file's mtime or metadata.
    pub timestamp: Timestamp,
    /// Whether it may replace another.
    pub mode: WriteMode,
    /// The content.
    pub body: Body,
}

/// A store that holds one database's replica under one prefix.
///
/// All methods may be called concurrently. Every method is cancel-safe: dropping
/// the future leaves nothing visible under a final name. Transient failures are
/// retried inside, with backoff and jitter, before they are reported.
///
/// Spec: store-and-restore §3, backends §1.
#[async_trait::async_trait]
pub trait ReplicaClient: Send + Sync + 'static {
    /// The type as config and metrics spell it: `file`, `s3`, …
    fn kind(&self) -> &'static str;

    /// Where this replica is, for messages and logs. Contains no credentials.
    fn location(&self) -> String;

    /// The facts a `replicating to` log line carries (`bucket`, `path`, …), in
    /// upstream's order. No credentials.
    fn log_fields(&self) -> Vec<(&'static str, String)>;

    /// Checks settings and resolves what must be known first, such as a
    /// bucket's region. Idempotent; other methods call it as needed.
    async fn init(&self) -> Result<()>;

    /// All files of `level` whose `min` is at least `seek`, ascending by
    /// `(min, max)`. An absent directory or prefix is an empty list. A list is
    /// complete or an error, never cut short.
    ///
    /// `metadata` asks for true [`created_at`](FileInfo::created_at) times, at
    /// whatever cost; only restores by timestamp need them.
    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>>;

    /// Whether [`list`](Self::list) tells true times at no extra cost. Where it
    /// does not, a restore to a moment searches instead of asking for all.
    fn lists_true_times(&self) -> bool {
        true
    }

    /// Reads `len` bytes of a stored file from `offset`; `len == 0` means to the
    /// end. Reading past the end yields fewer bytes, not an error. The stream is
    /// a single attempt; a resuming reader stands on top of it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when no such file exists.
    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream>;

    /// Stores one file, all or nothing: durable, complete and visible on
    /// success; invisible otherwise.
    async fn write(&self, request: WriteRequest) -> Result<FileInfo>;

    /// Deletes these files. One that is already gone counts as deleted.
    async fn delete(&self, files: &[FileId]) -> Result<()>;

    /// Every object whose key starts with `prefix`, at any depth, ascending by
    /// key: how layouts other than LTX are read. An absent prefix is an empty
    /// list. A list is complete or an error, never cut short.
    ///
    /// `prefix` is empty or ends with `/`, so that a store with directories walks
    /// just that one. Keys are relative to the replica's path, which is joined
    /// *cleaned* here, as 0.3 wrote it; on stores whose LTX keys join it verbatim
    /// (`s3`, `oss`) an odd path therefore keeps its LTX files elsewhere. Files
    /// still being written may be left out.
    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>>;

    /// Reads `len` bytes of one object from `offset`, as [`open`](Self::open)
    /// does; `key` is as [`list_objects`](Self::list_objects) gave it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when no such object exists;
    /// [`Setup`](crate::ErrorKind::Setup) when the key is none that a listing
    /// gives (`..`, empty segments).
    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream>;

    /// Deletes everything under the prefix.
    async fn delete_all(&self) -> Result<()>;

    /// Makes sure that this process may write here; called before each batch. True
    /// when the right is new: others may have written before, and everything that
    /// was known about the replica must be read again. Writing is possible from the
    /// next claim that answers false.
    ///
    /// # Errors
    /// [`Leased`](crate::ErrorKind::Leased) while another process has the lease.
    async fn claim(&self) -> Result<bool> {
        Ok(false)
    }

    /// Gives the right to write back, so that another process need not wait.
    async fn release(&self) -> Result<()> {
        Ok(())
    }

    /// The object that a [lease](crate::lease) is kept in, where the store can.
    fn lock(&self) -> Option<Box<dyn LockStore>> {
        None
    }
}
