//! Rebuilds a database from a 0.3 backup.
//!
//! Fetching runs ahead of decompressing; the local side, from the temporary file
//! to the one rename, is that of every restore.

use std::sync::Arc;

use ltx::Txid;
use tokio::sync::mpsc;

use super::build::{self, Built, Fault, Site};
use super::choice::find;
use super::feed::{self, Objects};
use super::inventory::{APPLYING, V3Inventory, V3Plan, with_earlier};
use crate::restore::fetch::Fetcher;
use crate::restore::output::{TempFile, check_output};
use crate::restore::{DEFAULT_PARALLELISM, Progress, RestoreOptions, Restored, conclude, task_failed};
use crate::{Error, ErrorKind, ReplicaClient, Result, Target};

/// Restores from whichever format holds the options' target.
///
/// # Errors
/// As [`restore`](crate::restore()), [`find`] and [`restore`].
pub async fn restore_any_format(
    client: Arc<dyn ReplicaClient>,
    options: RestoreOptions,
    progress: Arc<dyn Progress>,
) -> Result<Restored> {
    match find(&*client, options.target).await? {
        Some(inventory) => restore(client, &inventory, options, progress).await,
        None => crate::restore(client, options, progress).await,
    }
}

/// Restores the state that [`V3Inventory::plan`] gives for the options' target.
///
/// As for LTX files, the output is untouched until the new database is complete,
/// checked and on the disk, and nothing stays behind after an error. The result
/// has no TXID. Objects of a damaged backup are never left out silently: where an
/// earlier state is complete, the error names its time.
///
/// # Errors
/// Those of [`restore`](crate::restore()) and of [`V3Inventory::plan`];
/// [`Hole`](ErrorKind::Hole) when a segment within a log is missing;
/// [`Corrupt`](ErrorKind::Corrupt), naming the object, when one cannot be
/// decompressed or holds what SQLite did not write.
///
/// Spec: store-and-restore §15.2.
pub async fn restore(
    client: Arc<dyn ReplicaClient>,
    inventory: &V3Inventory,
    options: RestoreOptions,
    progress: Arc<dyn Progress>,
) -> Result<Restored> {
    let cancel = options.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "restore cancelled")),
        restored = run(client, inventory, options, progress) => restored,
    }
}

async fn run(
    client: Arc<dyn ReplicaClient>,
    inventory: &V3Inventory,
    options: RestoreOptions,
    progress: Arc<dyn Progress>,
) -> Result<Restored> {
    // Old backups keep no journal; they are restored in one go.
    let RestoreOptions { output, target, parallelism, policy, attributes, verify, cancel, resume_from_bytes: _ } =
        options;
    check_output(&output, policy)?;
    let parallelism = if parallelism == 0 { DEFAULT_PARALLELISM } else { parallelism };
    let plan = inventory.plan(target)?;
    warn_of_other_generations(inventory, &plan, target);
    let fetcher = Arc::new(Fetcher::new(client, parallelism));
    let temp = TempFile::create(&output, false)?.with_attributes(attributes)?;
    progress.planned(plan.object_count(), plan.total_bytes());

    let (sender, receiver) = mpsc::channel(1);
    let site = Site { file: temp.file(), path: temp.path().to_owned() };
    let build = {
        let plan = plan.clone();
        tokio::task::spawn_blocking(move || build::build(&plan, Objects::new(receiver), &site))
    };
    // On failure the sender goes with the feed, and the build stops.
    let feed = feed::run(Arc::clone(&fetcher), &plan, parallelism, sender, &*progress);
    let (fed, built) = tokio::join!(feed, build);
    let built = built.map_err(task_failed)?;
    let Built { page_size, commit, output_len } = match (built, fed) {
        (Err(Fault::Object(number, error)), _) => return Err(describe(inventory, &plan, target, number, error)),
        (Err(Fault::Other(error)), _) => return Err(error),
        (_, Err((number, error))) => return Err(describe(inventory, &plan, target, number, error)),
        (Err(Fault::Abandoned), Ok(())) => return Err(Error::new(ErrorKind::Cancelled, "restore cancelled")),
        (Ok(built), Ok(())) => built,
    };
    progress.finishing();
    conclude(temp, verify, policy, &cancel).await?;
    Ok(Restored {
        txid: Txid::NONE,
        timestamp: plan.timestamp(),
        commit,
        page_size,
        file_count: plan.object_count(),
        bytes_fetched: fetcher.fetched(),
        output_len,
    })
}

/// Names the object and what can be had without it.
fn describe(inventory: &V3Inventory, plan: &V3Plan, target: Target, number: usize, error: Error) -> Error {
    let (kind, until) = (error.kind(), plan.timestamp());
    let segment = number.checked_sub(1).and_then(|number| plan.segments.get(number));
    let is_damage = matches!(kind, ErrorKind::Corrupt | ErrorKind::Hole | ErrorKind::NotFound);
    match segment {
        Some(segment) => {
            let error = match kind {
                // Upstream's text stands alone: the object named is not at fault.
                ErrorKind::Hole => error.context(APPLYING),
                _ => error.context(format!("{APPLYING}: {}", segment.object.key)),
            };
            if is_damage { with_earlier(error, inventory.earlier(until, segment)) } else { error }
        }
        None => {
            let key = &plan.snapshot.object.key;
            let error = error.context(format!("download snapshot: {key}"));
            let others = inventory.without(|object| object.key == *key);
            match others.plan(target) {
                Ok(other) if is_damage => {
                    let (base, time) = (&other.snapshot.object.key, other.timestamp());
                    Error::new(kind, format!("{error}. With that object moved away, {base} leads to {time}"))
                }
                _ => error,
            }
        }
    }
}

/// Two machines that wrote to one replica leave generations side by side. The
/// newest snapshot decides; who expects the other must hear of it.
fn warn_of_other_generations(inventory: &V3Inventory, plan: &V3Plan, target: Target) {
    let reached = plan.timestamp();
    let is_wanted = |time: &jiff::Timestamp| match target {
        Target::Timestamp(until) => *time <= until,
        _ => true,
    };
    let newest = inventory.segments().iter().filter(|segment| segment.generation != plan.snapshot.generation);
    let newest = newest.max_by_key(|segment| segment.object.modified).filter(|s| is_wanted(&s.object.modified));
    if let Some(other) = newest.filter(|segment| segment.object.modified > reached) {
        tracing::warn!(
            generation = %plan.snapshot.generation, time = %reached,
            other = %other.generation, other_time = %other.object.modified,
            "another generation has newer data; the one with the newest snapshot is restored"
        );
    }
}
