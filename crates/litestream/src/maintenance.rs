//! The one task that looks after the replicas of all databases of a process.
//!
//! It keeps a queue of deadlines; a database is in it only while its agenda has
//! something. What is due runs in two lanes with room for a few jobs each, the
//! longest overdue first, and never two jobs of one database at a time. Ten
//! thousand databases that are due at the same boundary are thus worked off one
//! after the other, and a huge one holds up at most its own lane's slot.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::clock::Clock;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{self, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::agenda::Lane;
use crate::db::Database;
use crate::traffic::LanesInUse;

/// Runs until cancelled. Whatever runs then is dropped, which leaves nothing
/// half visible anywhere.
///
/// `touched` brings each database when it is first ready, and again whenever its
/// replica has changed or the database is closed. Each is sent once until it is
/// received, so the channel holds at most one message a database.
pub(crate) async fn run(
    mut touched: UnboundedReceiver<Arc<Database>>,
    clock: Arc<dyn Clock>,
    in_use: Arc<LanesInUse>,
    cancel: CancellationToken,
) {
    let mut queue = Queue::default();
    let mut jobs = JoinSet::new();
    loop {
        while let Some((db, lane)) = queue.take_due(clock.now()) {
            let id = db.id();
            let place = in_use.take(lane);
            let job = jobs.spawn(async move {
                db.upkeep(lane).await;
                drop(place);
            });
            queue.running.insert(job.id(), (id, lane));
        }
        let pause = queue.next().map(|next| until(next, clock.now()));
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(db) = touched.recv() => {
                db.received_touch();
                db.review();
                queue.enter(&db);
            }
            Some(done) = jobs.join_next_with_id(), if !jobs.is_empty() => match done {
                Ok((job, ())) => queue.finished(job),
                Err(err) => {
                    tracing::error!(error = %err, "maintenance job failed");
                    queue.finished(err.id());
                }
            },
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// How long until `next`; not longer than a machine's sleep or a changed clock
/// may go unnoticed.
fn until(next: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(next.duration_since(now)).unwrap_or_default().min(MAX_PAUSE)
}

/// Deadlines of databases, and which of them are being worked on.
#[derive(Default)]
struct Queue {
    databases: HashMap<u64, Entry>,
    /// May hold deadlines that were moved meanwhile; those are skipped.
    deadlines: [BinaryHeap<Reverse<(Timestamp, u64)>>; 2],
    running: HashMap<task::Id, (u64, Lane)>,
}

struct Entry {
    db: Arc<Database>,
    /// The deadline that counts, for each lane.
    due: [Option<Timestamp>; 2],
    is_running: bool,
}

impl Queue {
    /// Takes over what a database's agenda says.
    fn enter(&mut self, db: &Arc<Database>) {
        let id = db.id();
        if db.is_closed() {
            self.databases.remove(&id);
            return;
        }
        let entry =
            self.databases.entry(id).or_insert_with(|| Entry { db: db.clone(), due: [None; 2], is_running: false });
        // When it is done its deadlines are looked at anyway.
        if entry.is_running {
            return;
        }
        for ((lane, deadlines), due) in Lane::BOTH.into_iter().zip(&mut self.deadlines).zip(&mut entry.due) {
            let next = db.next_due(lane);
            if next != *due {
                *due = next;
                deadlines.extend(next.map(|next| Reverse((next, id))));
            }
        }
    }

    /// The next job to start, if one is due and its lane has room.
    fn take_due(&mut self, now: Timestamp) -> Option<(Arc<Database>, Lane)> {
        for lane in Lane::BOTH {
            if !self.has_room(lane) {
                continue;
            }
            while let Some((at, id)) = self.first(lane).filter(|(at, _)| *at <= now) {
                tracing::trace!(database = id, ?lane, %at, "due");
                if let Some(deadlines) = self.deadlines.get_mut(lane as usize) {
                    deadlines.pop();
                }
                let Some(entry) = self.databases.get_mut(&id) else { continue };
                // Entered again when it is done.
                entry.due = [None; 2];
                entry.is_running = true;
                return Some((entry.db.clone(), lane));
            }
        }
        None
    }

    fn finished(&mut self, job: task::Id) {
        let Some((id, _)) = self.running.remove(&job) else { return };
        let Some(entry) = self.databases.get_mut(&id) else { return };
        entry.is_running = false;
        let db = entry.db.clone();
        self.enter(&db);
    }

    /// The first deadline of a lane that has room for a job.
    fn next(&mut self) -> Option<Timestamp> {
        let lanes = Lane::BOTH.into_iter().filter(|lane| self.has_room(*lane)).collect::<Vec<_>>();
        lanes.into_iter().filter_map(|lane| self.first(lane)).map(|(at, _)| at).min()
    }

    /// The first deadline of a lane, with those that no longer count put away.
    fn first(&mut self, lane: Lane) -> Option<(Timestamp, u64)> {
        let deadlines = self.deadlines.get_mut(lane as usize)?;
        while let Some(&Reverse((at, id))) = deadlines.peek() {
            let due = self.databases.get(&id).and_then(|entry| entry.due.get(lane as usize).copied().flatten());
            if due == Some(at) {
                return Some((at, id));
            }
            deadlines.pop();
        }
        None
    }

    fn has_room(&self, lane: Lane) -> bool {
        self.running.values().filter(|(_, running)| *running == lane).count() < lane.room()
    }
}

/// Longest sleep while something is due some day.
const MAX_PAUSE: Duration = Duration::from_secs(60);
