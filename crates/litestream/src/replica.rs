//! One database's replica: what it holds, and sending what it lacks.
//!
//! Files go out strictly ascending, one at a time, and never over a different
//! object of the same name: a later transaction is never visible while an earlier
//! one is missing, and a second writer is an error instead of a mixed history.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use litestream_replica::plan::Inventory;
use litestream_replica::{Body, ErrorKind as ReplicaErrorKind, FileId, Level, ReplicaClient, WriteMode, WriteRequest};
use ltx::{Header, Txid};

use crate::capture::{Capture, ImageKind};
use crate::error::{Error, ErrorKind, Result};
use crate::healing;
use crate::health::Health;
use crate::prefix::Prefix;
use crate::reconcile::{self, Decision, Local, Remote};
use crate::seats::Seat;
use crate::snapshot::{Place, store_image};
use crate::staged::Staged;

/// The replica side of one database. One round at a time.
pub(crate) struct Uploader {
    prefix: Arc<Prefix>,
    health: Arc<Health>,
    staged: Staged,
    seat: Arc<Seat>,
    /// The newest transaction the replica is known to have, in an unbroken chain.
    uploaded: Option<Txid>,
}

/// Access to the capture state from async code.
pub(crate) type SharedCapture = Arc<std::sync::Mutex<Capture>>;

impl Uploader {
    pub(crate) fn new(prefix: Arc<Prefix>, health: Arc<Health>, staged: Staged, seat: Arc<Seat>) -> Self {
        Self { prefix, health, staged, seat, uploaded: None }
    }

    /// Takes nothing for known: the next round lists the replica.
    pub(crate) fn forget(&mut self) {
        self.uploaded = None;
    }

    pub(crate) fn uploaded(&self) -> Option<Txid> {
        self.uploaded
    }

    /// Sends what the replica lacks, at most `limit` files. True when nothing is
    /// left to send.
    ///
    /// # Errors
    /// After any error the replica's state is unknown, and the next round lists
    /// it again: a failed upload may or may not have stored the object.
    pub(crate) async fn round(&mut self, capture: &SharedCapture, limit: u32) -> Result<bool> {
        let result = self.try_round(capture, limit).await;
        if result.is_err() {
            self.uploaded = None;
        }
        result
    }

    async fn try_round(&mut self, capture: &SharedCapture, limit: u32) -> Result<bool> {
        if self.prefix.claim().await? {
            self.uploaded = None;
        }
        let has_base = with(capture, |capture| Ok(capture.position().is_some())).await?;
        let mut uploaded = match self.uploaded {
            Some(uploaded) if has_base => uploaded,
            _ => self.reconcile(capture).await?,
        };
        let limit = if limit == 0 { u32::MAX } else { limit };
        for _ in 0..limit {
            let Some(sent) = self.send_after(uploaded, capture).await? else { return Ok(true) };
            uploaded = sent;
            self.uploaded = Some(uploaded);
        }
        Ok(false)
    }

    /// Sends what is missing up to `txid`. Nothing here changes which history the
    /// replica continues.
    ///
    /// # Errors
    /// As [`round`](Self::round), and when the round before did not end well.
    pub(crate) async fn reach(&mut self, txid: Txid, capture: &SharedCapture) -> Result<()> {
        // Only who comes to the end knows again what the replica has.
        let reached = self.uploaded.take();
        let mut uploaded =
            reached.ok_or_else(|| Error::new(ErrorKind::Transient, "it is not known what the replica has"))?;
        while uploaded < txid {
            uploaded = self
                .send_after(uploaded, capture)
                .await?
                .ok_or_else(|| Error::new(ErrorKind::Transient, "transactions to send are gone"))?;
        }
        self.uploaded = Some(uploaded);
        Ok(())
    }

    /// Sends the file behind `uploaded`, `None` when there is none.
    async fn send_after(&self, uploaded: Txid, capture: &SharedCapture) -> Result<Option<Txid>> {
        let next = uploaded.next();
        let path = with(capture, move |capture| match capture.txid() {
            Some(newest) if newest >= next => capture.l0_path(next).map(Some),
            _ => Ok(None),
        })
        .await?;
        let Some(path) = path else { return Ok(None) };
        self.send(next, &path).await?;
        Ok(Some(next))
    }

