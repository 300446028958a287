//! Keeps a restored copy up to date while others read it.
//!
//! A [`Follower`] looks at the replica once an interval, fetches and verifies
//! what is new, and writes it into the database file under SQLite's own locks.
//!
//! Rules that must never break: not one page is written before everything that
//! belongs to it is verified; whoever reads the copy sees the state of some
//! transaction of the source, also if this process dies at any moment; and what
//! cannot go on says so.
//!
//! Spec: store-and-restore §14; why it is done this way: decision 0006.

mod apply;
mod copy;
mod fetch;
mod initial;
mod journal;
mod lock_holders;
mod look;
mod page_one;
mod run;
mod sidecar;
mod spill;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::clock::Clock;
use litestream_replica::{FileInfo, Inventory, ReplicaClient, Target};
use ltx::Txid;
use tokio_util::sync::CancellationToken;

pub use self::initial::restore_copy;
pub use self::sidecar::txid_path;
pub use self::trouble::{Severity, Trouble};

use self::apply::{Batch, Written};
use self::copy::Copy;
use self::fetch::{Fault, Fetcher};
use self::look::Found;
use crate::error::{Error, ErrorKind, Result};

/// How to follow.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// The copy: a database file with its position in `<output>-txid`.
    pub output: PathBuf,
    /// Between two looks at the replica.
    pub interval: Duration,
    /// For how long a hole, or a damaged file that nothing covers, is waited to
    /// be mended.
    pub patience: Duration,
    /// Instead of refusing to go on with a copy that does not fit the replica,
    /// make it anew, in place.
    pub may_rebuild: bool,
    /// Ends following.
    pub cancel: CancellationToken,
}

impl FollowOptions {
    /// The defaults for the copy at `output`: an interval of one second, ten
    /// minutes of patience, no rebuilding.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        Self {
            output: output.into(),
            interval: Duration::from_secs(1),
            patience: Duration::from_secs(600),
            may_rebuild: false,
            cancel: CancellationToken::new(),
        }
    }
}

/// A step forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where the copy stood.
    pub from: Txid,
    /// Where it stands.
    pub to: Txid,
    /// When that state was captured at the source.
    pub timestamp: Timestamp,
    /// How long ago that was when readers could see it.
    pub lag: Duration,
    /// LTX files it took.
    pub file_count: usize,
    /// Pages written; zero when the copy already was what the files make of it.
    pub page_count: u64,
    /// Whether the copy was made anew instead of continued.
    pub is_rebuilt: bool,
}

