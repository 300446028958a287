//! What must be true, and the restores that show whether it is.
//!
//! - A restored transaction is a state the database was in, between the moments at
//!   which it can have been captured, and always the same one.
//! - What was acknowledged stays restorable: the newest state never goes back.
//! - Every moment of the retention window has a state that is not younger than it.
//! - The process claims nothing that the store does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use litestream_replica::clock::Clock;
use litestream_replica::restore::{NoProgress, RestoreOptions, restore};
use litestream_replica::{FileId, Inventory, Level, Target};
use ltx::Txid;
use tokio::runtime::{Builder, Runtime};

use crate::chance::digest;
use crate::cloud::{Cloud, CloudClient};
use crate::world::World;

/// See the module's description.
pub(crate) struct Oracle {
    world: Arc<World>,
    cloud: Arc<Cloud>,
    output: PathBuf,
    runtime: Runtime,
    /// Between which states each transaction was captured; more than one answer where
    /// a transaction was lost with its local file and its number used again.
    captured: BTreeMap<Txid, Vec<Span>>,
    /// When each was last said to be captured.
    told_at: BTreeMap<Txid, Timestamp>,
    /// What the present process said it had captured.
    newest: Option<Txid>,
    /// What the store had when it had said nothing yet: everything above may be numbered
    /// anew.
    base: Txid,
    /// The files that the store has held.
    seen: BTreeSet<FileId>,
    /// The state each transaction was restored to.
    restored: BTreeMap<Txid, u64>,
    /// The newest transaction that the process said the replica had.
    acknowledged: Txid,
    /// When a process first said that the replica had anything.
    begun_at: Option<Timestamp>,
    /// Restores compared.
    pub(crate) compared: u64,
    /// Restores that a faulty store made fail.
    pub(crate) failed: u64,
}

/// States by their place in the application's history, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first: usize,
    last: usize,
}

impl Oracle {
    pub(crate) fn new(world: Arc<World>, cloud: Arc<Cloud>, dir: &Path) -> Result<Self> {
        Ok(Self {
            world,
            cloud,
            output: dir.join("restored.db"),
            runtime: Builder::new_current_thread().enable_all().start_paused(true).build()?,
            captured: BTreeMap::new(),
            told_at: BTreeMap::new(),
            newest: None,
            base: Txid::NONE,
            seen: BTreeSet::new(),
            restored: BTreeMap::new(),
            acknowledged: Txid::NONE,
            begun_at: None,
            compared: 0,
            failed: 0,
        })
    }

    /// Another process looks after the database.
    pub(crate) fn process_began(&mut self) {
        self.newest = None;
        self.base = self.cloud.inventory().newest_txid();
    }

    /// A process says what it has captured. With `proof`, everything up to that state is
    /// said to be in it.
    pub(crate) fn says_captured(&mut self, txid: Option<Txid>, proof: Option<usize>) {
        let Some(txid) = txid else {
            if self.newest.take().is_some() {
                self.base = self.cloud.inventory().newest_txid();
            }
            return;
        };
        let last = self.world.application().state_count().saturating_sub(1);
        let from = match self.newest {
            Some(newest) if newest <= txid => newest.next(),
            _ => txid.min(self.base.next()),
        };
        for number in from.get()..=txid.get() {
            let this = Txid::new(number);
            let first = self.first_before(this);
            self.captured.entry(this).or_default().push(Span { first, last });
            self.told_at.insert(this, self.world.clock.now());
        }
        if let Some(proof) = proof
            && let Some(span) = self.captured.get_mut(&txid).and_then(|spans| spans.last_mut())
        {
            span.first = span.first.max(proof);
        }
        self.newest = Some(txid);
    }

    /// The earliest state that a transaction can be, knowing those before it.
    fn first_before(&self, txid: Txid) -> usize {
        let before = self.captured.range(..txid).next_back();
        before.and_then(|(_, spans)| spans.iter().map(|span| span.first).min()).unwrap_or(0)
    }

    /// A process says what the replica has.
    pub(crate) fn says_stored(&mut self, txid: Option<Txid>) {
        self.acknowledged = self.acknowledged.max(txid.unwrap_or(Txid::NONE));
    }

