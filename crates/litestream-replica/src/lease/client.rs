//! A replica client that writes only while it has the lease.
//!
//! Whoever wants to write [claims](crate::ReplicaClient::claim) first. From the
//! first claim that succeeds, a task renews the lease until it is released or
//! lost; losing it ends every write under way. Deletions cannot be taken back, so
//! before each the document is read once more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ltx::Txid;
use tokio::sync::watch;
use tokio::time::Instant;

use super::keeper::{Keeper, Moment, Step, held_by};
use super::{Lease, LeaseOptions, LockStore, MIN_TTL, Removal, check_conditions};
use crate::clock::Clock;
use crate::{ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};

/// A [`ReplicaClient`] under a lease. Reading needs none.
pub struct LeasedClient {
    inner: Arc<dyn ReplicaClient>,
    shared: Arc<Shared>,
}

struct Shared {
    lock: Box<dyn LockStore>,
    clock: Arc<dyn Clock>,
    start: Instant,
    ttl: Duration,
    keeper: Mutex<Keeper>,
    /// Held while a request is under way whose answer changes the keeper.
    turn: tokio::sync::Mutex<Turn>,
    /// Until when writes may go on; `None` when we have no lease that was claimed.
    valid: watch::Sender<Option<Instant>>,
}

#[derive(Default)]
struct Turn {
    /// The store has shown that it honours conditions.
    conditions_work: bool,
    /// The lease that is ours was looked at: whoever finds it to be ours by reading it,
    /// because the answer to the write was lost, has to do so as well.
    is_begun: bool,
    /// The lease was taken, and nobody has been told yet.
    is_new: bool,
    /// A task renews it.
    is_renewed: bool,
}

impl LeasedClient {
    /// Puts `inner` under a lease. Contacts nobody yet.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) for a replica type that cannot hold a lease, and
    /// for a `ttl` below [`MIN_TTL`].
    pub fn new(inner: Arc<dyn ReplicaClient>, options: LeaseOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        let Some(lock) = inner.lock() else {
            let message = format!("lease is not supported for {} replicas, only for s3", inner.kind());
            return Err(Error::new(ErrorKind::Setup, message));
        };
        let ttl = options.ttl;
        if ttl < MIN_TTL {
            return Err(Error::new(ErrorKind::Setup, format!("lease ttl must be at least {MIN_TTL:?}, got {ttl:?}")));
        }
        let shared = Shared {
            lock,
            clock,
            start: Instant::now(),
            ttl,
            keeper: Mutex::new(Keeper::new(options)),
            turn: tokio::sync::Mutex::default(),
            valid: watch::Sender::new(None),
        };
        Ok(Self { inner, shared: Arc::new(shared) })
    }

    /// Runs a write for as long as the lease is ours.
    async fn while_held<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.shared.check_valid()?;
        tokio::select! {
            result = work => result,
            () = self.shared.lost() => Err(self.shared.not_ours()),
        }
    }
}

impl Shared {
    /// Takes steps until the lease is ours or somebody else's.
    async fn claim(self: &Arc<Self>) -> Result<bool> {
        let mut turn = self.turn.lock().await;
        self.settle(&mut turn).await?;
        if !std::mem::replace(&mut turn.is_renewed, true) {
            tokio::spawn(renew(Arc::downgrade(self)));
        }
        if std::mem::take(&mut turn.is_new) {
            return Ok(true);
        }
        self.valid.send_replace(self.keeper().valid_until().map(|until| self.start + until));
        Ok(false)
    }

    async fn settle(&self, turn: &mut Turn) -> Result<()> {
        for _ in 0..MAX_STEPS {
            let now = self.now();
            let (step, ours) = {
                let keeper = self.keeper();
                (keeper.next(now), keeper.ours().map(|(lease, _)| lease.clone()))
            };
            turn.is_begun &= ours.is_some();
            match step {
                Step::Rest { .. } => {
                    return match ours {
                        Some(lease) if !turn.is_begun => self.begin(turn, &lease).await,
                        _ => Ok(()),
                    };
                }
                Step::Wait { lease, .. } => return Err(held_by(&self.lock.location(), &lease)),
                Step::Read => {
                    let stored = self.lock.read().await?;
                    let read = self.keeper().read(stored, self.now());
                    read.map_err(|error| {
                        error.context(format!("{}; remove it if nobody else writes here", self.lock.location()))
                    })?;
                }
                Step::Write { lease, condition } => {
                    match self.lock.put(lease.to_json(), condition).await {
                        Ok(etag) => self.keeper().wrote(lease, etag, now),
                        Err(error) => {
                            self.keeper().lost_answer(lease, now);
                            return Err(error);
                        }
                    }
                    if turn.is_begun && self.keeper().ours().is_some() && self.valid.borrow().is_some() {
                        self.valid.send_replace(self.keeper().valid_until().map(|until| self.start + until));
                    }
                }
            }
        }
        Err(Error::new(ErrorKind::Transient, format!("{}: lease changes all the time", self.lock.location())))
    }

