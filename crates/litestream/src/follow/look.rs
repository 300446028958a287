//! What is new in the replica.
//!
//! An idle follower asks for one listing a look: level 0 from its own position
//! on. The file at the position is part of it and proves that the history is the
//! one the copy was made from; all ten levels are listed at the start, and when
//! level 0 does not continue the position.
//!
//! Spec: store-and-restore §14.4 points 1, 2, 7 and 8.

use jiff::SignedDuration;
use litestream_replica::plan::Continuation;
use litestream_replica::{FileInfo, Inventory, Level};

use super::trouble::Trouble;
use super::{Copy, Fault, Follower, blocking, not_open};
use crate::error::{Error, ErrorKind};

/// What a look found.
pub(super) enum Found {
    /// The copy is at the newest state.
    Nothing,
    /// Files that continue it.
    Files(Vec<FileInfo>),
    /// It cannot be continued, for this reason, and may be made anew.
    Rebuild(String),
}

/// The files to apply, if a plan has some.
pub(super) fn files_of(plan: Continuation) -> Option<Vec<FileInfo>> {
    match plan {
        Continuation::Increments(files) | Continuation::Snapshot(files) => Some(files),
        _ => None,
    }
}

impl Follower {
    /// Looks once, as cheaply as the situation allows.
    pub(super) async fn look(&mut self) -> Result<Found, Trouble> {
        if !self.is_settled {
            return self.look_everywhere().await;
        }
        let position = self.position;
        let listed = tokio::select! {
            biased;
            () = self.options.cancel.cancelled() => {
                return Err(Error::new(ErrorKind::Cancelled, "follow cancelled").into());
            }
            listed = self.client.list(Level::L0, position, false) => listed?,
        };
        let anchor = listed.iter().find(|file| file.id.max == position).copied();
        let newer: Vec<FileInfo> = listed.into_iter().filter(|file| file.id.max > position).collect();
        if let (Some(known), Some(found)) = (self.anchor, anchor)
            && known != found
        {
            // Perhaps only touched. Its content decides.
            self.is_proven = false;
            return self.look_everywhere().await;
        }
        self.anchor = anchor.or(self.anchor);
        if newer.is_empty() && anchor.is_some() {
            return Ok(Found::Nothing);
        }
        let newer_is_empty = newer.is_empty();
        if !newer_is_empty
            && newer.len() <= LEVEL_0_FILES
            && let Continuation::Increments(files) = Inventory::new(newer).plan_from(position)
        {
            return Ok(Found::Files(files));
        }
        let is_known = self
            .all_levels_at
            .is_some_and(|at| self.clock.now().duration_since(at) < SignedDuration::from_secs(ALL_LEVELS_SECONDS));
        if newer_is_empty && is_known { Ok(Found::Nothing) } else { self.look_everywhere().await }
    }