/// Told what a follower does. Called from its task; must not block.
pub trait FollowObserver: Send + Sync + 'static {
    /// The copy has moved.
    fn applied(&self, applied: &Applied) {
        let _ = applied;
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl FollowObserver for NoObserver {}

/// One copy that is kept up to date.
pub struct Follower {
    client: Arc<dyn ReplicaClient>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn FollowObserver>,
    options: FollowOptions,
    /// `None` while a blocking task has it, or until it could be opened.
    copy: Option<Copy>,
    position: Txid,
    /// The farthest transaction the copy may stand at; beyond `position` only
    /// after a crash or an error behind the commit.
    farthest: Txid,
    /// The level-0 file at the position, as it was listed first. If it changes,
    /// so did the history.
    anchor: Option<FileInfo>,
    /// Verified, but readers were in the way.
    pending: Option<Batch>,
    /// No look at the replica has succeeded yet; what is wrong now will not pass.
    is_resuming: bool,
    /// The copy is known to stand exactly at `position`. Until then the next
    /// batch goes all the way to the newest state: the copy may already stand
    /// further on, and older pages among newer ones are no state at all.
    is_settled: bool,
    /// The last batch was cut by its limit.
    has_more: bool,
    /// Every page of the copy is known to belong to the replica's history.
    is_proven: bool,
    /// A snapshot was needed at the last look. What a writer uploads in the wrong
    /// order often fits at the next.
    is_suspicious: bool,
    /// When all levels were last found to have nothing new, though level 0 has
    /// nothing at the position.
    all_levels_at: Option<Timestamp>,
}

impl Follower {
    /// Takes up a copy at the position it has saved. Asks the replica nothing;
    /// the first [`tick`](Self::tick) does.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] when there is no saved position or it cannot be read.
    pub fn new(
        client: Arc<dyn ReplicaClient>,
        options: FollowOptions,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn FollowObserver>,
    ) -> Result<Self> {
        let output = &options.output;
        let Some(saved) = sidecar::read(output)? else {
            let problem = format!(
                "cannot resume follow mode: database exists but no -txid file found; delete the database to re-restore: {}",
                output.display()
            );
            return Err(Error::new(ErrorKind::Setup, problem));
        };
        // A follower died between the change of the database and that of its
        // position: the copy stands at one of the two.
        let pending = sidecar::pending(output);
        Ok(Self {
            client,
            clock,
            observer,
            options,
            copy: None,
            position: saved,
            farthest: pending.map_or(saved, |pending| pending.max(saved)),
            anchor: None,
            pending: None,
            is_resuming: true,
            is_settled: false,
            has_more: false,
            is_proven: pending.is_some(),
            is_suspicious: false,
            all_levels_at: None,
        })
    }

    /// Where the copy stands.
    pub fn position(&self) -> Txid {
        self.position
    }

    /// Looks at the replica once and applies what is new, up to a limit. `None`
    /// when there is nothing.
    ///
    /// Not cancel-safe: end it by the token in the options, which it obeys before
    /// the first page is written.
    ///
    /// # Errors
    /// [`Trouble`]; the copy stands where it stood.
    pub async fn tick(&mut self) -> Result<Option<Applied>, Trouble> {
        self.open_copy().await?;
        if let Some(batch) = self.pending.take() {
            return self.commit(batch).await.map(Some);
        }
        let batch = match self.look().await? {
            Found::Nothing => {
                self.is_resuming = false;
                return Ok(None);
            }
            Found::Files(files) => self.fetch(files).await?,
            Found::Rebuild(reason) => self.fetch_whole(&reason).await?,
        };
        self.is_resuming = false;
        match self.commit(batch).await {
            Err(trouble) if trouble.severity == Severity::Final && self.options.may_rebuild => {
                let batch = self.fetch_whole(&trouble.error.to_string()).await?;
                self.commit(batch).await.map(Some)
            }
            result => result.map(Some),
        }
    }

    async fn open_copy(&mut self) -> Result<(), Trouble> {
        if self.copy.is_some() {
            return Ok(());
        }
        let (output, cancel) = (self.options.output.clone(), self.options.cancel.clone());
        let may_overwrite = self.options.may_rebuild;
        let copy = blocking(move || Copy::open(&output, may_overwrite, cancel)).await??;
        self.copy = Some(copy);
        Ok(())
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher {
            client: Arc::clone(&self.client),
            output: self.options.output.clone(),
            cancel: self.options.cancel.clone(),
        }
    }

    /// Fetches a batch from `files`, or from others where some are damaged.
    async fn fetch(&mut self, mut files: Vec<FileInfo>) -> Result<Batch, Trouble> {
        let limit = if self.is_settled { BATCH_LEN } else { u64::MAX };
        let page_size = self.copy.as_ref().map(Copy::page_size);
        let mut unusable = Vec::new();
        loop {
            let fault = match self.fetcher().batch(&files, page_size, false, limit).await {
                Ok(batch) => {
                    self.has_more = batch.file_count < files.len();
                    return Ok(batch);
                }
                Err(fault) => fault,
            };
            let (file, error) = match fault {
                Fault::Other(error) => return Err(error.into()),
                Fault::PageSize(size) => {
                    return self.fetch_whole(&format!("the source has pages of {} bytes now", size.get())).await;
                }
                Fault::File(file, error) => (file, error),
            };
            unusable.push((file.id, file.size));
            if unusable.len() > MAX_REPLANS {
                return Err(Trouble::stuck(error));
            }
            let inventory = self.inventory().await?.without(|file| unusable.contains(&(file.id, file.size)));
            match look::files_of(inventory.plan_from(self.position)) {
                Some(others) if self.is_far_enough(&others) => files = others,
                _ => return Err(Trouble::stuck(error)),
            }
            tracing::warn!(file = %file.id, %error, "follow: unusable file, using others");
        }
    }

    /// Fetches the whole newest state, because the copy cannot be continued.
    async fn fetch_whole(&mut self, reason: &str) -> Result<Batch, Trouble> {
        tracing::warn!(db = %self.options.output.display(), reason, "follow: making the copy anew, in place");
        let plan = self.inventory().await?.plan(Target::Latest).map_err(Trouble::stuck)?;
        self.has_more = false;
        let batch = self.fetcher().batch(&plan.files, None, true, u64::MAX).await;
        if let Some(copy) = &mut self.copy {
            copy.forget_counter();
        }
        batch.map_err(|fault| match fault {
            Fault::Other(error) => error.into(),
            Fault::File(_, error) => Trouble::stuck(error),
            Fault::PageSize(_) => {
                Trouble::stuck(Error::new(ErrorKind::Corrupt, "the replica's files have pages of different sizes"))
            }
        })
    }

    async fn commit(&mut self, batch: Batch) -> Result<Applied, Trouble> {
        let Some(mut copy) = self.copy.take() else { return Err(Trouble::passing(not_open())) };
        self.farthest = self.farthest.max(batch.to);
        // Not to be dropped half way: it holds SQLite's lock.
        let (copy, batch, written) = blocking(move || {
            let written = copy.commit(&batch);
            (copy, batch, written)
        })
        .await?;
        self.copy = Some(copy);
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                match error.kind() {
                    ErrorKind::Busy => self.pending = Some(batch),
                    _ => self.is_settled = false,
                }
                return Err(error.into());
            }
        };
        Ok(self.moved(&batch, written))
    }

    fn moved(&mut self, batch: &Batch, written: Written) -> Applied {
        let from = std::mem::replace(&mut self.position, batch.to);
        self.farthest = batch.to;
        self.is_settled = true;
        self.is_proven = true;
        self.is_suspicious = false;
        self.anchor = None;
        self.all_levels_at = None;
        let lag = self.clock.now().duration_since(batch.timestamp);
        let applied = Applied {
            from,
            to: batch.to,
            timestamp: batch.timestamp,
            lag: Duration::try_from(lag).unwrap_or_default(),
            file_count: batch.file_count,
            page_count: written.page_count,
            is_rebuilt: batch.is_whole,
        };
        self.observer.applied(&applied);
        applied
    }

    /// All levels at once.
    async fn inventory(&self) -> Result<Inventory, Trouble> {
        tokio::select! {
            biased;
            () = self.options.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "follow cancelled").into()),
            inventory = Inventory::load(&*self.client, false) => match inventory {
                // A running follower outlives this: keys are rotated, permissions
                // come back. At the start it is a typing error.
                Err(error) if self.is_resuming && error.kind() == litestream_replica::ErrorKind::Setup => {
                    Err(Trouble::fatal(error))
                }
                result => Ok(result?),
            },
        }
    }

    /// Whether these files lead at least as far as the copy may stand.
    fn is_far_enough(&self, files: &[FileInfo]) -> bool {
        files.last().is_some_and(|file| file.id.max >= self.farthest)
    }
}

/// Runs what must not be on an async thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let ended = |e| Error::with_source(ErrorKind::Cancelled, "follow ended", e);
    tokio::task::spawn_blocking(work).await.map_err(ended)
}

fn not_open() -> Error {
    Error::new(ErrorKind::Transient, "the copy is not open")
}

/// Pages applied under one lock; readers wait as long as that takes.
const BATCH_LEN: u64 = 64 << 20;

/// Unusable files to plan around in one look.
const MAX_REPLANS: usize = 8;
