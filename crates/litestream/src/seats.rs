//! Which databases may be open at once, when there are more of them than descriptors.
//!
//! A database that is open has a *seat*. When all seats are taken, the database that
//! was worked on least lately and has nothing to do is *parked*
//! ([`Capture::park`](crate::capture::Capture::park)), and whoever waits sits down. When
//! all have something to do they take turns: each gives its seat up after a pass.
//!
//! The rules that must never break: nothing opens a database without a seat, and a seat
//! is not taken away while somebody works on it ([`Seated`]). Waiting for a seat is done
//! without a permit that those who could give theirs up may need.
//!
//! Why: docs/decisions/0007-parking.md.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, RwLock, Semaphore};
use tokio::time::{Instant, sleep};

use crate::error::{Error, ErrorKind, Result};
use crate::replica::SharedCapture;

/// The seats of one process.
pub(crate) struct Seats {
    /// Descriptors that databases may have.
    total: usize,
    free: Arc<Semaphore>,
    /// Databases that were opened and are open or parked.
    known: Arc<AtomicUsize>,
    /// Those that wait for a seat.
    waiting: AtomicUsize,
    taken: Mutex<HashMap<u64, Weak<Seat>>>,
    /// Counts uses, so that the least lately used is found.
    turn: AtomicU64,
    /// Held by the one that makes room.
    room: tokio::sync::Mutex<Pressure>,
    parked: AtomicU64,
}

/// How many databases are open, and how many could not be for want of descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeatUse {
    /// Databases that are open.
    pub open: usize,
    /// Databases that were opened, have nothing to do and were closed for others.
    pub parked: usize,
    /// Databases that wait to be opened.
    pub waiting: usize,
    /// How often a database was closed for another since the start.
    pub parkings: u64,
}

impl Seats {
    /// `max_descriptors` for all databases together; `None`: as many as they want.
    pub(crate) fn new(max_descriptors: Option<usize>) -> Self {
        let total = max_descriptors.unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self {
            total,
            free: Arc::new(Semaphore::new(total)),
            known: Arc::default(),
            waiting: AtomicUsize::new(0),
            taken: Mutex::default(),
            turn: AtomicU64::new(0),
            room: tokio::sync::Mutex::default(),
            parked: AtomicU64::new(0),
        }
    }

