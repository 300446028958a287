//! Which of two formats to restore from, where a replica holds both.
//!
//! After an upgrade in place the old backup ends where the LTX files begin, so the
//! answer is mostly a matter of time. The side with the newest state that is
//! wanted must restore or fail: falling back to the other would return an older
//! database as if it were the one asked for.
//!
//! Spec: store-and-restore §15.3.

use jiff::Timestamp;

use super::inventory::V3Inventory;
use crate::{ErrorKind, Inventory, ReplicaClient, Result, Target};

/// A format of backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The files of 0.5.
    Ltx,
    /// The generations of 0.3.
    V3,
}

/// The 0.3 backup, where that is what `target` means.
///
/// One listing where there is none, which is almost always; LTX files are looked
/// at only beside one.
///
/// # Errors
/// When a listing fails: what could not be seen might be the newer backup.
pub async fn find(client: &dyn ReplicaClient, target: Target) -> Result<Option<V3Inventory>> {
    if matches!(target, Target::Txid(_)) {
        return Ok(None);
    }
    let v3 = V3Inventory::load(client).await?;
    if v3.is_empty() {
        return Ok(None);
    }
    let ltx = Inventory::load(client, target.needs_times()).await?;
    let format = choose(&ltx, &v3, target);
    tracing::debug!(?format, v3_newest = ?v3.newest(), ltx_newest = ?ltx.bounds().map(|b| b.newest), "both formats looked at");
    Ok((format == Format::V3).then_some(v3))
}

/// Decides which format holds the state that `target` means.
///
/// - A TXID is a matter of LTX files alone.
/// - Where one side is empty, it is the other; where both are, LTX.
/// - Latest: 0.3 only if its newest object is strictly newer than every LTX file.
/// - A time: the side whose state is the newest up to it. What counts for LTX is
///   the state that can really be restored, whatever level its base lies at; where
///   LTX files lead to no state at all that early, it is 0.3. Where neither does,
///   it is the side that begins earlier, which can say so best.
///
/// `ltx` must carry true creation times when `target` is a time.
pub fn choose(ltx: &Inventory, v3: &V3Inventory, target: Target) -> Format {
    let (Some(v3_newest), Some(ltx_bounds)) = (v3.newest(), ltx.bounds()) else {
        return if v3.is_empty() || matches!(target, Target::Txid(_)) { Format::Ltx } else { Format::V3 };
    };
    let v3_is_newer = match target {
        Target::Txid(_) => false,
        Target::Latest => v3_newest > ltx_bounds.newest,
        Target::Timestamp(moment) => match (v3.reached(moment), ltx_state(ltx, moment)) {
            // A gap on the way changes nothing: it is the state that is wanted.
            (Some(v3), Some(ltx)) => v3 > ltx,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => v3.bounds().is_some_and(|(oldest, _)| oldest < ltx_bounds.oldest),
        },
    };
    if v3_is_newer { Format::V3 } else { Format::Ltx }
}

/// When the state that LTX files give for a moment was captured.
fn ltx_state(ltx: &Inventory, moment: Timestamp) -> Option<Timestamp> {
    match ltx.plan(Target::Timestamp(moment)) {
        Ok(plan) => Some(plan.timestamp()),
        Err(error) if error.kind() == ErrorKind::Unavailable => None,
        // Files of the wanted history are there and do not fit together.
        Err(_) => ltx.files().iter().map(|file| file.created_at).filter(|time| *time < moment).max(),
    }
}

#[cfg(test)]
mod tests;
