//! Rebuilds a database file from a plan.
//!
//! Files are not merged as streams. From the newest to the oldest, each file's
//! page index says which pages it holds; a page belongs to the first file that
//! claims it. The page blocks, cut into chunks of whole frames, are then fetched
//! and decoded in any order and every page is written at its place.
//!
//! Rules that must never break: every frame of every file of the plan is decoded
//! and counted in that file's checksum, superseded or not; and nothing appears
//! at the output path before all of them agree and every page is there.
//!
//! Spec: store-and-restore §12, §21.1; ltx §8–11.

mod assemble;
mod attributes;
mod fault;
pub(crate) mod fetch;
mod journal;
pub(crate) mod output;
mod pages;
mod sequential;
mod sidecar;
mod source;
mod split;
mod verdict;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use ltx::{PageSize, Txid};
use tokio_util::sync::CancellationToken;

pub use self::attributes::Attributes;
pub(crate) use self::fault::task_failed;
pub use self::output::{OutputPolicy, check_output};

use self::assemble::{Assembled, Assembly};
use self::fault::Fault;
use self::fetch::Fetcher;
use self::output::TempFile;
use crate::plan::Planner;
use crate::{Error, ErrorKind, FileId, FileInfo, Plan, ReplicaClient, Result, Target};

/// A check of the complete database, run on its temporary file before it takes
/// the output's place. An error fails the restore and leaves the output as it was.
pub type VerifyHook = Box<dyn FnOnce(&Path) -> Result<()> + Send>;

/// What to restore, and where to.
pub struct RestoreOptions {
    /// The database file to make. `<output>.tmp` is used on the way; missing
    /// directories are created.
    pub output: PathBuf,
    /// Which state.
    pub target: Target,
    /// Requests to the store at once; 0 means the default of 8.
    pub parallelism: usize,
    /// What to do about an existing database.
    pub policy: OutputPolicy,
    /// Owner and mode of the output.
    pub attributes: Attributes,
    /// Plans of at least so many bytes keep a journal, `<output>.tmp-resume`: one
    /// that was killed goes on where it stopped when it is started again, and one
    /// that lost its store leaves its work and says so. The default is 64 MiB.
    pub resume_from_bytes: u64,
    /// Run on the finished file, on a blocking thread. Side files that SQLite
    /// leaves beside the temporary file are removed afterwards.
    pub verify: Option<VerifyHook>,
    /// Ends the restore early, with [`Cancelled`](ErrorKind::Cancelled).
    pub cancel: CancellationToken,
}

impl RestoreOptions {
    /// The newest state to `output`, refusing to replace a database.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        Self {
            output: output.into(),
            target: Target::Latest,
            parallelism: DEFAULT_PARALLELISM,
            policy: OutputPolicy::RefuseExisting,
            attributes: Attributes::default(),
            resume_from_bytes: RESUME_FROM_BYTES,
            verify: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// What a restore made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The TXID the database stands at.
    pub txid: Txid,
    /// When that state was captured, as its file says.
    pub timestamp: Timestamp,
    /// Length of the database in pages.
    pub commit: u32,
    /// Its page size.
    pub page_size: PageSize,
    /// Number of files it was made from.
    pub file_count: usize,
    /// Bytes received from the store, repetitions included.
    pub bytes_fetched: u64,
    /// Length of the database in bytes.
    pub output_len: u64,
}

/// Told how a restore advances. Called from several threads; must not block.
pub trait Progress: Send + Sync + 'static {
    /// The database will stand at this transaction. Called before
    /// [`planned`](Self::planned), and again with it.
    fn aimed(&self, txid: Txid) {
        let _ = txid;
    }

    /// `file_count` files of together `total_bytes` will be read. Called again,
    /// with everything back at zero, when a file turned out unusable and the
    /// restore starts over without it.
    fn planned(&self, file_count: usize, total_bytes: u64) {
        let _ = (file_count, total_bytes);
    }

    /// That many more of the planned bytes are read, checked and written.
    fn advanced(&self, bytes: u64) {
        let _ = bytes;
    }

    /// All bytes are written; now they go to the disk and are verified.
    fn finishing(&self) {}
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}

/// Restores a database.
///
/// The output is untouched until the new database is complete, verified and on
/// the disk; on every error, and when the future is dropped, nothing stays
/// behind. A file that is corrupt or gone is planned around where others cover
/// it, with a warning.
///
/// # Errors
/// [`Conflict`](ErrorKind::Conflict) when the output exists and `policy` keeps
/// it; [`Unavailable`](ErrorKind::Unavailable) when the target cannot be
/// reached; [`Hole`](ErrorKind::Hole) and [`Corrupt`](ErrorKind::Corrupt),
/// naming the file or page, when the replica is damaged and nothing else covers
/// the damage; [`DiskFull`](ErrorKind::DiskFull);
/// [`Cancelled`](ErrorKind::Cancelled); what `verify` returned.
///
/// Spec: store-and-restore §12.
pub async fn restore(
    client: Arc<dyn ReplicaClient>,
    options: RestoreOptions,
    progress: Arc<dyn Progress>,
) -> Result<Restored> {
    let cancel = options.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "restore cancelled")),
        restored = run(client, options, progress) => restored,
    }
}

