//! What is done to one database's replica when its agenda says so: compaction,
//! snapshots, retention, validation. The decisions are `compaction`'s and
//! `retention`'s, merging is `compactor`'s; here they are carried out.
//!
//! The rules that must never break: everything is written and deleted through the
//! [`Prefix`](crate::prefix::Prefix), nothing is decided from a mirror that is
//! not known to be complete, and a problem that is found is handed to
//! reconciliation instead of being worked around.
//!
//! Spec: store-and-restore §7–§10.

use std::collections::HashSet;
use std::path::PathBuf;

use jiff::Timestamp;
use litestream_replica::{FileId, FileInfo, Inventory, Level, ReplicaClient, Target};
use ltx::Txid;

use crate::agenda::{Agenda, Lane, Situation, Task, is_only_anchor};
use crate::capture::ImageKind;
use crate::compaction::{Choice, choose, snapshot_due};
use crate::compactor::{Fault, Job, Problem, Source, compact};
use crate::counters::L0Expiry;
use crate::db::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::healing;
use crate::levels::after;
use crate::meta;
use crate::replica::with;
use crate::retention::{Deletion, expired, expired_history, expired_l0, expired_local};
use crate::snapshot::{Place, freeze, store_frozen};
use crate::staged;
use crate::validation::{ProblemKind, check_level};

impl Database {
    /// Draws up the agenda from what is known. Asks nobody.
    pub(crate) fn review(&self) {
        // Unknown after an error: whoever failed tries again and lists first.
        let Some(inventory) = self.prefix.known() else { return };
        let situation = self.situation(&inventory);
        self.agenda().review(&situation, &self.store, self.clock.now());
    }

    /// When there is something to do in this lane.
    pub(crate) fn next_due(&self, lane: Lane) -> Option<Timestamp> {
        self.agenda().next(lane)
    }

    /// Does what is due in this lane, unless the database is stopped. Errors are
    /// logged and tried again.
    pub(crate) async fn upkeep(&self, lane: Lane) {
        let Some(stopped) = self.lifecycle.running() else { return };
        tokio::select! {
            // Whatever runs then is dropped, which leaves nothing half visible.
            () = stopped.cancelled() => {}
            () = self.work_off(lane) => {}
        }
    }

    pub(crate) async fn work_off(&self, lane: Lane) {
        let _heavy = self.heavy.lock().await;
        let due = self.agenda().take_due(lane, self.clock.now());
        let mut failed = Vec::new();
        for task in due {
            match self.perform(task).await {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::Cancelled => {
                    tracing::debug!(db = %self.path().display(), error = %err, ?task, "maintenance cancelled")
                }
                Err(err) => {
                    self.log_failure(task, &err);
                    failed.push(task);
                }
            }
        }
        if failed.is_empty() {
            self.agenda().succeeded();
        } else {
            let now = self.clock.now();
            let pause = self.agenda().failed(failed, now);
            tracing::debug!(db = %self.path().display(), ?pause, "maintenance is tried again");
        }
        self.review();
    }

    async fn perform(&self, task: Task) -> Result<()> {
        match self.prefix.known() {
            // An operation failed, and nobody knows whether it had an effect.
            None => self.reconcile().await?,
            // Work costs requests anyway; this is the moment to notice what
            // somebody else did to the prefix.
            Some(inventory) if self.is_listing_old() && self.is_work(task, &inventory) => {
                self.list_and_heal().await?;
            }
            Some(_) => {}
        }
        match task {
            Task::Validate => self.validate().await,
            Task::Compact(level) => self.compact_level(level).await,
            Task::ExpireL0 => self.expire_l0().await,
            Task::Snapshot => self.snapshot_and_expire().await,
        }
    }

    /// True when the task will ask something of the store, and does not list it
    /// anyway.
    fn is_work(&self, task: Task, inventory: &Inventory) -> bool {
        let (now, policy) = (self.clock.now(), self.store.policy());
        match task {
            Task::Validate => false,
            Task::Compact(level) => self.store.levels.interval(level).is_some_and(|interval| {
                matches!(choose(inventory, level, interval, now), Choice::Merge { .. } | Choice::Blocked { .. })
            }),
            Task::ExpireL0 => !expired_l0(inventory, now, &policy).is_empty(),
            Task::Snapshot => self.is_snapshot_due(inventory) || !expired_history(inventory, now, &policy).is_empty(),
        }
    }

