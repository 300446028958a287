//! What a whole process does: requests to replicas, and work that has to queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use litestream_replica::ReplicaClient;
use litestream_replica::metered::{Metered, Operations};

/// How much of something that is limited for the whole process is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueUse {
    /// What is done there: `capture` or `upload`.
    pub name: &'static str,
    /// How many may run at once; the rest wait in order of arrival.
    pub limit: usize,
    /// How many run now.
    pub running: usize,
}

/// Counts of requests, by type of replica. They outlive the databases, so that
/// they never go back.
#[derive(Default)]
pub(crate) struct Traffic {
    by_kind: Mutex<BTreeMap<&'static str, Arc<Operations>>>,
}

impl Traffic {
    /// The same client, counted from now on.
    pub(crate) fn meter(&self, client: Arc<dyn ReplicaClient>) -> Arc<dyn ReplicaClient> {
        let mut by_kind = self.by_kind.lock().unwrap_or_else(PoisonError::into_inner);
        let operations = by_kind.entry(client.kind()).or_default().clone();
        Arc::new(Metered::sharing(client, operations))
    }

    pub(crate) fn operations(&self) -> Vec<(&'static str, Arc<Operations>)> {
        let by_kind = self.by_kind.lock().unwrap_or_else(PoisonError::into_inner);
        by_kind.iter().map(|(kind, operations)| (*kind, operations.clone())).collect()
    }
}