    /// Lists all levels, and once more before anything bad is said of them: a
    /// writer may compact and expire between two listings.
    async fn look_everywhere(&mut self) -> Result<Found, Trouble> {
        let mut inventory = self.inventory().await?;
        let mut plan = inventory.plan_from(self.position);
        if !matches!(plan, Continuation::UpToDate | Continuation::Increments(_)) {
            inventory = self.inventory().await?;
            plan = inventory.plan_from(self.position);
        }
        if !self.is_proven && !matches!(plan, Continuation::Empty | Continuation::Behind { .. }) {
            if !self.is_of_this_history(&inventory).await? {
                let problem = format!(
                    "the copy is not what the replica has at TXID {}: the replica was made anew, or somebody has \
                     written to the copy",
                    self.position
                );
                return self.refuse(&problem);
            }
            self.is_proven = true;
        }
        let is_first = self.is_resuming;
        match plan {
            Continuation::UpToDate if self.farthest > self.position => self.refuse(&format!(
                "the copy may stand at TXID {}, but the newest backup is {}",
                self.farthest, self.position
            )),
            Continuation::Increments(files) | Continuation::Snapshot(files) if !self.is_far_enough(&files) => self
                .refuse(&format!(
                    "the copy may stand at TXID {}, but no chain of files leads from {} to it",
                    self.farthest, self.position
                )),
            Continuation::UpToDate => {
                self.is_settled = true;
                self.is_suspicious = false;
                self.anchor = inventory.level(Level::L0).iter().find(|file| file.id.max == self.position).copied();
                self.all_levels_at = self.anchor.is_none().then(|| self.clock.now());
                Ok(Found::Nothing)
            }
            Continuation::Increments(files) => Ok(Found::Files(files)),
            Continuation::Snapshot(files) if is_first || self.is_suspicious => {
                tracing::warn!(
                    txid = %self.position,
                    snapshot = %files.first().map_or(self.position, |file| file.id.max),
                    "follow: increments are missing, bridging with a snapshot"
                );
                Ok(Found::Files(files))
            }
            Continuation::Snapshot(_) => {
                self.is_suspicious = true;
                Ok(Found::Nothing)
            }
            Continuation::Hole { next } => {
                let problem = format!(
                    "transactions {} to {} are missing from the replica; a new snapshot of the source mends it",
                    self.position.next(),
                    next.previous()
                );
                let error = Error::new(ErrorKind::Corrupt, problem);
                Err(if is_first {
                    Trouble::fatal(self.cannot_resume(&error.to_string()))
                } else {
                    Trouble::stuck(error)
                })
            }
            // A directory that is not mounted looks like this.
            Continuation::Empty if !is_first => {
                Err(Trouble::passing(Error::new(ErrorKind::Replica, "the replica is empty")))
            }
            Continuation::Empty => Err(Trouble::fatal(self.cannot_resume("the replica is empty"))),
            Continuation::Behind { newest } => {
                self.refuse(&format!("saved TXID {} is ahead of the newest backup (max TXID {newest})", self.position))
            }
        }
    }

    /// The end, unless the copy may be made anew.
    fn refuse(&self, problem: &str) -> Result<Found, Trouble> {
        if self.options.may_rebuild {
            return Ok(Found::Rebuild(problem.to_owned()));
        }
        let output = self.options.output.display();
        let advice = format!("{problem}; delete {output} and {output}-txid to re-restore");
        Err(Trouble::fatal(self.cannot_resume(&advice)))
    }

    fn cannot_resume(&self, problem: &str) -> Error {
        let verb = if self.is_resuming { "resume" } else { "continue" };
        Error::new(ErrorKind::Setup, format!("cannot {verb} follow mode: {problem}"))
    }

    /// Compares the copy with the smallest file that ends at its position. True
    /// also when there is none of bearable size: nothing speaks against it.
    async fn is_of_this_history(&mut self, inventory: &Inventory) -> Result<bool, Trouble> {
        let ends_here = |file: &&FileInfo| file.id.max == self.position && file.size <= PROOF_LEN;
        let Some(file) = inventory.files().iter().filter(ends_here).min_by_key(|file| file.size).copied() else {
            return Ok(true);
        };
        let (pages, header) = match self.fetcher().file(&file, None, None).await {
            Ok(fetched) => fetched,
            Err(Fault::Other(error)) => return Err(error.into()),
            Err(Fault::PageSize(_)) => return Ok(true),
            Err(Fault::File(_, error)) => {
                tracing::warn!(%error, "follow: cannot compare the copy with the replica");
                return Ok(true);
            }
        };
        let Some(copy) = self.copy.take() else { return Err(Trouble::passing(not_open())) };
        let (copy, is_same): (Copy, _) = blocking(move || {
            let is_same = copy.matches(&pages, header.commit);
            (copy, is_same)
        })
        .await?;
        self.copy = Some(copy);
        Ok(is_same?)
    }
}

/// More new files than this at level 0, and higher levels are worth a look.
const LEVEL_0_FILES: usize = 64;

/// How long "nothing new at any level" is believed while level 0 is empty.
const ALL_LEVELS_SECONDS: i64 = 15;

/// What is fetched at most to compare the copy with the replica.
const PROOF_LEN: u64 = 32 << 20;