    /// Merges until the level has all it is due.
    async fn compact_level(&self, level: Level) -> Result<()> {
        let Some(interval) = self.store.levels.interval(level) else { return Ok(()) };
        // Local copies that turned out to be unusable, and stored files that were
        // found damaged once: a second reading decides.
        let mut unusable = HashSet::new();
        let mut suspects = HashSet::new();
        let mut merged = false;
        let mut healings = 0;
        for _ in 0..MAX_MERGES {
            if healings > MAX_HEALINGS {
                let problem =
                    format!("compact level {level}: the replica is still not whole after {healings} attempts");
                return Err(Error::new(ErrorKind::Corrupt, problem));
            }
            let damaged = self.health.damaged();
            let inventory = self.prefix.inventory().await?.without(|file| damaged.contains(&file.id));
            let (inputs, into) = match choose(&inventory, level, interval, self.clock.now()) {
                Choice::Nothing | Choice::TooEarly { .. } => break,
                Choice::Merge { inputs, into } => {
                    if damaged.contains(&into) {
                        // It is made again from what is below it. A create-only write
                        // would take the damaged bytes for another writer's.
                        self.prefix.delete(&[into]).await?;
                        self.health.replaced(into);
                    }
                    (inputs, into)
                }
                Choice::Blocked { missing } => {
                    healings += 1;
                    self.heal(&format!("transactions {missing} are missing")).await?;
                    continue;
                }
            };
            let fault = match self.merge(&inputs, into, &unusable).await {
                Ok(info) => {
                    merged = true;
                    self.compacted(&inputs, &info).await;
                    continue;
                }
                Err(fault) => fault,
            };
            let text = fault.to_string();
            healings += 1;
            match fault {
                Fault::Input { source: Source::Local(path), problem: Problem::Missing | Problem::Corrupt, .. } => {
                    healings -= 1;
                    tracing::warn!(db = %self.path().display(), path = %path.display(), error = text, "local copy is not usable, reading the store");
                    unusable.insert(path);
                }
                Fault::Input { source: Source::Remote(info), problem: Problem::Missing, .. } => {
                    self.prefix.is_gone(info.id);
                    self.heal(&format!("file {} is missing", info.id)).await?;
                }
                Fault::Input { source: Source::Remote(info), problem: Problem::Corrupt, .. } => {
                    if suspects.insert(info.id) {
                        healings -= 1;
                    } else {
                        self.health.is_damaged(info.id);
                        self.heal(&format!("file {} is damaged", info.id)).await?;
                    }
                }
                Fault::Unfit(_) => {
                    inputs.iter().for_each(|file| self.health.is_damaged(file.id));
                    self.heal(&text).await?;
                }
                fault => return Err(fault.into()),
            }
        }
        if merged && level.get() == 1 {
            // The files it took in may be old enough already.
            return self.expire_l0().await;
        }
        Ok(())
    }

    async fn merge(
        &self,
        inputs: &[FileInfo],
        into: FileId,
        unusable: &HashSet<PathBuf>,
    ) -> std::result::Result<FileInfo, Fault> {
        let mut sources = Vec::with_capacity(inputs.len());
        for info in inputs {
            let local = self.local_copy(info).await.map_err(Fault::Other)?;
            sources.push(match local.filter(|path| !unusable.contains(path)) {
                Some(path) => Source::Local(path),
                None => Source::Remote(*info),
            });
        }
        let is_small = inputs.iter().map(|file| file.size).sum::<u64>() <= staged::MAX_INPUT_LEN;
        let has_next = Level::new(into.level.get() + 1).is_some_and(|next| self.store.levels.interval(next).is_some());
        let staging = (is_small && has_next).then(|| self.staged.path(into));
        let dir = if is_small { self.staged.level_dir(into.level) } else { self.staged.root().to_owned() };
        meta::own_dirs(self.path(), &dir).map_err(Fault::Other)?;
        let scratch = self.staged.root().to_owned();
        let client = self.prefix.clone() as std::sync::Arc<dyn ReplicaClient>;
        let info = compact(
            &client,
            Job {
                into,
                inputs: sources,
                staging: staging.clone(),
                scratch,
                disk: self.options.disk.clone(),
                fan_in: self.store.fan_in(),
            },
        )
        .await?;
        if let Some(copy) = staging
            && let Err(err) = std::fs::File::open(&copy).and_then(|file| meta::own_file(self.path(), &file))
        {
            tracing::debug!(path = %copy.display(), error = %err, "owner of a local copy not changed");
        }
        Ok(info)
    }

