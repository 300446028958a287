//! Which files rebuild a TXID or a moment.
//!
//! Planning is pure: an [`Inventory`] is what a store listed, a [`Plan`] is the
//! shortest chain of its files that starts at TXID 1 and ends at the target.
//! Nothing here reads a file; that is `restore`'s business.
//!
//! The selection is an interface: `restore -dry-run` prints it, so it must be
//! the very chain upstream takes. What may differ is when we *refuse*: a plan
//! never stops silently short of files that belong to the wanted history.
//!
//! Spec: store-and-restore §11.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use ltx::Txid;

use crate::moment::Moments;
use crate::{Error, ErrorKind, FileId, FileInfo, Level, ReplicaClient, Result};

mod from;

pub use self::from::Continuation;

/// The text scripts know for "there is no such backup"; always of kind
/// [`Unavailable`](ErrorKind::Unavailable).
pub const NOT_AVAILABLE: &str = "no matching backup files available";

/// The moment to rebuild.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The newest state the store holds.
    #[default]
    Latest,
    /// Exactly the state after this transaction. [`Txid::NONE`] means
    /// [`Latest`](Self::Latest), as 16 zeros do on upstream's command line.
    Txid(Txid),
    /// The last state captured *strictly before* this moment. A moment after
    /// the newest file is the newest state.
    Timestamp(Timestamp),
}

impl Target {
    /// True when planning compares [`FileInfo::created_at`], so that listings
    /// must carry true times.
    pub fn needs_times(self) -> bool {
        matches!(self, Self::Timestamp(_))
    }

    /// The same target in its one spelling.
    fn normal(self) -> Self {
        if self == Self::Txid(Txid::NONE) { Self::Latest } else { self }
    }

    /// Whether a file may take part at all.
    fn admits(self, file: &FileInfo) -> bool {
        match self {
            Self::Latest => true,
            Self::Txid(txid) => file.id.max <= txid,
            Self::Timestamp(moment) => file.created_at < moment,
        }
    }

    /// Whether a chain up to `reached` needs no further file.
    fn is_met_by(self, reached: Txid) -> bool {
        matches!(self, Self::Txid(txid) if reached >= txid)
    }
}

/// The files that rebuild one state, in the order they apply.
///
/// The first starts at TXID 1; each starts at or before the TXID after its
/// predecessor's last, and ends beyond it. Later files win page by page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The chain; never empty.
    pub files: Vec<FileInfo>,
}

impl Plan {
    /// The TXID the restored database stands at.
    pub fn txid(&self) -> Txid {
        self.files.last().map_or(Txid::NONE, |file| file.id.max)
    }

    /// When that state was captured, as far as the listing knew.
    pub fn timestamp(&self) -> Timestamp {
        self.files.last().map_or(Timestamp::UNIX_EPOCH, |file| file.created_at)
    }

    /// Bytes all files hold in the store.
    pub fn total_bytes(&self) -> u64 {
        // Sizes are the store's word.
        self.files.iter().fold(0, |total, file| total.saturating_add(file.size))
    }

    /// Refuses files too short for an LTX header, before anything is fetched.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt), naming the first such file.
    pub fn check_sizes(&self) -> Result<()> {
        match self.files.iter().find(|file| file.size < MIN_FILE_LEN) {
            Some(file) => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "invalid ltx file: level={} min={} max={} has size {} bytes (minimum {MIN_FILE_LEN})",
                    file.id.level, file.id.min, file.id.max, file.size
                ),
            )),
            None => Ok(()),
        }
    }
}

/// The span a store covers, over all levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First transaction of any file.
    pub first_txid: Txid,
    /// Last transaction of any file.
    pub last_txid: Txid,
    /// Time of the oldest file.
    pub oldest: Timestamp,
    /// Time of the newest file.
    pub newest: Timestamp,
}

/// Every file of a replica at one time, over all levels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Sorted by `(level, min, max)`, without duplicates.
    files: Vec<FileInfo>,
}

impl Inventory {
    /// An inventory of these files, in any order.
    pub fn new(files: impl IntoIterator<Item = FileInfo>) -> Self {
        let mut files: Vec<FileInfo> = files.into_iter().collect();
        files.sort_by_key(|file| file.id);
        files.dedup_by_key(|file| file.id);
        Self { files }
    }

