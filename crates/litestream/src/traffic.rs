//! What a whole process does: requests to replicas, and work that has to queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use litestream_replica::ReplicaClient;
use litestream_replica::metered::{Metered, Operations};

use crate::agenda::Lane;

/// How much of something that is limited for the whole process is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueUse {
    /// What is done there: `capture`, `upload`, `levels` or `snapshots`.
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

/// Maintenance jobs that run, by lane.
#[derive(Debug, Default)]
pub(crate) struct LanesInUse {
    running: [AtomicUsize; 2],
}

/// A place in a lane, given back when it is dropped.
pub(crate) struct Place {
    lanes: Arc<LanesInUse>,
    lane: Lane,
}

impl LanesInUse {
    pub(crate) fn take(self: &Arc<Self>, lane: Lane) -> Place {
        self.of(lane).fetch_add(1, Ordering::Relaxed);
        Place { lanes: self.clone(), lane }
    }

    pub(crate) fn queues(&self) -> [QueueUse; 2] {
        Lane::BOTH.map(|lane| QueueUse {
            name: match lane {
                Lane::Levels => "levels",
                Lane::Snapshots => "snapshots",
            },
            limit: lane.room(),
            running: self.of(lane).load(Ordering::Relaxed),
        })
    }

    fn of(&self, lane: Lane) -> &AtomicUsize {
        let [levels, snapshots] = &self.running;
        match lane {
            Lane::Levels => levels,
            Lane::Snapshots => snapshots,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lanes.of(self.lane).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back() {
        let lanes = Arc::new(LanesInUse::default());
        let running = || lanes.queues().map(|queue| queue.running);
        let places = [lanes.take(Lane::Levels), lanes.take(Lane::Levels), lanes.take(Lane::Snapshots)];
        assert_eq!(running(), [2, 1]);
        drop(places);
        assert_eq!(running(), [0, 0]);
    }
}