    async fn local_copy(&self, info: &FileInfo) -> Result<Option<PathBuf>> {
        let (id, size) = (info.id, info.size);
        if id.level != Level::L0 {
            return Ok(self.staged.find(info));
        }
        with(&self.capture, move |capture| {
            let path = capture.l0_path(id.max)?;
            Ok(std::fs::metadata(&path).is_ok_and(|file| file.len() == size).then_some(path))
        })
        .await
    }

    /// Bookkeeping after a compaction. What fails here costs disk space at most.
    async fn compacted(&self, inputs: &[FileInfo], info: &FileInfo) {
        tracing::info!(
            system = "store",
            db = self.name(),
            level = info.id.level.get(),
            txid.min = %info.id.min,
            txid.max = %info.id.max,
            size = info.size,
            "compaction complete"
        );
        self.update_status(|status, _| status.compactions += 1);
        let Some(inventory) = self.prefix.known() else { return };
        let trimmed = inputs
            .iter()
            .filter(|file| file.id.level != Level::L0)
            .try_for_each(|file| self.staged.remove(file.id))
            .and_then(|()| self.staged.trim(&inventory, staged::BUDGET));
        if let Err(err) = trimmed {
            tracing::warn!(db = %self.path().display(), error = %err, "cannot delete local copies of compacted files");
        }
        if self.store.verify_compaction {
            let problem =
                check_level(inventory.level(info.id.level)).into_iter().find(|problem| !problem.is_bridged(&inventory));
            if let Some(problem) = problem {
                self.update_status(|status, _| status.compaction_verify_errors += 1);
                tracing::warn!(
                    system = "store",
                    db = self.name(),
                    level = info.id.level.get(),
                    error = %problem,
                    "post-compaction verification failed"
                );
            }
        }
    }

    /// Deletes level-0 files that were merged and are old enough, in the replica
    /// and on local disk.
    async fn expire_l0(&self) -> Result<()> {
        let inventory = self.prefix.inventory().await?;
        let (now, policy) = (self.clock.now(), self.store.policy());
        let deletions = expired_l0(&inventory, now, &policy);
        self.delete(&deletions).await?;
        let max_l1 =
            Level::new(1).and_then(|level| inventory.level(level).last()).map_or(Txid::NONE, |file| file.id.max);
        let l0 = inventory.level(Level::L0);
        let (eligible, merged) = (deletions.len(), l0.iter().filter(|file| file.id.max <= max_l1).count());
        self.counters.looked_for_expired_l0(L0Expiry {
            eligible: eligible as u64,
            not_compacted: (l0.len() - merged) as u64,
            too_recent: merged.saturating_sub(eligible) as u64,
        });
        let local = self.prune(&inventory, !self.store.levels.is_empty()).await?;
        let deleted_count = deletions.len().max(local);
        if deleted_count > 0 {
            tracing::info!(system = "store", db = self.name(), deleted_count, max_l1_txid = %max_l1, "l0 retention enforced");
        }
        Ok(())
    }