    /// Looks at what the store holds, and checks what can be told from names and times.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn inspect(&mut self) -> Result<()> {
        let inventory = self.cloud.inventory();
        let last = self.world.application().state_count().saturating_sub(1);
        for file in inventory.files() {
            if !self.seen.insert(file.id) {
                continue;
            }
            // Sent before the process said a word of it, with a number that may have been
            // another's whose local file was lost before it was sent.
            let is_told = self.newest.is_some_and(|newest| newest >= file.id.max);
            let is_later = file.id.level == Level::L0
                && self.told_at.get(&file.id.max).is_some_and(|told_at| file.created_at > *told_at);
            if !is_told || is_later || !self.captured.contains_key(&file.id.max) {
                let first = self.first_before(file.id.max);
                self.captured.entry(file.id.max).or_default().push(Span { first, last });
            }
        }
        if self.acknowledged.is_none() {
            return Ok(());
        }
        let plan = inventory.plan(Target::Latest).map_err(|err| self.shown(&inventory, &format!("{err}")))?;
        if plan.txid() < self.acknowledged {
            let acknowledged = self.acknowledged;
            return Err(self.shown(
                &inventory,
                &format!("transaction {acknowledged} was acknowledged, but only {} can be restored", plan.txid()),
            ));
        }
        let now = self.world.clock.now();
        self.begun_at.get_or_insert(now);
        let window = now - SignedDuration::try_from(self.world.profile.snapshot_retention)?;
        // A listing that is behind is outside of what a store promises: it may cost the
        // window, but neither the newest state nor its truth.
        if self.world.profile.stale == 0
            && self.begun_at.is_some_and(|begun| begun < window)
            && let Err(err) = inventory.plan(Target::Timestamp(window))
        {
            return Err(self.shown(&inventory, &format!("the window's start, {window}, cannot be restored: {err}")));
        }
        Ok(())
    }

    fn shown(&self, inventory: &Inventory, what: &str) -> anyhow::Error {
        let files: Vec<String> =
            inventory.files().iter().map(|file| format!("{} of {}", file.id, file.created_at)).collect();
        anyhow::anyhow!("{what}; the store holds\n  {}", files.join("\n  "))
    }

    /// Restores the newest state. With `at_least`, it is not older than that.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn compare_newest(&mut self, at_least: Option<usize>) -> Result<()> {
        let (txid, state) = self.restore(Target::Latest, false)?.context("a faithful store")?;
        if let Some(first) = at_least {
            let application = self.world.application();
            let last = application.state_count().saturating_sub(1);
            ensure!(
                application.was_in(state, first, last),
                "a sync returned {txid}, which is state {:?} of the database; it was in state {first} when the sync began and is in {last}",
                application.times_of(state)
            );
        }
        Ok(())
    }

    /// Restores one of the points that the store offers, by transaction or by moment.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn compare_some(&mut self, choice: u64, is_faulty: bool) -> Result<()> {
        let points = self.cloud.inventory().restore_points();
        let Some(point) = points.get(usize::try_from(choice % points.len().max(1) as u64)?) else { return Ok(()) };
        let by_time = (choice >> 32).is_multiple_of(3);
        let target = if by_time {
            Target::Timestamp(point.created_at + SignedDuration::from_millis(1))
        } else {
            Target::Txid(point.txid)
        };
        let Some((txid, _)) = self.restore(target, is_faulty)? else { return Ok(()) };
        ensure!(by_time || txid == point.txid, "{} was wanted and {txid} restored", point.txid);
        let is_behind = is_faulty && self.world.profile.stale > 0;
        ensure!(!by_time || txid >= point.txid || is_behind, "{}, of {}, gives {txid}", point.txid, point.created_at);
        Ok(())
    }

    /// Restores every point that the store offers.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn compare_all(&mut self, most: usize) -> Result<()> {
        let points = self.cloud.inventory().restore_points();
        let step = points.len() / most.max(1) + 1;
        for point in points.iter().step_by(step) {
            self.restore(Target::Txid(point.txid), false)?;
        }
        Ok(())
    }

    /// Restores, and checks the result. `None` when a faulty store was in the way.
    fn restore(&mut self, target: Target, is_faulty: bool) -> Result<Option<(Txid, u64)>> {
        let client =
            if is_faulty { CloudClient::mortal(self.cloud.clone()) } else { CloudClient::faithful(self.cloud.clone()) };
        let options = RestoreOptions { target, ..RestoreOptions::new(&self.output) };
        let restored = self.runtime.block_on(restore(Arc::new(client), options, Arc::new(NoProgress)));
        let restored = match restored {
            Ok(restored) => restored,
            Err(_) if is_faulty => {
                self.failed += 1;
                ensure!(!self.output.exists(), "a failed restore left {}", self.output.display());
                return Ok(None);
            }
            Err(err) => return Err(self.shown(&self.cloud.inventory(), &format!("restore {target:?}: {err}"))),
        };
        let bytes = std::fs::read(&self.output)?;
        std::fs::remove_file(&self.output)?;
        let (txid, state) = (restored.txid, digest(&*bytes));
        self.compared += 1;
        self.world.event(("restored", txid.get(), state));
        let application = self.world.application();
        let spans = self.captured.get(&txid).cloned().unwrap_or_default();
        if !spans.iter().any(|span| application.was_in(state, span.first, span.last)) {
            let known = application.times_of(state);
            let all = application.state_count();
            let how = application.explain(&bytes);
            drop(application);
            return Err(self.shown(
                &self.cloud.inventory(),
                &format!(
                    "{txid} was restored ({target:?}) to state {known:?} of {all}; it was captured in {spans:?}{how}"
                ),
            ));
        }
        match self.restored.insert(txid, state) {
            Some(before) if before != state => {
                bail!("{txid} was restored to another state than before: {:?}", application.times_of(state))
            }
            _ => Ok(Some((txid, state))),
        }
    }
}
