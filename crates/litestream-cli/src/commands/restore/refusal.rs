//! What to say when the wanted moment cannot be had.
//!
//! The words that scripts know come first; below them stands what can be
//! restored instead.
//!
//! Spec: store-and-restore §11, §13.1.

use litestream_replica::{ErrorKind, Inventory, Target};

use super::Job;
use crate::failure::{Failure, fail};
use crate::output;

impl Job {
    /// Says so when a wanted time lies after everything the replica holds: then
    /// its newest state is what there is.
    ///
    /// Listing times do; true creation times may cost a request per file, and
    /// planning asks for them anyway.
    pub(super) async fn check_timestamp(&self) -> anyhow::Result<()> {
        let Target::Timestamp(wanted) = self.target else { return Ok(()) };
        match Inventory::load(&*self.client, false).await?.bounds() {
            None if self.is_by_url() => fail("no backups found"),
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

    /// The known words first; where what was wanted is out of reach, what can be
    /// had below.
    pub(super) fn explain(&self, error: &litestream_replica::Error, inventory: Option<&Inventory>) -> anyhow::Error {
        let failure = Failure::new(error.to_string());
        let Some(inventory) = inventory.filter(|_| error.kind() == ErrorKind::Unavailable) else {
            return failure.into();
        };
        let failure = match self.target {
            Target::Latest => failure,
            Target::Txid(txid) => {
                let (before, after) = inventory.nearest(txid);
                let hints = [("before", before), ("after", after)];
                hints.into_iter().fold(failure, |failure, (side, point)| match point {
                    Some(point) => failure.hint(format!("Nearest {side} it: {point}")),
                    None => failure,
                })
            }
            Target::Timestamp(_) => {
                let failure = if self.is_by_url() { Failure::new("timestamp does not exist") } else { failure };
                match inventory.bounds() {
                    Some(bounds) => failure.hint(format!("The replica covers {} to {}.", bounds.oldest, bounds.newest)),
                    None => failure,
                }
            }
        };
        failure.into()
    }
}