    /// The lease was just taken.
    async fn begin(&self, turn: &mut Turn, lease: &Lease) -> Result<()> {
        if !turn.conditions_work {
            if let Err(error) = check_conditions(&*self.lock, &lease.to_json()).await {
                if error.kind() == ErrorKind::Setup {
                    self.give_up().await;
                }
                return Err(error);
            }
            turn.conditions_work = true;
        }
        tracing::info!(
            lock = self.lock.location(),
            owner = lease.owner,
            generation = lease.generation,
            ttl = ?self.ttl,
            "lease acquired"
        );
        (turn.is_begun, turn.is_new) = (true, true);
        // What was claimed before belongs to another generation.
        self.valid.send_replace(None);
        Ok(())
    }

    /// Removes our document from a store that cannot keep it from others.
    async fn give_up(&self) {
        let etag = self.keeper().ours().map(|(_, etag)| etag.to_owned());
        self.keeper().forget();
        if let Some(etag) = etag
            && let Err(error) = self.lock.remove(&etag).await
        {
            tracing::debug!(lock = self.lock.location(), %error, "cannot remove lease");
        }
    }

    async fn release(&self) -> Result<()> {
        let mut turn = self.turn.lock().await;
        self.valid.send_replace(None);
        *turn = Turn { conditions_work: turn.conditions_work, ..Turn::default() };
        let Some(etag) = self.keeper().ours().map(|(_, etag)| etag.to_owned()) else { return Ok(()) };
        self.keeper().forget();
        let lock = self.lock.location();
        match self.lock.remove(&etag).await? {
            Removal::Removed => tracing::info!(lock, "lease released"),
            Removal::Gone => tracing::debug!(lock, "lease already released"),
            Removal::Changed => tracing::warn!(lock, "lease was taken before it was released"),
        }
        Ok(())
    }

    /// Makes sure, by reading it, that the document is still ours.
    async fn confirm(&self) -> Result<()> {
        self.check_valid()?;
        let stored = self.lock.read().await?;
        let is_same = {
            let keeper = self.keeper();
            let ours = keeper.ours().map(|(lease, _)| (lease.generation, lease.owner.clone()));
            let theirs = stored.as_ref().and_then(|stored| Lease::parse(&stored.body).ok());
            ours.is_some() && ours == theirs.map(|lease| (lease.generation, lease.owner))
        };
        if is_same { self.check_valid() } else { Err(self.not_ours()) }
    }

    fn check_valid(&self) -> Result<()> {
        match *self.valid.borrow() {
            Some(until) if Instant::now() < until => Ok(()),
            _ => Err(self.not_ours()),
        }
    }

    /// Returns when the lease is not ours any more.
    async fn lost(&self) {
        let mut valid = self.valid.subscribe();
        loop {
            let Some(until) = *valid.borrow_and_update() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                changed = valid.changed() => if changed.is_err() { return },
            }
        }
    }

    fn not_ours(&self) -> Error {
        Error::new(ErrorKind::Leased, format!("{}: lease not held", self.lock.location()))
    }

    fn now(&self) -> Moment {
        Moment { wall: self.clock.now(), steady: self.start.elapsed() }
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews the lease in time until it is lost, released, or nobody wants it.
async fn renew(shared: Weak<Shared>) {
    loop {
        let (pause, mut valid) = {
            let Some(shared) = shared.upgrade() else { return };
            let step = shared.keeper().next(shared.now());
            let pause = match step {
                Step::Rest { renew_at } => renew_at.saturating_sub(shared.start.elapsed()),
                _ => shared.ttl / RETRIES,
            };
            (pause, shared.valid.subscribe())
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The client is gone.
            changed = valid.changed() => if changed.is_err() { return },
        }
        let Some(shared) = shared.upgrade() else { return };
        let mut turn = shared.turn.lock().await;
        let has_lease = shared.keeper().ours().is_some();
        if !turn.is_renewed || !has_lease {
            turn.is_renewed = false;
            return;
        }
        if let Err(error) = shared.settle(&mut turn).await {
            let lock = shared.lock.location();
            if shared.keeper().ours().is_some() {
                tracing::warn!(lock, %error, "cannot renew lease, trying again");
            } else {
                turn.is_renewed = false;
                shared.valid.send_replace(None);
                tracing::error!(lock, %error, "lease lost, not writing to the replica");
                return;
            }
        }
    }
}

#[async_trait::async_trait]
impl ReplicaClient for LeasedClient {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        self.inner.log_fields()
    }

    async fn init(&self) -> Result<()> {
        self.inner.init().await
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        self.inner.list(level, seek, metadata).await
    }

    fn lists_true_times(&self) -> bool {
        self.inner.lists_true_times()
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.inner.open(id, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        self.while_held(self.inner.write(request)).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.shared.confirm().await?;
        self.while_held(self.inner.delete(files)).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list_objects(prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.inner.open_object(key, offset, len).await
    }

    /// Removes the lease with everything else.
    async fn delete_all(&self) -> Result<()> {
        self.shared.confirm().await?;
        self.while_held(self.inner.delete_all()).await
    }

    async fn claim(&self) -> Result<bool> {
        self.shared.claim().await
    }

    async fn release(&self) -> Result<()> {
        self.shared.release().await
    }

    fn lock(&self) -> Option<Box<dyn LockStore>> {
        None
    }
}

/// A claim needs three at most; more means that others are at it as well.
const MAX_STEPS: u32 = 8;
/// Attempts to renew per `ttl` once one has failed.
const RETRIES: u32 = 10;