    /// Lists all ten levels at once: together, so that a compaction that runs
    /// meanwhile has the least chance to be seen half.
    ///
    /// `metadata` asks for true creation times; see
    /// [`Target::needs_times`].
    ///
    /// # Errors
    /// The first listing that fails. A partial inventory is never returned.
    pub async fn load(client: &dyn ReplicaClient, metadata: bool) -> Result<Self> {
        Self::load_within(client, metadata, usize::MAX).await
    }

    /// [`load`](Self::load) with at most `parallelism` listings at once.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_within(client: &dyn ReplicaClient, metadata: bool, parallelism: usize) -> Result<Self> {
        let listings: Vec<_> = Level::all().map(|level| client.list(level, Txid::NONE, metadata)).collect();
        let at_once = parallelism.clamp(1, listings.len());
        let levels: Vec<_> = stream::iter(listings).buffered(at_once).try_collect().await?;
        Ok(Self::new(levels.into_iter().flatten()))
    }

    /// [`load`](Self::load) for a store that may not be there: one level is listed
    /// first, and the others only when that succeeds. A store that is away is asked,
    /// and complained about, once instead of ten times.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_cautiously(client: &dyn ReplicaClient) -> Result<Self> {
        // Level 0 last would miss what is merged upwards meanwhile; first, it is seen
        // in both places at worst.
        let first = client.list(Level::L0, Txid::NONE, false).await?;
        let others = Level::all().filter(|level| *level != Level::L0);
        let listings: Vec<_> = others.map(|level| client.list(level, Txid::NONE, false)).collect();
        let at_once = listings.len();
        let others: Vec<_> = stream::iter(listings).buffered(at_once).try_collect().await?;
        Ok(Self::new(first.into_iter().chain(others.into_iter().flatten())))
    }

    /// Puts a file in, in place of one with the same identity.
    pub fn insert(&mut self, file: FileInfo) {
        match self.files.binary_search_by_key(&file.id, |known| known.id) {
            Ok(index) => {
                if let Some(known) = self.files.get_mut(index) {
                    *known = file;
                }
            }
            Err(index) => self.files.insert(index, file),
        }
    }

    /// Takes a file out; `None` when it is not there.
    pub fn remove(&mut self, id: FileId) -> Option<FileInfo> {
        let index = self.files.binary_search_by_key(&id, |known| known.id).ok()?;
        Some(self.files.remove(index))
    }

    /// The newest TXID of any file; [`Txid::NONE`] of an empty replica.
    pub fn newest_txid(&self) -> Txid {
        self.files.iter().map(|file| file.id.max).max().unwrap_or(Txid::NONE)
    }

    /// Every file, by `(level, min, max)`.
    pub fn files(&self) -> &[FileInfo] {
        &self.files
    }

    /// The files of one level, by `(min, max)`.
    pub fn level(&self, level: Level) -> &[FileInfo] {
        let start = self.files.partition_point(|file| file.id.level < level);
        let end = self.files.partition_point(|file| file.id.level <= level);
        self.files.get(start..end).unwrap_or_default()
    }

    /// The same inventory without the files for which `unusable` holds.
    #[must_use]
    pub fn without(&self, unusable: impl Fn(&FileInfo) -> bool) -> Self {
        Self { files: self.files.iter().filter(|file| !unusable(file)).copied().collect() }
    }

    /// The same inventory with better times where they are known.
    pub(crate) fn with_times(&self, known: &HashMap<FileId, Timestamp>) -> Self {
        let better =
            |file: &FileInfo| FileInfo { created_at: *known.get(&file.id).unwrap_or(&file.created_at), ..*file };
        Self { files: self.files.iter().map(better).collect() }
    }

    /// The span the store covers; `None` when it holds nothing.
    pub fn bounds(&self) -> Option<Bounds> {
        let first = self.files.first()?;
        let mut bounds = Bounds {
            first_txid: first.id.min,
            last_txid: first.id.max,
            oldest: first.created_at,
            newest: first.created_at,
        };
        for file in &self.files {
            bounds.first_txid = bounds.first_txid.min(file.id.min);
            bounds.last_txid = bounds.last_txid.max(file.id.max);
            bounds.oldest = bounds.oldest.min(file.created_at);
            bounds.newest = bounds.newest.max(file.created_at);
        }
        Some(bounds)
    }

    /// The chain of files that rebuilds `target`.
    ///
    /// The base is the newest eligible snapshot; then always the file that
    /// reaches furthest, which makes the chain the shortest there is.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) with [`NOT_AVAILABLE`] when no
    /// chain exists; [`Hole`](ErrorKind::Hole), naming the missing
    /// transactions, when files of the wanted history lie beyond them.
    pub fn plan(&self, target: Target) -> Result<Plan> {
        self.plan_admitting(target, &|file| target.admits(file))
    }

    /// [`plan`](Self::plan) where `admits` decides which files may take part.
    pub(crate) fn plan_admitting(&self, target: Target, admits: Admits<'_>) -> Result<Plan> {
        let target = target.normal();
        let admits: Admits<'_> = if target == Target::Latest { &|_| true } else { admits };
        // A level-9 file that does not start at TXID 1 is no image of a
        // database; upstream would take it and fail while decoding.
        let base = self.level(Level::SNAPSHOT).iter().rfind(|file| file.id.min == Txid::FIRST && admits(file)).copied();
        let mut files: Vec<FileInfo> = base.into_iter().collect();
        let start = base.map_or(Txid::NONE, |file| file.id.max);
        let mut sweep = Sweep::new(self, target, admits, start);
        while let Some(file) = sweep.advance() {
            files.push(file);
        }
        let reached = sweep.reached;
        if let Some(hole) = self.hole_behind(reached, target, admits, files.is_empty()) {
            return Err(hole);
        }
        let falls_short = matches!(target, Target::Txid(txid) if reached < txid);
        if files.is_empty() || falls_short {
            return Err(Error::new(ErrorKind::Unavailable, NOT_AVAILABLE));
        }
        Ok(Plan { files })
    }

    /// The error for files of the wanted history that no chain reaches.
    fn hole_behind(&self, reached: Txid, target: Target, admits: Admits<'_>, is_empty: bool) -> Option<Error> {
        if is_empty || target.is_met_by(reached) {
            return None;
        }
        // What exists counts, not what the target admits: with a clock that
        // jumped, or a store that only knows upload times, an excluded file may
        // stand before an admitted one, and nothing is missing.
        let mut sweep = Sweep::new(self, Target::Latest, &|_| true, reached);
        while sweep.advance().is_some() {}
        let covered = sweep.reached;
        let beyond =
            |file: &&FileInfo| file.id.level != Level::SNAPSHOT && file.id.min > covered.next() && admits(file);
        let next = self.files.iter().filter(beyond).map(|file| file.id.min).min()?;
        let missing = format!("transactions {} to {} are missing", covered.next(), next.previous());
        let context = match target {
            // Upstream's text, which scripts and people know.
            Target::Latest => {
                format!("non-contiguous ltx files: have up to {covered} but next file starts at {next}")
            }
            Target::Txid(txid) => format!("no backup of txid {txid}: {missing}; {}", self.nearest_text(txid)),
            Target::Timestamp(moment) => format!("no backup of {moment}: {missing}; {}", self.nearest_text(covered)),
        };
        Some(Error::new(ErrorKind::Hole, context))
    }

    /// `nearest restorable points are …`, for messages.
    fn nearest_text(&self, txid: Txid) -> String {
        match self.nearest(txid) {
            (Some(before), Some(after)) => format!("nearest restorable points are {before} and {after}"),
            (Some(point), None) | (None, Some(point)) => format!("nearest restorable point is {point}"),
            (None, None) => "nothing is restorable".to_owned(),
        }
    }
}

