//! What may be deleted, and why. No I/O, no clock.
//!
//! The rule that must never break: after a deletion the newest state and every
//! moment of the retention window can still be restored, at the granularity of
//! the levels that were kept. So nothing is deleted because of a number alone; a
//! file goes because other files, which are really there, do its work.
//!
//! Give these functions complete listings only. Every decision is derived from
//! what is there, so a pass that was interrupted is finished by the next one.
//!
//! Spec: store-and-restore §9; docs/decisions/0004-retention.md.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::{FileId, FileInfo, Inventory, Level, Target};
use ltx::Txid;

use crate::hole::images;
use crate::levels::{after, before};

/// How long what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Age at which level-0 files that were merged may go. Zero: never.
    pub l0_retention: Duration,
    /// Length of the window whose every moment stays restorable.
    pub snapshot_retention: Duration,
    /// How often snapshots are made; bounds how long superseded files stay for
    /// restores that are still reading them.
    pub snapshot_interval: Duration,
    /// Whether files of the replica are deleted at all. Local files are in any
    /// case.
    pub enabled: bool,
}

impl Policy {
    /// How long a snapshot and its increments outlive the window, for restores
    /// that planned on them: one generation, at most an hour.
    pub fn grace(&self) -> Duration {
        self.snapshot_interval.min(MAX_GRACE)
    }
}

impl Default for Policy {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            l0_retention: Duration::from_secs(5 * 60),
            snapshot_retention: day,
            snapshot_interval: day,
            enabled: true,
        }
    }
}

/// A file that may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Which one.
    pub file: FileInfo,
    /// Why it is not needed.
    pub reason: Reason,
}

/// Why a file is not needed. `Display` is what `-dry-run` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A level-0 file past `l0-retention` whose transactions stand in a merged
    /// file.
    Merged {
        /// That file.
        into: FileId,
    },
    /// A level-0 file past `l0-retention` that holds the whole database, as this
    /// snapshot does.
    Imaged {
        /// The snapshot.
        image: FileId,
    },
    /// A snapshot that no moment of the window starts from.
    Superseded {
        /// The snapshot the window starts from.
        base: FileId,
    },
    /// A file that ends at or before the snapshot the window starts from.
    BeforeWindow {
        /// That snapshot.
        base: FileId,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Merged { into } => write!(f, "older than l0-retention and contained in {into}"),
            Self::Imaged { image } => write!(f, "older than l0-retention and the same as snapshot {image}"),
            Self::Superseded { base } => write!(f, "snapshot.retention starts from the newer snapshot {base}"),
            Self::BeforeWindow { base } => {
                write!(f, "ends at or before snapshot {base}, from which snapshot.retention starts")
            }
        }
    }
}

/// Every file of the replica that may be deleted now, in the order to do it.
///
/// Empty while the newest state cannot be restored: a broken replica is healed
/// first. The inventory must be complete.
pub fn expired(inventory: &Inventory, now: Timestamp, policy: &Policy) -> Vec<Deletion> {
    let mut deletions = expired_history(inventory, now, policy);
    let known: HashSet<FileId> = deletions.iter().map(|deletion| deletion.file.id).collect();
    deletions
        .extend(expired_l0(inventory, now, policy).into_iter().filter(|deletion| !known.contains(&deletion.file.id)));
    proven(inventory, deletions)
}

/// Level-0 files that were merged and are older than `l0-retention`.
///
/// A file goes only when the whole merged file that contains it is that old:
/// until then the moments between its transactions can be restored one by one.
pub fn expired_l0(inventory: &Inventory, now: Timestamp, policy: &Policy) -> Vec<Deletion> {
    if policy.l0_retention.is_zero() || !policy.enabled {
        return Vec::new();
    }
    let limit = before(now, policy.l0_retention);
    let merged = Merged::older_than(inventory, limit);
    let reason = |file: &FileInfo| {
        if let Some(into) = merged.containing(file.id.min, file.id.max) {
            return Some(Reason::Merged { into });
        }
        same_image(inventory, file, limit).map(|image| Reason::Imaged { image })
    };
    let old = inventory.level(Level::L0).iter().filter(|file| file.created_at <= limit);
    let deletions = old.filter_map(|file| Some(Deletion { file: *file, reason: reason(file)? })).collect();
    proven(inventory, deletions)
}

/// Snapshots and files of all levels that lie before the retention window.
///
/// The window starts from the newest snapshot that is older than
/// `snapshot.retention` (and a grace, see [`Policy::grace`]); this snapshot and
/// everything above it stay. Levels that are no longer configured are treated
/// alike: whether a file is needed depends on its transactions alone.
pub fn expired_history(inventory: &Inventory, now: Timestamp, policy: &Policy) -> Vec<Deletion> {
    let start = before(before(now, policy.snapshot_retention), policy.grace());
    let Some(base) = window_base(inventory, start, now).filter(|_| policy.enabled) else { return Vec::new() };
    let floor = base.id.max;
    let snapshots = images(inventory)
        .filter(|image| image.id.max < floor)
        .map(|image| Deletion { file: *image, reason: Reason::Superseded { base: base.id } });
    let keeps_l0 = policy.l0_retention.is_zero();
    let others = inventory
        .files()
        .iter()
        .filter(|file| file.id.level != Level::SNAPSHOT && file.id.max <= floor)
        .filter(|file| file.id.level != Level::L0 || !keeps_l0)
        .map(|file| Deletion { file: *file, reason: Reason::BeforeWindow { base: base.id } });
    // Snapshots first: what is left of a superseded generation after an
    // interruption is then not mistaken for a history with a hole.
    proven(inventory, snapshots.chain(others).collect())
}

