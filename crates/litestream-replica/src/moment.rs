//! Planning for a moment over a store whose listings tell only upload times.
//!
//! Such a store answers "when was this captured?" for one object at a time, and
//! a day of backups is thousands of them. History is written in order, so the
//! moment is searched, not looked up everywhere: a file's time follows from its
//! last TXID, whatever its level, and snapshots are a second, shorter row.
//!
//! Rule that must never break: every file of the resulting plan was itself asked
//! and lies strictly before the moment. Where clocks have jumped, the search may
//! stop early, but never late.
//!
//! Spec: store-and-restore §11, §21.3.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use ltx::{Header, Txid};

use crate::resume::resuming;
use crate::{Error, ErrorKind, FileId, FileInfo, Inventory, Level, Plan, ReplicaClient, Result, Target};

/// Asks for capture times, each file at most once.
pub(crate) struct Moments {
    client: Arc<dyn ReplicaClient>,
    at_once: usize,
    known: Mutex<HashMap<FileId, Timestamp>>,
}

impl Moments {
    /// At most `parallelism` questions at once.
    pub(crate) fn new(client: Arc<dyn ReplicaClient>, parallelism: usize) -> Self {
        Self { client, at_once: parallelism.clamp(1, QUESTIONS_AT_ONCE), known: Mutex::default() }
    }

    /// The chain of files that rebuilds the last state before `moment`, its files
    /// with their true times.
    ///
    /// # Errors
    /// As [`Inventory::plan`]; what asking the store fails with.
    pub(crate) async fn plan(&self, inventory: &Inventory, moment: Timestamp) -> Result<Plan> {
        let cut = self.cut(inventory, moment).await?;
        for _ in 0..MAX_ROUNDS {
            let known = self.known();
            let admits = |file: &FileInfo| match known.get(&file.id) {
                Some(time) => *time < moment,
                None => cut.admits(file),
            };
            let mut plan = inventory.with_times(&known).plan_admitting(Target::Timestamp(moment), &admits)?;
            let times = self.times(&plan.files).await?;
            for (file, time) in plan.files.iter_mut().zip(times) {
                file.created_at = time;
            }
            if plan.files.iter().all(|file| file.created_at < moment) {
                return Ok(plan);
            }
        }
        let context = format!("capture times of the backup files are out of order near {moment}");
        Err(Error::new(ErrorKind::Hole, context))
    }

    /// Where the moment lies in the row of transactions, and in that of snapshots.
    async fn cut(&self, inventory: &Inventory, moment: Timestamp) -> Result<Cut> {
        let (snapshots, mut changes): (Vec<_>, Vec<_>) =
            inventory.files().iter().copied().partition(|file| file.id.level == Level::SNAPSHOT);
        // One file speaks for all that end with the same transaction; the one of
        // the highest level lives longest.
        changes.sort_by_key(|file| (file.id.max, std::cmp::Reverse(file.id.level)));
        changes.dedup_by_key(|file| file.id.max);
        let (changes, snapshots) =
            tokio::try_join!(self.last_before(&changes, moment), self.last_before(&snapshots, moment))?;
        Ok(Cut { changes, snapshots })
    }

    /// The last TXID of the last of these files, ascending, that lies before
    /// `moment`.
    async fn last_before(&self, files: &[FileInfo], moment: Timestamp) -> Result<Txid> {
        let (mut low, mut high) = (0, files.len());
        while low < high {
            let width = high - low;
            let mut pivots: Vec<usize> = (1..=PIVOTS).map(|i| low + width * i / (PIVOTS + 1)).collect();
            pivots.dedup();
            let asked: Vec<FileInfo> = pivots.iter().filter_map(|at| files.get(*at).copied()).collect();
            for (at, time) in pivots.into_iter().zip(self.times(&asked).await?) {
                if time >= moment {
                    high = at;
                    break;
                }
                low = at + 1;
            }
        }
        let last = low.checked_sub(1).and_then(|at| files.get(at));
        Ok(last.map_or(Txid::NONE, |file| file.id.max))
    }

    fn known(&self) -> HashMap<FileId, Timestamp> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The capture times of these files, in their order.
    pub(crate) async fn times(&self, files: &[FileInfo]) -> Result<Vec<Timestamp>> {
        stream::iter(files.to_vec()).map(|file| self.time_of(file)).buffered(self.at_once).try_collect().await
    }

    async fn time_of(&self, file: FileInfo) -> Result<Timestamp> {
        if let Some(time) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&file.id) {
            return Ok(*time);
        }
        let time = match self.header(&file).await {
            Ok(header) => header.timestamp,
            // Damage and loss are found again, and named, by who reads the file.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => file.created_at,
            Err(error) => return Err(error.context(format!("read the time of {}", file.id))),
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(file.id, time);
        Ok(time)
    }

    async fn header(&self, file: &FileInfo) -> Result<Header> {
        let len = (Header::LEN as u64).min(file.size);
        let mut parts = resuming(Arc::clone(&self.client), file.id, 0, len);
        let mut bytes = BytesMut::new();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part?);
        }
        Header::parse(&bytes).map_err(|error| Error::with_source(ErrorKind::Corrupt, file.id.to_string(), error))
    }
}

/// The last TXIDs before a moment.
struct Cut {
    changes: Txid,
    snapshots: Txid,
}

impl Cut {
    fn admits(&self, file: &FileInfo) -> bool {
        file.id.max <= if file.id.level == Level::SNAPSHOT { self.snapshots } else { self.changes }
    }
}

/// Files asked in one round of the search: with eight, the search over ten
/// thousand files takes five rounds of requests that run side by side.
const PIVOTS: usize = 8;

/// Questions about single files in flight.
const QUESTIONS_AT_ONCE: usize = 16;

/// Each further round learns of a file that is out of order.
const MAX_ROUNDS: usize = 32;