    /// Somebody waits, and every seat is taken.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    pub(crate) fn usage(&self) -> SeatUse {
        let open = self.taken().len();
        let waiting = self.waiting.load(Ordering::Acquire);
        SeatUse {
            open,
            parked: self.known.load(Ordering::Acquire).saturating_sub(open + waiting),
            waiting,
            parkings: self.parked.load(Ordering::Relaxed),
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Weak<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn acquire(&self, count: u32) -> Result<OwnedSemaphorePermit> {
        let closed = |err| Error::with_source(ErrorKind::Cancelled, "wait for descriptors", err);
        // In order: whoever came before is served first.
        if self.waiting.load(Ordering::Acquire) == 0
            && let Ok(permit) = self.free.clone().try_acquire_many_owned(count)
        {
            return Ok(permit);
        }
        let _waiting = Waiting::new(&self.waiting);
        let permit = self.free.clone().acquire_many_owned(count);
        tokio::select! {
            biased;
            permit = permit => permit.map_err(closed),
            never = self.make_room(count) => match never {},
        }
    }

    /// Parks others until there is room for everybody who waits.
    async fn make_room(&self, count: u32) -> std::convert::Infallible {
        let mut pressure = self.room.lock().await;
        let mut pause = FIRST_PAUSE;
        loop {
            if self.free.available_permits() >= count as usize {
                // It is about to be handed out.
            } else if self.park_one().await {
                pressure.since = None;
            } else {
                if pressure.is_worth_a_warning() {
                    tracing::warn!(
                        open = self.taken().len(),
                        waiting = self.waiting.load(Ordering::Acquire),
                        hint = "raise the limit of open files (LimitNOFILE= in a unit file, ulimit -Hn in a shell)",
                        "more databases are busy than can be open at once, they take turns"
                    );
                }
                sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Parks the database that was used least lately and has nothing to do.
    async fn park_one(&self) -> bool {
        let mut candidates: Vec<(u64, Arc<Seat>)> = self
            .taken()
            .values()
            .filter_map(Weak::upgrade)
            .map(|seat| (seat.used.load(Ordering::Acquire), seat))
            .collect();
        candidates.sort_unstable_by_key(|(used, _)| *used);
        let search = tokio::task::spawn_blocking(move || candidates.into_iter().any(|(_, seat)| seat.try_park(false)));
        search.await.unwrap_or(false)
    }
}

/// Since when every open database has been busy while others waited.
#[derive(Debug, Default)]
struct Pressure {
    since: Option<Instant>,
    seen_at: Option<Instant>,
    warned_at: Option<Instant>,
}

impl Pressure {
    /// Called when nobody can be parked. Of databases that were written to right before
    /// the start this is true for a moment.
    fn is_worth_a_warning(&mut self) -> bool {
        if self.seen_at.replace(Instant::now()).is_none_or(|at| at.elapsed() >= PRESSURE_ENDS) {
            self.since = None;
        }
        let is_lasting = self.since.get_or_insert_with(Instant::now).elapsed() >= WARN_AFTER;
        let is_new = self.warned_at.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
        if is_lasting && is_new {
            self.warned_at = Some(Instant::now());
        }
        is_lasting && is_new
    }
}

/// Counts one that waits for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The seat of one database, taken or not.
pub(crate) struct Seat {
    id: u64,
    seats: Arc<Seats>,
    capture: SharedCapture,
    permits: Arc<RwLock<Permits>>,
    /// Held by the one who waits for the seat.
    entrance: tokio::sync::Mutex<()>,
    used: AtomicU64,
}

/// Work on an open database. The seat is not taken away while this lives.
pub(crate) struct Seated {
    _permits: OwnedRwLockReadGuard<Permits>,
}

#[derive(Default)]
struct Permits {
    /// For what stays open while the database is parked.
    known: Option<Known>,
    /// For the rest.
    open: Option<OwnedSemaphorePermit>,
}

/// Counts a database for as long as it is open or parked.
struct Known {
    counter: Arc<AtomicUsize>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Seat {
    pub(crate) fn new(id: u64, seats: Arc<Seats>, capture: SharedCapture) -> Arc<Self> {
        Arc::new(Self {
            id,
            seats,
            capture,
            permits: Arc::default(),
            entrance: tokio::sync::Mutex::new(()),
            used: AtomicU64::new(0),
        })
    }

    /// Waits until the database may be open, parking others that have nothing to do.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] when there are more databases than can even be parked.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Seated> {
        loop {
            let permits = self.permits.clone().read_owned().await;
            if permits.open.is_some() {
                self.used.store(self.seats.turn.fetch_add(1, Ordering::AcqRel), Ordering::Release);
                return Ok(Seated { _permits: permits });
            }
            drop(permits);
            self.sit_down().await?;
        }
    }

    async fn sit_down(self: &Arc<Self>) -> Result<()> {
        // Two that work on the same database need one seat.
        let _entrance = self.entrance.lock().await;
        let permits = self.permits.read().await;
        if permits.open.is_some() {
            return Ok(());
        }
        let is_known = permits.known.is_some();
        drop(permits);
        let known = if is_known { None } else { Some(self.become_known().await?) };
        let open = self.seats.acquire(PER_OPEN).await?;
        let mut permits = self.permits.write().await;
        if known.is_some() {
            permits.known = known;
        }
        permits.open = Some(open);
        self.seats.taken().insert(self.id, Arc::downgrade(self));
        Ok(())
    }

    /// Takes what stays taken while the database is parked, and leaves enough for one
    /// that is open.
    async fn become_known(&self) -> Result<Known> {
        let enough = |known: usize| {
            let needed = (known + 1).saturating_mul(PER_KNOWN as usize).saturating_add(PER_OPEN as usize);
            (needed <= self.seats.total).then_some(known + 1)
        };
        let counter = &self.seats.known;
        if let Err(known) = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, enough) {
            return Err(Error::new(
                ErrorKind::Setup,
                format!(
                    "{known} databases need all the open files there may be, none is left for another: raise the limit"
                ),
            ));
        }
        let mut known = Known { counter: counter.clone(), _permit: None };
        known._permit = Some(self.seats.acquire(PER_KNOWN).await?);
        Ok(known)
    }

    /// Gives the seat up if nobody works on the database: at once, or not at all.
    /// Blocks while files are closed. With `force` also if it has something to do.
    pub(crate) fn try_park(&self, force: bool) -> bool {
        let Ok(mut permits) = self.permits.try_write() else { return false };
        if permits.open.is_none() {
            return false;
        }
        let mut capture = match self.capture.try_lock() {
            Ok(capture) => capture,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        match capture.park(force) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(err) => {
                tracing::debug!(error = %err, "database cannot be parked");
                return false;
            }
        }
        drop(capture);
        permits.open = None;
        self.seats.taken().remove(&self.id);
        self.seats.parked.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// As [`try_park`](Self::try_park) with `force`, from async code.
    pub(crate) async fn park(self: &Arc<Self>) -> bool {
        let seat = self.clone();
        tokio::task::spawn_blocking(move || seat.try_park(true)).await.unwrap_or(false)
    }

    /// Gives everything back: the database is closed.
    pub(crate) async fn leave(&self) {
        let mut permits = self.permits.write().await;
        permits.open = None;
        self.seats.taken().remove(&self.id);
        permits.known = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.id);
    }
}

/// Descriptors of a parked database: the lock of its state directory.
pub const PER_KNOWN: u32 = 1;
/// What is added while it is open. SQLite: two connections that take turns and one for
/// the write lock, each with the database and its WAL, or one more for an image
/// instead of these; the wal-index. Ours: the database, its WAL, the page sums, those
/// that an image builds, two scratch files of captured pages and one of frames copied
/// under the lock.
pub const PER_OPEN: u32 = 14;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(200);
const WARN_AFTER: Duration = Duration::from_secs(5);
/// Nobody has waited in vain for so long.
const PRESSURE_ENDS: Duration = Duration::from_secs(2);
const WARN_INTERVAL: Duration = Duration::from_secs(600);