/// Local level-0 files that may go: they are in the replica, old enough, and
/// nobody will want to send or merge them again.
///
/// `local` are the local files with the time of their capture, `uploaded` is the
/// newest transaction the replica is known to have, `compacts` whether level 1
/// is configured. The newest local file always stays. Local files are a cache:
/// they go even where `l0-retention` is zero or remote deletion is disabled.
pub fn expired_local(
    inventory: &Inventory,
    local: &[(Txid, Timestamp)],
    uploaded: Txid,
    compacts: bool,
    now: Timestamp,
    policy: &Policy,
) -> Vec<Txid> {
    let age = if policy.l0_retention.is_zero() { Policy::default().l0_retention } else { policy.l0_retention };
    let limit = before(now, age);
    let merged = Merged::older_than(inventory, Timestamp::MAX);
    let imaged = images(inventory).next_back().map_or(Txid::NONE, |image| image.id.max);
    let newest = local.iter().map(|(txid, _)| *txid).max();
    let is_stored = |txid: Txid| {
        let l0 = inventory.level(Level::L0);
        l0.binary_search_by_key(&(txid, txid), |file| (file.id.min, file.id.max)).is_ok()
    };
    let may_go =
        |txid: Txid| txid <= imaged || merged.containing(txid, txid).is_some() || (!compacts && is_stored(txid));
    let old = local
        .iter()
        .filter(|(txid, created)| Some(*txid) != newest && *txid <= uploaded && *created <= limit && may_go(*txid));
    old.map(|(txid, _)| *txid).collect()
}

/// The newest snapshot that was made before `start`.
///
/// Times are put in the order of TXIDs first, because one bad clock must not end
/// the window: a time in the future counts as unknown, and a snapshot is never
/// older than the one before it.
fn window_base(inventory: &Inventory, start: Timestamp, now: Timestamp) -> Option<FileInfo> {
    let mut newest = Timestamp::MIN;
    let mut base = None;
    for image in images(inventory) {
        if image.created_at > now {
            continue;
        }
        newest = newest.max(image.created_at);
        if newest < start {
            base = Some(*image);
        }
    }
    base
}

/// The image with the very content of `file`, older than `limit` like it, and
/// made soon enough after it to stand for its moment as well.
fn same_image(inventory: &Inventory, file: &FileInfo, limit: Timestamp) -> Option<FileId> {
    if file.id.min != Txid::FIRST {
        return None;
    }
    let latest = after(file.created_at, MAX_IMAGE_DELAY).min(limit);
    images(inventory).find(|image| image.id.max == file.id.max && image.created_at <= latest).map(|image| image.id)
}

/// Takes out what must never go, and everything if the newest state would not
/// be the same without it.
fn proven(inventory: &Inventory, mut deletions: Vec<Deletion>) -> Vec<Deletion> {
    if deletions.is_empty() {
        return deletions;
    }
    let Ok(latest) = inventory.plan(Target::Latest) else { return Vec::new() };
    let newest_of_levels =
        Level::all().filter_map(|level| inventory.level(level).iter().max_by_key(|file| file.id.max));
    let kept: HashSet<FileId> = newest_of_levels.chain(&latest.files).map(|file| file.id).collect();
    deletions.retain(|deletion| !kept.contains(&deletion.file.id));
    let gone: HashSet<FileId> = deletions.iter().map(|deletion| deletion.file.id).collect();
    let left = inventory.without(|file| gone.contains(&file.id));
    if left.plan(Target::Latest).is_ok_and(|plan| plan.txid() == latest.txid()) { deletions } else { Vec::new() }
}

/// The merged files of a replica, for "which one contains this?".
struct Merged {
    /// By first TXID; each with the file among it and its predecessors that
    /// reaches furthest.
    furthest: Vec<(Txid, FileId)>,
}

impl Merged {
    /// Those of levels 1 to 8 whose last transaction is older than `limit`.
    fn older_than(inventory: &Inventory, limit: Timestamp) -> Self {
        let is_merged = |file: &&FileInfo| file.id.level != Level::L0 && file.id.level != Level::SNAPSHOT;
        let files = inventory.files().iter().filter(is_merged).filter(|file| file.created_at <= limit);
        let mut ids: Vec<FileId> = files.map(|file| file.id).collect();
        ids.sort_by_key(|id| (id.min, id.max));
        let mut best: Option<FileId> = None;
        let furthest = ids.into_iter().map(|id| {
            let further = best.filter(|best| best.max >= id.max).unwrap_or(id);
            best = Some(further);
            (id.min, further)
        });
        Self { furthest: furthest.collect() }
    }

    fn containing(&self, first: Txid, last: Txid) -> Option<FileId> {
        let count = self.furthest.partition_point(|(min, _)| *min <= first);
        let (_, id) = self.furthest.get(count.checked_sub(1)?)?;
        (id.max >= last).then_some(*id)
    }
}

const MAX_GRACE: Duration = Duration::from_secs(60 * 60);
/// The default interval of level 1, hence the granularity the file would have
/// had there.
const MAX_IMAGE_DELAY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
