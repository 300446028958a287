//! What a replica can be restored to, and what it cannot.
//!
//! Restorable states and the gaps between them are read off an [`Inventory`],
//! without opening a file; whether the files are sound is found out by a restore.
//!
//! A gap is a *hole* only where transactions are missing in the middle of
//! history: what retention removed below the oldest snapshot is no hole, and
//! neither are transactions that a compacted file holds as one step.
//!
//! Spec: store-and-restore §9, §11.

use std::sync::Arc;

use jiff::Timestamp;
use ltx::Txid;

use crate::moment::Moments;
use crate::{FileId, Inventory, Level, ReplicaClient, Result};

/// A state that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// The TXID the database would stand at.
    pub txid: Txid,
    /// When that state was captured, as far as the listing knew.
    pub created_at: Timestamp,
    /// The file that ends with this state.
    pub file: FileId,
}

impl std::fmt::Display for RestorePoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.txid, self.created_at)
    }
}

/// Transactions that no file of levels 0 to 8 holds, while files before or after
/// them exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First transaction that is missing.
    pub first: Txid,
    /// Last transaction that is missing.
    pub last: Txid,
    /// The snapshot that carries history across: the earliest that ends at or
    /// after `last`.
    pub covered_by: Option<FileId>,
    /// The last state before the hole that can be restored.
    pub before: Option<RestorePoint>,
    /// The first state from `last` on that can be restored. Everything between
    /// the two is out of reach.
    pub after: Option<RestorePoint>,
}

impl Hole {
    /// Whether the newest state of a replica can be restored in spite of it.
    pub fn is_covered(&self) -> bool {
        self.covered_by.is_some()
    }
}

impl Inventory {
    /// Every state that can be restored, ascending by TXID.
    ///
    /// A file's last TXID is such a state when the file starts at TXID 1, or
    /// directly behind or inside what a smaller restorable state covers.
    pub fn restore_points(&self) -> Vec<RestorePoint> {
        let mut by_end: Vec<_> = self.files().iter().collect();
        by_end.sort_by_key(|file| (file.id.max, file.created_at));
        let mut points: Vec<RestorePoint> = Vec::new();
        for file in by_end {
            let last = points.last().map_or(Txid::NONE, |point| point.txid);
            let starts_history = file.id.min == Txid::FIRST;
            let extends = file.id.level != Level::SNAPSHOT && !last.is_none() && file.id.min <= last.next();
            if last < file.id.max && (starts_history || extends) {
                points.push(RestorePoint { txid: file.id.max, created_at: file.created_at, file: file.id });
            }
        }
        points
    }

    /// The restorable states next to `txid`: the last at or before it, and the
    /// first after it.
    pub fn nearest(&self, txid: Txid) -> (Option<RestorePoint>, Option<RestorePoint>) {
        neighbours(&self.restore_points(), txid)
    }

    /// The file of several transactions that holds `txid` as one of them, where
    /// the state after `txid` cannot be restored: the smallest such file.
    pub fn step_around(&self, txid: Txid) -> Option<FileId> {
        let around = |file: &FileId| file.min <= txid && txid < file.max;
        let files = self.files().iter().map(|file| file.id).filter(around);
        files.min_by_key(|file| (file.max.get() - file.min.get(), file.level))
    }

    /// The holes of this replica, ascending.
    pub fn holes(&self) -> Vec<Hole> {
        let snapshots: Vec<FileId> =
            self.level(Level::SNAPSHOT).iter().map(|file| file.id).filter(|id| id.min == Txid::FIRST).collect();
        let mut changes: Vec<FileId> =
            self.files().iter().map(|file| file.id).filter(|id| id.level != Level::SNAPSHOT).collect();
        changes.sort_by_key(|id| (id.min, id.max));
        let points = self.restore_points();
        let mut holes = Vec::new();
        let mut reached = Txid::NONE;
        for file in changes {
            if file.min > reached.next() {
                let last = file.min.previous();
                let covered_by = snapshots.iter().find(|snapshot| snapshot.max >= last).copied();
                // Below the oldest snapshot, retention did its work.
                if !(reached.is_none() && covered_by.is_some()) {
                    // A snapshot inside the gap takes history that far.
                    let within = snapshots.iter().rfind(|snapshot| snapshot.max < last).map_or(reached, |id| id.max);
                    let first = if covered_by.is_some() { reached.next() } else { reached.max(within).next() };
                    let (before, _) = neighbours(&points, first.previous());
                    let (_, after) = neighbours(&points, last.previous());
                    holes.push(Hole { first, last, covered_by, before, after });
                }
            }
            reached = reached.max(file.max);
        }
        holes
    }
}

/// The points with their true capture times, at the cost of one small request for
/// each where the store's listings do not tell.
///
/// # Errors
/// What the store fails with.
pub async fn with_true_times(
    client: Arc<dyn ReplicaClient>,
    inventory: &Inventory,
    points: &[RestorePoint],
) -> Result<Vec<RestorePoint>> {
    if client.lists_true_times() {
        return Ok(points.to_vec());
    }
    let wanted: std::collections::HashSet<FileId> = points.iter().map(|point| point.file).collect();
    let files: Vec<_> = inventory.files().iter().copied().filter(|file| wanted.contains(&file.id)).collect();
    let times = Moments::new(client, usize::MAX).times(&files).await?;
    let times: std::collections::HashMap<FileId, Timestamp> = files.iter().map(|file| file.id).zip(times).collect();
    let exact = |point: &RestorePoint| RestorePoint {
        created_at: times.get(&point.file).copied().unwrap_or(point.created_at),
        ..*point
    };
    Ok(points.iter().map(exact).collect())
}

/// The last point at or before `txid`, and the first after it.
fn neighbours(points: &[RestorePoint], txid: Txid) -> (Option<RestorePoint>, Option<RestorePoint>) {
    let split = points.partition_point(|point| point.txid <= txid);
    let (before, after) = points.split_at(split);
    (before.last().copied(), after.first().copied())
}