async fn run(client: Arc<dyn ReplicaClient>, options: RestoreOptions, progress: Arc<dyn Progress>) -> Result<Restored> {
    let RestoreOptions { output, target, parallelism, policy, attributes, resume_from_bytes, verify, cancel } = options;
    check_output(&output, policy)?;
    let parallelism = if parallelism == 0 { DEFAULT_PARALLELISM } else { parallelism };
    let fetcher = Arc::new(Fetcher::new(Arc::clone(&client), parallelism));
    let mut rounds = Rounds::begin(Planner::new(client, target, parallelism)).await?;
    let is_large = rounds.plan.total_bytes() >= resume_from_bytes;
    let mut temp = TempFile::create(&output, is_large)?.with_attributes(attributes)?;
    let (plan, assembled) = loop {
        let plan = rounds.plan.clone();
        progress.aimed(plan.txid());
        progress.planned(plan.files.len(), plan.total_bytes());
        let journal = is_large.then(|| Arc::new(temp.journal()));
        if let Some(finished) = journal.as_ref().map(|journal| journal.found_count()).filter(|count| *count > 0) {
            tracing::info!(finished, path = %temp.path().display(), "going on with a restore that was interrupted");
        }
        let assembly = Assembly {
            journal: journal.clone(),
            fetcher: Arc::clone(&fetcher),
            parallelism,
            progress: Arc::clone(&progress),
            distrusted: rounds.distrusted.clone(),
        };
        match assembly.run(&plan, &temp).await {
            Ok(assembled) => break (plan, assembled),
            // Hours of transfer are not thrown away because the line is down.
            Err(Fault::Other(error)) if error.is_retryable() && journal.is_some() => {
                let kept = temp.keep_for_later();
                let advice = format!("stopped; repeat the same restore to go on from {}", kept.display());
                return Err(error.context(advice));
            }
            Err(fault) => rounds.plan_around(fault).await?,
        }
        temp.renew()?;
    };
    progress.finishing();
    let Assembled { commit, page_size, timestamp, output_len } = assembled;
    conclude(temp, verify, policy, &cancel).await?;
    Ok(Restored {
        txid: plan.txid(),
        timestamp,
        commit,
        page_size,
        file_count: plan.files.len(),
        bytes_fetched: fetcher.fetched(),
        output_len,
    })
}

/// The end of every restore: the complete file is flushed, checked, and takes the
/// output's place.
pub(crate) async fn conclude(
    temp: TempFile,
    verify: Option<VerifyHook>,
    policy: OutputPolicy,
    cancel: &CancellationToken,
) -> Result<()> {
    let temp = on_disk(temp, verify).await?;
    // From here on there is no way back; a caller who gives up during the rename
    // would not know which database he has.
    if cancel.is_cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "restore cancelled"));
    }
    temp.publish(policy)
}

/// Flushes the file and runs the caller's check, off the async threads.
async fn on_disk(temp: TempFile, verify: Option<VerifyHook>) -> Result<TempFile> {
    let path = temp.path().to_owned();
    let file = temp.file();
    let checked = tokio::task::spawn_blocking(move || {
        file.sync_all().map_err(|e| Error::io(format!("fsync {}", path.display()), e))?;
        match verify {
            // The check may have written, as SQLite does when it opens a
            // database in WAL mode; what is renamed must be on the disk.
            Some(verify) => {
                verify(&path)?;
                file.sync_all().map_err(|e| Error::io(format!("fsync {}", path.display()), e))
            }
            None => Ok(()),
        }
    });
    checked.await.map_err(fault::task_failed)??;
    Ok(temp)
}

/// The plan in use, and what experience has taught about its files.
struct Rounds {
    planner: Planner,
    plan: Plan,
    /// What the first plan reached. No later one may stop short of it.
    promised: Txid,
    /// Corrupt or vanished, with the size they were listed with: a file that was
    /// written anew meanwhile gets another chance.
    unusable: Vec<(FileId, u64)>,
    /// Files whose index does not fit their frames; read front to back.
    distrusted: Vec<FileId>,
}

impl Rounds {
    async fn begin(planner: Planner) -> Result<Self> {
        let plan = planner.plan(|_| false).await.map_err(plan_context)?;
        let promised = plan.txid();
        let mut rounds = Self { planner, plan, promised, unusable: Vec::new(), distrusted: Vec::new() };
        while let Err((file, error)) = rounds.check_sizes() {
            rounds.plan_around(Fault::File { file, error }).await?;
        }
        Ok(rounds)
    }

    fn check_sizes(&self) -> std::result::Result<(), (FileInfo, Error)> {
        self.plan
            .files
            .iter()
            .try_for_each(|file| Plan { files: vec![*file] }.check_sizes().map_err(|error| (*file, error)))
    }

    /// Takes `fault` into account, or gives up with it.
    async fn plan_around(&mut self, fault: Fault) -> Result<()> {
        let (file, error) = match fault {
            Fault::Other(error) => return Err(error),
            Fault::Index { file, reason } => {
                tracing::warn!(file = %file.id, reason, "page index does not fit the file, reading it front to back");
                self.distrusted.push(file.id);
                return Ok(());
            }
            Fault::File { file, error } => (file, error),
        };
        if self.unusable.len() >= MAX_REPLANS {
            return Err(error);
        }
        self.unusable.push((file.id, file.size));
        let unusable = |file: &FileInfo| self.unusable.contains(&(file.id, file.size));
        match self.planner.plan(unusable).await {
            Ok(plan) if plan.txid() >= self.promised => {
                tracing::warn!(file = %file.id, %error, "unusable file, restoring from others");
                self.plan = plan;
                Ok(())
            }
            // Without this file the history ends earlier or has a hole. The file
            // is what a person has to look at.
            _ => Err(error),
        }
    }
}

/// Upstream's prefix; the plain "there is no backup" stands without it.
fn plan_context(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unavailable => error,
        _ => error.context("cannot calc restore plan"),
    }
}

pub(crate) const DEFAULT_PARALLELISM: usize = 8;

/// Below this a restore takes seconds, and starting over costs nothing.
const RESUME_FROM_BYTES: u64 = 64 << 20;

/// Unusable files to plan around before giving up.
const MAX_REPLANS: usize = 8;