    /// Deletes local level-0 files that nobody will want to send or merge again;
    /// `compacts` when this process merges them. Returns how many.
    pub(crate) async fn prune(&self, inventory: &Inventory, compacts: bool) -> Result<usize> {
        let Some(uploaded) = self.status().replica_txid else { return Ok(0) };
        let (now, policy) = (self.clock.now(), self.store.policy());
        let inventory = inventory.clone();
        let (removed, left) = with(&self.capture, move |capture| {
            let mut local = capture.l0_times()?;
            // The time of capture, where it is known; the file's own may be that of
            // a copy.
            for (txid, time) in &mut local {
                let l0 = inventory.level(Level::L0);
                if let Ok(at) = l0.binary_search_by_key(txid, |file| file.id.min)
                    && let Some(file) = l0.get(at)
                {
                    *time = file.created_at;
                }
            }
            let expired = expired_local(&inventory, &local, uploaded, compacts, now, &policy);
            capture.remove_l0(&expired)?;
            Ok((expired.len(), local.len() - expired.len()))
        })
        .await?;
        self.has_old_local_files.store(left > 1, std::sync::atomic::Ordering::Relaxed);
        Ok(removed)
    }

    /// Makes a snapshot if one is due, then deletes what lies before the window.
    async fn snapshot_and_expire(&self) -> Result<()> {
        let inventory = self.prefix.inventory().await?;
        if self.is_snapshot_due(&inventory) {
            self.store_snapshot().await?;
        }
        self.expire_history().await
    }

    fn is_snapshot_due(&self, inventory: &Inventory) -> bool {
        let situation = self.situation(inventory);
        snapshot_due(inventory, self.store.snapshot_interval, self.clock.now(), situation.position)
            && !is_only_anchor(&situation)
    }

    /// Stores the present state at level 9, even if it is there.
    pub(crate) async fn store_snapshot(&self) -> Result<Txid> {
        let known = self.status().txid;
        while !self.upload_batch().await? && self.status().replica_txid < known {}
        // Level 0 has every transaction the snapshot stands for before it is written.
        // Its write may time out and take effect whenever it likes then: nobody gives
        // that number to another state meanwhile, not even who has lost all local state.
        let mut uploader = self.uploader.lock().await;
        let seated = self.seat.take().await?;
        let frozen = freeze(&self.prefix, &self.capture, ImageKind::Snapshot).await?;
        uploader.reach(frozen.txid, &self.capture).await?;
        drop(uploader);
        let info = store_frozen(&self.prefix, &self.capture, ImageKind::Snapshot, Place::Snapshot, frozen).await?;
        drop(seated);
        tracing::info!(system = "store", db = self.name(), txid = %info.id.max, size = info.size, "snapshot complete");
        self.update_status(|status, now| status.snapshot_at = Some(now));
        Ok(info.id.max)
    }

    /// Deletes snapshots and what they cover, as far as no moment of the window
    /// needs them.
    pub(crate) async fn expire_history(&self) -> Result<()> {
        let inventory = self.prefix.inventory().await?;
        let deletions = expired_history(&inventory, self.clock.now(), &self.store.policy());
        self.delete(&deletions).await
    }

    /// Deletes everything that retention allows, once.
    pub(crate) async fn enforce_retention(&self) -> Result<()> {
        let _heavy = self.heavy.lock().await;
        let inventory = self.prefix.inventory().await?;
        let deletions = expired(&inventory, self.clock.now(), &self.store.policy());
        self.delete(&deletions).await.map_err(|err| self.named("enforce retention for", err))?;
        tracing::info!(db = %self.path().display(), deleted_count = deletions.len(), "retention enforced");
        Ok(())
    }

    /// Deletes in the order given; what was deleted before an error stays so.
    async fn delete(&self, deletions: &[Deletion]) -> Result<()> {
        for batch in deletions.chunks(DELETE_BATCH) {
            for Deletion { file, reason } in batch {
                tracing::debug!(
                    db = self.name(),
                    level = file.id.level.get(),
                    min_txid = %file.id.min,
                    max_txid = %file.id.max,
                    %reason,
                    "deleting ltx file"
                );
            }
            let ids: Vec<FileId> = batch.iter().map(|deletion| deletion.file.id).collect();
            self.prefix.delete(&ids).await?;
        }
        Ok(())
    }