/// Lists the store and plans `target`.
///
/// Missing files may be an artefact of listing while a writer compacts and
/// expires, so the store is listed a second time before that is reported.
///
/// # Errors
/// As [`Inventory::load`] and [`Inventory::plan`].
pub async fn plan_restore(client: Arc<dyn ReplicaClient>, target: Target) -> Result<Plan> {
    Planner::new(client, target, usize::MAX).plan(|_| false).await
}

/// Plans one target as often as it takes, and remembers what it asked.
pub(crate) struct Planner {
    client: Arc<dyn ReplicaClient>,
    target: Target,
    parallelism: usize,
    moments: Moments,
}

impl Planner {
    /// At most `parallelism` requests at once.
    pub(crate) fn new(client: Arc<dyn ReplicaClient>, target: Target, parallelism: usize) -> Self {
        let moments = Moments::new(Arc::clone(&client), parallelism);
        Self { client, target: target.normal(), parallelism, moments }
    }

    /// A plan over the files for which `unusable` does not hold.
    ///
    /// # Errors
    /// As [`plan_restore`].
    pub(crate) async fn plan(&self, unusable: impl Fn(&FileInfo) -> bool) -> Result<Plan> {
        let inventory = self.list(&unusable).await?;
        let error = match self.plan_over(&inventory).await {
            Ok(plan) => return Ok(plan),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::Hole => {
                tracing::info!(%error, "backup files are missing, listing again in case a compaction is running");
            }
            ErrorKind::Unavailable if !inventory.files().is_empty() => {
                tracing::debug!(%error, "target not found, listing again in case a compaction is running");
            }
            _ => return Err(error),
        }
        self.plan_over(&self.list(&unusable).await?).await
    }