    /// Sends one level-0 file.
    async fn send(&self, txid: Txid, path: &Path) -> Result<()> {
        let header = read_header(path)?;
        let id = FileId { level: Level::L0, min: txid, max: txid };
        let request = WriteRequest {
            id,
            timestamp: header.timestamp,
            mode: WriteMode::CreateOnly,
            body: Body::File(path.to_owned()),
        };
        let info = self.prefix.write(request).await.map_err(|err| second_writer(err, id, &self.prefix.location()))?;
        tracing::debug!(replica = self.prefix.kind(), level = 0, min_txid = %txid, max_txid = %txid, size = info.size, "ltx file uploaded");
        Ok(())
    }

    /// Lists the replica, brings it and the local state together, and heals what
    /// is missing or damaged: from local copies if there are any, else by a
    /// snapshot of the present state.
    ///
    /// # Errors
    /// After any error the next round tries again.
    pub(crate) async fn reconcile(&mut self, capture: &SharedCapture) -> Result<Txid> {
        self.uploaded = None;
        let inventory = self.prefix.list_all().await?;
        let newest = inventory.newest_txid();
        let (position, floor, files) = with(capture, |capture| {
            capture.settled()?;
            Ok((capture.txid(), capture.floor(), capture.l0_txids()?))
        })
        .await?;
        let same = self.compare(&inventory, newest, &files, capture).await?;
        let is_our_history = same != Some(false) && position.is_some_and(|position| position >= newest);
        if is_our_history {
            self.replace_damaged(&inventory, capture).await?;
            self.refill(&inventory, &files, capture).await?;
        }
        // What was sent again counts.
        let inventory = self.prefix.inventory().await?;
        let intact = healing::reaches(&inventory, &self.health.damaged(), newest);
        let newest_l0 = inventory.level(Level::L0).last().map_or(Txid::NONE, |file| file.id.max);
        let local = Local { position, floor, files, same };
        let (decision, reason) = reconcile::decide(Remote { newest, newest_l0, intact }, &local);
        if let Some(reason) = reason {
            tracing::warn!(
                replica = self.prefix.kind(),
                location = self.prefix.location(),
                replica_txid = %newest,
                db_txid = %position.unwrap_or(Txid::NONE),
                reason,
                "database and replica differ, storing a whole image"
            );
            if !newest.is_none() && !intact {
                self.health.found(reason);
            }
        }
        let uploaded = self.carry_out(decision, &local, capture).await?;
        self.health.healed();
        self.uploaded = Some(uploaded);
        Ok(uploaded)
    }

    async fn carry_out(&mut self, decision: Decision, local: &Local, capture: &SharedCapture) -> Result<Txid> {
        let place = match decision {
            Decision::Upload { after } => return Ok(after),
            Decision::Anchor { after } => {
                let _seated = self.seat.take().await?;
                with(capture, Capture::write_anchor).await?;
                return Ok(after);
            }
            Decision::Snapshot | Decision::Rebase { continues: false, .. } => Place::Snapshot,
            Decision::Rebase { continues: true, .. } => Place::Level0,
        };
        let kind = match decision {
            Decision::Rebase { txid, .. } => ImageKind::Rebase { txid },
            _ => ImageKind::Snapshot,
        };
        let seated = self.seat.take().await?;
        let stored = store_image(&self.prefix, capture, kind, place).await?;
        drop(seated);
        let txid = stored.id.max;
        tracing::info!(
            replica = self.prefix.kind(),
            level = stored.id.level.get(),
            txid = %txid,
            size = stored.size,
            "image of the database stored"
        );
        // The newest level-0 file goes out again if there is one: level 0 must
        // carry the newest TXID.
        let has_file = kind == ImageKind::Snapshot && local.files.binary_search(&txid).is_ok();
        Ok(if has_file { txid.previous() } else { txid })
    }