    /// Lists the store and reports, per level, names that do not fit together.
    async fn validate(&self) -> Result<()> {
        let inventory = self.list_and_heal().await?;
        let configured = self.store.levels.iter().map(|(level, _)| level);
        for level in std::iter::once(Level::L0).chain(configured) {
            for problem in check_level(inventory.level(level)) {
                if problem.kind == ProblemKind::Gap && problem.is_bridged(&inventory) {
                    continue;
                }
                tracing::warn!(
                    system = "store",
                    db = self.name(),
                    level = level.get(),
                    r#type = problem.kind.name(),
                    message_ = %problem,
                    "validation error detected"
                );
            }
        }
        Ok(())
    }

    /// Lists the store, and reconciles when something is missing. Returns the
    /// listing, as it was before.
    async fn list_and_heal(&self) -> Result<Inventory> {
        // Read first: what is uploaded meanwhile is in the listing too.
        let uploaded = self.status().replica_txid;
        let inventory = self.prefix.list_all().await?;
        let Some(uploaded) = uploaded else { return Ok(inventory) };
        let newest = uploaded.max(inventory.newest_txid());
        let files = with(&self.capture, |capture| capture.l0_txids()).await?;
        if !healing::is_needed(&inventory, &self.health.damaged(), &files, newest) {
            self.update_status(|status, now| status.verified_at = Some(now));
            return Ok(inventory);
        }
        let what = match inventory.files() {
            [] => "the replica is empty".to_owned(),
            _ => match inventory.plan(Target::Latest) {
                Err(err) => err.to_string(),
                Ok(plan) if plan.txid() < uploaded => format!("transactions after {} are missing", plan.txid()),
                Ok(_) => "files are missing that the local state has".to_owned(),
            },
        };
        self.heal(&what).await?;
        Ok(inventory)
    }

    /// Puts right what was found to be wrong. Until that has succeeded it is
    /// visible in the status.
    async fn heal(&self, problem: &str) -> Result<()> {
        self.health.found(problem);
        self.reconcile().await
    }

    /// Brings replica and local state together again, and sends what is left.
    async fn reconcile(&self) -> Result<()> {
        let reconciled = self.uploader.lock().await.reconcile(&self.capture).await;
        reconciled?;
        while !self.upload_batch().await? {}
        Ok(())
    }

    fn log_failure(&self, task: Task, err: &Error) {
        if self.is_closed() {
            return;
        }
        let db = self.name();
        match task {
            Task::Compact(level) => {
                self.update_status(|status, _| status.compaction_errors += 1);
                tracing::error!(system = "store", db, level = level.get(), error = %err, "compaction failed");
            }
            Task::Snapshot => {
                tracing::error!(system = "store", db, level = Level::SNAPSHOT.get(), error = %err, "compaction failed");
            }
            Task::ExpireL0 => tracing::error!(system = "store", db, error = %err, "retention enforcement failed"),
            Task::Validate => tracing::error!(system = "store", db, error = %err, "validation check failed"),
        }
    }

    fn situation<'a>(&self, inventory: &'a Inventory) -> Situation<'a> {
        let position = self.status().replica_txid.unwrap_or(Txid::NONE);
        let has_old_local_files = self.has_old_local_files.load(std::sync::atomic::Ordering::Relaxed);
        Situation { inventory, position, page_len: self.page_len(), has_old_local_files }
    }

    fn is_listing_old(&self) -> bool {
        self.prefix.listed_at().is_none_or(|listed| self.clock.now() >= after(listed, RELIST_INTERVAL))
    }

    fn agenda(&self) -> std::sync::MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The file name, as upstream's store names databases in its log lines.
    pub(crate) fn name(&self) -> String {
        self.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Files one pass makes for one level: a backlog is worked off in portions.
const MAX_MERGES: usize = 64;
/// Attempts at healing in one pass.
const MAX_HEALINGS: u32 = 4;
/// What S3 takes in one request.
const DELETE_BATCH: usize = 1000;
/// How long the mirror is trusted while there is work to do.
const RELIST_INTERVAL: std::time::Duration = std::time::Duration::from_secs(60 * 60);