    async fn list(&self, unusable: impl Fn(&FileInfo) -> bool) -> Result<Inventory> {
        let metadata = self.target.needs_times() && self.client.lists_true_times();
        Ok(Inventory::load_within(&*self.client, metadata, self.parallelism).await?.without(unusable))
    }

    async fn plan_over(&self, inventory: &Inventory) -> Result<Plan> {
        match self.target {
            Target::Timestamp(moment) if !self.client.lists_true_times() => self.moments.plan(inventory, moment).await,
            target => inventory.plan(target),
        }
    }
}

/// Which files may take part in a plan.
pub(crate) type Admits<'a> = &'a dyn Fn(&FileInfo) -> bool;

/// Extends a chain file by file over levels 8 to 0. Each level is walked once.
struct Sweep<'a> {
    target: Target,
    admits: Admits<'a>,
    reached: Txid,
    cursors: Vec<Cursor<'a>>,
}

/// One level's walk: the files not looked at, and the best of those that were.
struct Cursor<'a> {
    rest: &'a [FileInfo],
    best: Option<FileInfo>,
}

impl<'a> Sweep<'a> {
    fn new(inventory: &'a Inventory, target: Target, admits: Admits<'a>, reached: Txid) -> Self {
        let levels = Level::all().filter(|level| *level != Level::SNAPSHOT);
        let cursors = levels.map(|level| Cursor { rest: inventory.level(level), best: None }).collect();
        Self { target, admits, reached, cursors }
    }

    /// The next file of the chain, or `None` when the target is met or nothing
    /// continues it.
    fn advance(&mut self) -> Option<FileInfo> {
        if self.target.is_met_by(self.reached) {
            return None;
        }
        let (admits, reached) = (self.admits, self.reached);
        let candidates = self.cursors.iter_mut().filter_map(|cursor| cursor.candidate(admits, reached));
        let file = candidates.max_by(|a, b| rank(a).cmp(&rank(b)))?;
        self.reached = file.id.max;
        Some(file)
    }
}

impl Cursor<'_> {
    /// The level's best file that continues a chain which ends at `reached`.
    fn candidate(&mut self, admits: Admits<'_>, reached: Txid) -> Option<FileInfo> {
        self.best = self.best.filter(|file| file.id.max > reached);
        while let Some((file, rest)) = self.rest.split_first()
            && file.id.min <= reached.next()
        {
            self.rest = rest;
            let continues = file.id.max > reached && admits(file);
            if continues && self.best.is_none_or(|best| rank(file) > rank(&best)) {
                self.best = Some(*file);
            }
        }
        self.best
    }
}

/// Orders candidates: larger last TXID, then smaller first, then higher level,
/// then earlier creation.
fn rank(file: &FileInfo) -> impl Ord + use<> {
    let FileId { level, min, max } = file.id;
    (max, std::cmp::Reverse(min), level, std::cmp::Reverse(file.created_at))
}

/// An LTX header; anything shorter is no file.
const MIN_FILE_LEN: u64 = 100;