    /// Puts sound local copies in the place of damaged files, and forgets those that
    /// are gone.
    async fn replace_damaged(&self, inventory: &Inventory, capture: &SharedCapture) -> Result<()> {
        for id in self.health.damaged() {
            if !inventory.files().iter().any(|file| file.id == id) {
                self.health.replaced(id);
                continue;
            }
            let path = if id.level == Level::L0 {
                with(capture, move |capture| capture.l0_path(id.max)).await?
            } else {
                self.staged.path(id)
            };
            let Some(header) = healing::verify_copy(&path, id).await? else { continue };
            let request =
                WriteRequest { id, timestamp: header.timestamp, mode: WriteMode::Overwrite, body: Body::File(path) };
            self.prefix.write(request).await?;
            self.health.replaced(id);
            tracing::info!(replica = self.prefix.kind(), level = id.level.get(), min_txid = %id.min, max_txid = %id.max, "damaged file replaced by the local copy");
        }
        Ok(())
    }

    /// Sends local files again that the replica lacks in the midst of its history.
    async fn refill(&self, inventory: &Inventory, files: &[Txid], capture: &SharedCapture) -> Result<()> {
        for txid in healing::refill(inventory, files) {
            let path = with(capture, move |capture| capture.l0_path(txid)).await?;
            let id = FileId { level: Level::L0, min: txid, max: txid };
            if healing::verify_copy(&path, id).await?.is_none() {
                continue;
            }
            self.send(txid, &path).await?;
            tracing::info!(replica = self.prefix.kind(), %txid, "missing file sent again from the local copy");
        }
        Ok(())
    }

    /// Compares the newest file that both sides have. The file checksum stands in
    /// its last eight bytes.
    async fn compare(
        &self,
        inventory: &Inventory,
        newest: Txid,
        files: &[Txid],
        capture: &SharedCapture,
    ) -> Result<Option<bool>> {
        let Some(info) = inventory.level(Level::L0).iter().find(|file| file.id.min == newest && file.id.max == newest)
        else {
            return Ok(None);
        };
        if files.binary_search(&newest).is_err() || info.size < CHECKSUM_LEN {
            return Ok(None);
        }
        let path = with(capture, move |capture| capture.l0_path(newest)).await?;
        let ours = read_checksum(&path)?;
        let stream = self.prefix.open(info.id, info.size - CHECKSUM_LEN, CHECKSUM_LEN).await?;
        let theirs: Vec<Bytes> = stream.try_collect().await?;
        Ok(Some(theirs.concat() == ours))
    }
}

/// Runs `f` on the capture state, on a thread that may block.
pub(crate) async fn with<T: Send + 'static>(
    capture: &SharedCapture,
    f: impl FnOnce(&mut Capture) -> Result<T> + Send + 'static,
) -> Result<T> {
    let capture = capture.clone();
    tokio::task::spawn_blocking(move || {
        // A panic while the lock was held left the state as it was between two
        // steps, each of which is safe to stop after.
        let mut capture = capture.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        f(&mut capture)
    })
    .await
    .map_err(|err| Error::with_source(ErrorKind::Transient, "capture task", err))?
}

pub(crate) fn second_writer(err: litestream_replica::Error, id: FileId, location: &str) -> Error {
    if err.kind() == ReplicaErrorKind::Conflict {
        return Error::with_source(
            ErrorKind::Setup,
            format!("{location} already holds another {id}: a second writer uses this replica"),
            err,
        );
    }
    Error::from(err)
}

fn read_header(path: &Path) -> Result<Header> {
    let failed = |err| Error::io(format!("open ltx file {}", path.display()), err);
    let mut bytes = [0; Header::LEN];
    File::open(path).map_err(failed)?.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Header::parse(&bytes)
        .map_err(|err| Error::with_source(ErrorKind::Corrupt, format!("read ltx file {}", path.display()), err))
}

fn read_checksum(path: &Path) -> Result<Vec<u8>> {
    let failed = |err| Error::io(format!("open ltx file {}", path.display()), err);
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let mut bytes = vec![0; usize::try_from(CHECKSUM_LEN).unwrap_or(8)];
    file.read_exact_at(&mut bytes, len.saturating_sub(CHECKSUM_LEN)).map_err(failed)?;
    Ok(bytes)
}

const CHECKSUM_LEN: u64 = 8;
