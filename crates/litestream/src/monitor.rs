//! The two tasks of a running database: capture when its WAL changes, upload when
//! something was captured.
//!
//! `sync-interval` is the shortest time between two captures, leading edge first:
//! a commit after a quiet spell goes out at once, a burst is batched. An idle
//! database has no timer but the safety scan.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::alarm::Alarm;
use crate::capture::Publish;
use crate::counters::Side;
use crate::db::Database;
use crate::error::{Error, ErrorKind};
use crate::looks::Looks;
use crate::seats::Seats;
use crate::sqlite;
use crate::traffic::LanesInUse;
use crate::watch::Watcher;

/// What all databases of a process share.
pub(crate) struct Shared {
    /// Tells the maintenance task which replicas have changed.
    pub(crate) touched: UnboundedSender<Arc<Database>>,
    pub(crate) watcher: Watcher,
    /// Maintenance jobs that run.
    pub(crate) lanes: Arc<LanesInUse>,
    /// Watches the tasks of all databases.
    pub(crate) alarm: Alarm,
    /// Databases that may be open at once.
    pub(crate) seats: Arc<Seats>,
    /// Passes that may run at once; tasks wait in order.
    pub(crate) passes: Semaphore,
    /// Upload rounds that may run at once; tasks wait in order.
    pub(crate) uploads: Semaphore,
    /// Memory is about to be given back to the system.
    trims: AtomicBool,
}

impl Shared {
    /// Nothing works on anything yet. Needs a tokio runtime.
    pub(crate) fn new(
        touched: UnboundedSender<Arc<Database>>,
        seats: Arc<Seats>,
        max_passes: usize,
        max_uploads: usize,
    ) -> Self {
        Self {
            touched,
            seats,
            lanes: Arc::default(),
            alarm: Alarm::default(),
            watcher: Watcher::new(),
            passes: Semaphore::new(max_passes),
            uploads: Semaphore::new(max_uploads),
            trims: AtomicBool::new(false),
        }
    }

    /// Gives memory that nothing uses back to the system in a moment, once for all
    /// databases that went quiet meanwhile.
    fn trim_memory(self: &Arc<Self>) {
        if self.trims.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.clone();
        tokio::spawn(async move {
            sleep(TRIM_AFTER).await;
            shared.trims.store(false, Ordering::Release);
            let trimmed = tokio::task::spawn_blocking(sqlite::trim_heap).await;
            if let Err(err) = trimmed {
                tracing::debug!(error = %err, "memory is not given back");
            }
        });
    }
}

/// What comes between two passes.
enum Rest {
    UntilChanged,
    For(Duration),
    /// Nothing can be captured, and the WAL grows.
    InTrouble(Duration),
}

/// Captures until cancelled.
pub(crate) async fn capture(db: Arc<Database>, shared: Arc<Shared>, cancel: CancellationToken) {
    let mut failures = Failures::new(Side::Capture, db.replica.sync_interval);
    let mut next_file = Instant::now();
    while !cancel.is_cancelled() {
        let publish = Instant::now() >= next_file;
        let had_delta = db.has_open_delta();
        // Before the permit: those who could give up a seat need one to finish.
        let seated = tokio::select! {
            () = cancel.cancelled() => return,
            seated = Box::pin(db.seat.take()) => seated,
        };
        let pass = {
            let Ok(_permit) = shared.passes.acquire().await else { return };
            // Boxed here and below: what a pass or a round needs is given back when it
            // is over, instead of being part of a task that mostly sleeps.
            Box::pin(db.pass(if publish { Publish::Soon } else { Publish::Later }, seated)).await
        };
        let rest = match pass {
            Ok(report) => {
                failures.recovered(&db);
                // A pass that only checkpoints must not delay the next commit.
                if publish && (had_delta || report.wal_bytes > 0) {
                    next_file = Instant::now() + db.replica.sync_interval;
                }
                if shared.seats.is_crowded() && stand_up(&db).await {
                    // What comes next is for the next turn.
                    next_file = Instant::now() + db.replica.sync_interval;
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = tokio::time::sleep_until(next_file) => {}
                    }
                } else if !settle(&db, next_file, &cancel).await || db.has_open_delta() {
                    continue;
                }
                Rest::UntilChanged
            }
            // No database yet is a state, not a fault.
            Err(err) if err.kind() == ErrorKind::Missing => {
                tracing::debug!(db = %db.path().display(), "{err}");
                if shared.seats.is_crowded() {
                    db.seat.park().await;
                }
                Rest::For(db.options.monitor_interval.max(MIN_PAUSE))
            }
            // Somebody holds a lock for a moment; it is not worth a backoff yet.
            Err(err) if err.kind() == ErrorKind::Busy && failures.is_brief() => Rest::For(BUSY_PAUSE),
            Err(err) => Rest::InTrouble(failures.failed(&db, &err)),
        };
        let next = async {
            match rest {
                Rest::UntilChanged => wait_for_change(&db, &shared).await,
                Rest::For(pause) => sleep(pause).await,
                Rest::InTrouble(pause) => db.outlast(pause).await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = next => {}
        }
    }
}

/// Gives the seat to those who wait. False when the database must stay open.
async fn stand_up(db: &Database) -> bool {
    let is_published = !db.has_open_delta() || db.capture(Publish::Now).await.is_ok();
    is_published && db.seat.park().await
}

