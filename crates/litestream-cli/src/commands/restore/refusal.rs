//! What to say when the wanted moment cannot be had.
//!
//! The words that scripts know come first; below them stands what can be
//! restored instead.
//!
//! Spec: store-and-restore §11, §13.1.

use std::sync::Arc;

use litestream_replica::points::with_true_times;
use litestream_replica::{ErrorKind, Inventory, ReplicaClient, RestorePoint, Target};
use ltx::Txid;

use super::Job;
use crate::failure::{Failure, fail};
use crate::output::{self, without_credentials};

impl Job {
    /// Says so when a wanted time lies after everything the replica holds: then
    /// its newest state is what there is.
    ///
    /// Listing times do; true creation times may cost a request per file, and
    /// planning asks for them anyway.
    pub(super) async fn check_timestamp(&self) -> anyhow::Result<()> {
        let Target::Timestamp(wanted) = self.target else { return Ok(()) };
        match Inventory::load(&*self.client, false).await?.bounds() {
            None if self.is_by_url => fail("no backups found"),
            Some(bounds) if wanted > bounds.newest => {
                output::note(&format!(
                    "-timestamp is after the newest backup of {}; restoring that one",
                    bounds.newest
                ));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What to print instead of `error`.
    pub(super) async fn explain(&self, error: &litestream_replica::Error) -> anyhow::Error {
        explain(&self.client, error, self.target, self.is_by_url, &self.source_text).await
    }
}

/// The words of `error` that scripts know and, where what was wanted is out of
/// reach, what can be had instead. `source` is the positional argument.
pub(crate) async fn explain(
    client: &Arc<dyn ReplicaClient>,
    error: &litestream_replica::Error,
    target: Target,
    is_by_url: bool,
    source: &str,
) -> anyhow::Error {
    let explained = [ErrorKind::Unavailable, ErrorKind::Hole, ErrorKind::Corrupt, ErrorKind::NotFound];
    let listed = async { Inventory::load(&**client, client.lists_true_times()).await.ok() };
    // Only for the hints, so a listing that fails now changes nothing.
    let inventory = if explained.contains(&error.kind()) { listed.await } else { None };
    let bounds = inventory.as_ref().and_then(Inventory::bounds);
    let is_before_all = match (target, bounds) {
        (Target::Timestamp(moment), Some(bounds)) => error.kind() == ErrorKind::Unavailable && moment <= bounds.oldest,
        _ => false,
    };
    let failure =
        Failure::new(if is_before_all && is_by_url { TIMESTAMP_MISSING.to_owned() } else { error.to_string() });
    let Some(inventory) = inventory else { return failure.into() };
    let points = inventory.restore_points();
    let (Some(oldest), Some(newest)) = (points.first(), points.last()) else {
        return if inventory.files().is_empty() { empty(failure, source) } else { with_holes(failure, &inventory) }
            .into();
    };
    // The ends and the neighbours, with their true times where that costs little.
    let (before, after) = match target {
        Target::Txid(txid) => inventory.nearest(txid),
        Target::Latest | Target::Timestamp(_) => (None, None),
    };
    let shown: Vec<RestorePoint> = [Some(*oldest), Some(*newest), before, after].into_iter().flatten().collect();
    let exact = with_true_times(Arc::clone(client), &inventory, &shown).await.unwrap_or(shown);
    let exact = |point: RestorePoint| *exact.iter().find(|known| known.txid == point.txid).unwrap_or(&point);
    let (oldest, newest) = (exact(*oldest), exact(*newest));

    let failure = match (error.kind(), target) {
        (ErrorKind::Unavailable, Target::Timestamp(_)) => {
            let failure =
                if is_before_all && !is_by_url { failure.hint(format!("The {TIMESTAMP_MISSING}.")) } else { failure };
            failure.hint(format!(
                "The replica covers {} to {}.",
                output::timestamp_millis(oldest.created_at),
                output::timestamp_millis(newest.created_at)
            ))
        }
        (ErrorKind::Unavailable, Target::Txid(txid)) => {
            let failure = match why_not(&inventory, txid, oldest, newest) {
                Some(reason) => failure.hint(reason),
                None => failure,
            };
            let sides = [("before", before), ("after", after)];
            sides.into_iter().fold(failure, |failure, (side, point)| match point {
                Some(point) => failure.hint(format!("Nearest {side} it: {}", exact(point))),
                None => failure,
            })
        }
        (ErrorKind::Hole, _) => with_holes(failure, &inventory),
        _ => failure,
    };
    failure.hint(format!("All restorable points: litestream points {}", without_credentials(source))).into()
}

/// A place without a single file is more often a wrong address than a lost backup.
fn empty(failure: Failure, source: &str) -> Failure {
    let source = without_credentials(source);
    failure.hint(format!("There is no backup at all at {source}; is the address right?"))
}

/// For a replica that has files, and none of them starts a history.
pub(crate) fn nothing_restorable(inventory: &Inventory) -> Failure {
    with_holes(Failure::new(litestream_replica::plan::NOT_AVAILABLE), inventory)
}

/// Why a transaction between others cannot be restored.
fn why_not(inventory: &Inventory, txid: Txid, oldest: RestorePoint, newest: RestorePoint) -> Option<String> {
    let last = inventory.bounds()?.last_txid;
    if txid > last {
        return Some(format!("The replica ends at transaction {last}."));
    }
    if txid < oldest.txid {
        return Some(format!("Transaction {txid} is older than the oldest restorable point, {oldest}."));
    }
    if txid > newest.txid {
        return None;
    }
    let step = inventory.step_around(txid)?;
    Some(format!("Transaction {txid} lies inside {step}, which holds its transactions as one step."))
}

/// Names each hole that no snapshot bridges, and where history ends before it.
fn with_holes(failure: Failure, inventory: &Inventory) -> Failure {
    inventory.holes().iter().filter(|hole| !hole.is_covered()).fold(failure, |failure, hole| {
        let failure = failure
            .hint(format!("Transactions {} to {} are missing, and no snapshot bridges them.", hole.first, hole.last));
        match hole.before {
            Some(point) => failure.hint(format!("Before them, -txid {} restores {point}.", point.txid)),
            None => failure.hint("Nothing before them can be restored."),
        }
    })
}

/// Upstream's words for a time that a replica named by URL does not cover.
const TIMESTAMP_MISSING: &str = "timestamp does not exist";