/// Waits until the next file is due. False, at once, when the WAL grows so fast
/// that it must be captured before.
async fn settle(db: &Database, until: Instant, cancel: &CancellationToken) -> bool {
    let mut look = FIRST_LOOK;
    let mut before = 0;
    loop {
        let now = Instant::now();
        if now >= until || cancel.is_cancelled() {
            return true;
        }
        let next = (now + look).min(until);
        tokio::select! {
            () = cancel.cancelled() => return true,
            () = tokio::time::sleep_until(next) => {}
        }
        let backlog = db.backlog();
        if backlog >= MAX_BACKLOG {
            return false;
        }
        // Look less and less often while little is written.
        look = if backlog.saturating_sub(before) > SLOW_GROWTH { FIRST_LOOK } else { look * 2 };
        before = backlog;
    }
}

/// Returns when there may be something to capture.
async fn wait_for_change(db: &Database, shared: &Arc<Shared>) {
    let real_path = db.real_path();
    let mut looks = Looks::default();
    let mut has_rested = false;
    loop {
        let armed = shared.watcher.arm(&real_path, &db.wake)
            || (db.is_parked() && shared.watcher.arm_without_wal(&real_path, &db.wake));
        // Whatever happened before the watch stood is seen by this look.
        if db.is_behind() {
            return;
        }
        let is_quiet = looks.is_quiet();
        if is_quiet {
            // Every time, because each look brings something back into memory.
            db.rest();
            if !has_rested {
                has_rested = true;
                shared.trim_memory();
            }
        }
        let scan = if armed { SAFETY_SCAN } else { db.options.monitor_interval.max(MIN_PAUSE) };
        let is_woken = timeout(looks.patience(scan), db.wake.notified()).await.is_ok();
        if (is_woken || is_quiet) && db.needs_attention() {
            return;
        }
        if is_woken {
            sleep(looks.written()).await;
        } else {
            looks.unwritten();
        }
    }
}

/// Uploads until cancelled.
pub(crate) async fn upload(db: Arc<Database>, shared: Arc<Shared>, cancel: CancellationToken) {
    let mut captured = db.captured();
    let mut failures = Failures::new(Side::Upload, db.replica.sync_interval);
    loop {
        // Nothing is sent before the first pass: it opens the database.
        if !captured.borrow_and_update().ready {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = captured.changed() => if changed.is_err() { return } else { continue },
            }
        }
        let had_base = db.status().txid.is_some();
        let round = {
            let Ok(_permit) = shared.uploads.acquire().await else { return };
            tokio::select! {
                () = cancel.cancelled() => return,
                round = Box::pin(db.upload_batch()) => round,
            }
        };
        match round {
            Ok(drained) => {
                failures.recovered(&db);
                if db.touch() && shared.touched.send(db.clone()).is_err() {
                    tracing::debug!(db = %db.path().display(), "no maintenance any more");
                }
                // A first image gives the database its base: what was committed
                // meanwhile is picked up by a pass.
                if !had_base {
                    db.wake.notify_one();
                }
                if !drained {
                    continue;
                }
                tokio::select! {
                    () = cancel.cancelled() => return,
                    changed = captured.changed() => if changed.is_err() { return },
                }
            }
            Err(err) => {
                let backoff = failures.failed(&db, &err);
                // Whoever waits for a lease must be there when it ends.
                let pause = if err.kind() == ErrorKind::Leased { LEASE_PAUSE } else { backoff };
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }
}

/// Backoff and log limit for something that is tried again and again.
struct Failures {
    side: Side,
    base: Duration,
    count: u32,
    brief: u32,
    logged: Option<Instant>,
}

impl Failures {
    fn new(side: Side, base: Duration) -> Self {
        Self { side, base: base.max(MIN_PAUSE), count: 0, brief: 0, logged: None }
    }

    /// Counts a failure that is expected to pass at once; false when there were
    /// too many in a row.
    fn is_brief(&mut self) -> bool {
        self.brief += 1;
        self.brief <= MAX_BRIEF
    }

    /// Logs at most every 30 seconds and returns how long to wait.
    fn failed(&mut self, db: &Database, err: &Error) -> Duration {
        let backoff = self.base.saturating_mul(1 << self.count.min(16)).min(MAX_BACKOFF);
        self.count += 1;
        db.counters.backs_off(self.side, backoff);
        let now = Instant::now();
        if self.logged.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
            self.logged = Some(now);
            tracing::error!(
                system = "store",
                db = db.name(),
                path = %db.path().display(),
                error = %err,
                consecutive_errors = self.count,
                backoff = ?backoff,
                "{}", self.words().0
            );
        }
        backoff
    }

    /// Upstream's messages for a failure and for the end of failures.
    fn words(&self) -> (&'static str, &'static str) {
        match self.side {
            Side::Capture => ("sync error", "sync recovered"),
            Side::Upload => ("monitor error", "replica sync recovered"),
        }
    }

    fn recovered(&mut self, db: &Database) {
        if self.count > 0 {
            db.counters.backs_off(self.side, Duration::ZERO);
            let (path, previous_errors) = (db.path().display(), self.count);
            tracing::info!(system = "store", db = db.name(), %path, previous_errors, "{}", self.words().1);
        }
        self.count = 0;
        self.brief = 0;
        self.logged = None;
    }
}

/// Covers lost notifications; costs two stat calls and a look at shared memory.
const SAFETY_SCAN: Duration = Duration::from_secs(30);
/// From the first database that goes quiet until memory is given back.
const TRIM_AFTER: Duration = Duration::from_secs(10);
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// First look at how fast the WAL grows after a capture.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// WAL bytes that are captured without waiting for `sync-interval`.
const MAX_BACKLOG: u64 = 1 << 20;
const SLOW_GROWTH: u64 = 256 << 10;
const BUSY_PAUSE: Duration = Duration::from_millis(5);
const MAX_BRIEF: u32 = 100;
const LEASE_PAUSE: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(300);
const LOG_INTERVAL: Duration = Duration::from_secs(30);
