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
use litestream_replica::plan::{Inventory, Target};
use litestream_replica::{Body, ErrorKind as ReplicaErrorKind, FileId, Level, ReplicaClient, WriteMode, WriteRequest};
use ltx::{Header, Txid};

use crate::capture::{Capture, Frozen, ImageKind};
use crate::chunks::chunks;
use crate::error::{Error, ErrorKind, Result};
use crate::page_sums::PageSums;
use crate::reconcile::{self, Decision, Local, Remote};

/// The replica side of one database. One round at a time.
pub(crate) struct Uploader {
    client: Arc<dyn ReplicaClient>,
    /// The newest transaction the replica is known to have, in an unbroken chain.
    uploaded: Option<Txid>,
    /// The newest transaction this process has tried to write, once it has
    /// written any. Anything newer in the replica is somebody else's.
    attempted: Option<Txid>,
}

/// Access to the capture state from async code.
pub(crate) type SharedCapture = Arc<std::sync::Mutex<Capture>>;

impl Uploader {
    pub(crate) fn new(client: Arc<dyn ReplicaClient>) -> Self {
        Self { client, uploaded: None, attempted: None }
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
        let has_base = with(capture, |capture| Ok(capture.position().is_some())).await?;
        let mut uploaded = match self.uploaded {
            Some(uploaded) if has_base => uploaded,
            _ => self.reconcile(capture).await?,
        };
        let limit = if limit == 0 { u32::MAX } else { limit };
        for _ in 0..limit {
            let next = uploaded.next();
            let path = with(capture, move |capture| match capture.txid() {
                Some(newest) if newest >= next => capture.l0_path(next).map(Some),
                _ => Ok(None),
            })
            .await?;
            let Some(path) = path else { return Ok(true) };
            self.attempted = self.attempted.max(Some(next));
            self.send(next, &path).await?;
            uploaded = next;
            self.uploaded = Some(uploaded);
        }
        Ok(false)
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
        let info = self.client.write(request).await.map_err(|err| second_writer(err, id, &self.client.location()))?;
        tracing::debug!(replica = self.client.kind(), level = 0, min_txid = %txid, max_txid = %txid, size = info.size, "ltx file uploaded");
        Ok(())
    }

    /// Lists the replica and brings it and the local state together.
    async fn reconcile(&mut self, capture: &SharedCapture) -> Result<Txid> {
        let inventory = Inventory::load(&*self.client, false).await?;
        let newest = inventory.files().iter().map(|file| file.id.max).max().unwrap_or(Txid::NONE);
        if self.attempted.is_some_and(|ours| newest > ours) {
            return Err(Error::new(
                ErrorKind::Setup,
                format!(
                    "another writer appends to {} (found txid {newest}); stop it, then restart litestream to continue above it",
                    self.client.location()
                ),
            ));
        }
        let intact = inventory.plan(Target::Latest).is_ok_and(|plan| plan.txid() == newest);
        let (position, files) = with(capture, |capture| Ok((capture.txid(), capture.l0_txids()?))).await?;
        let same = self.compare(&inventory, newest, &files, capture).await?;
        let local = Local { position, files, same };
        let (decision, reason) = reconcile::decide(Remote { newest, intact }, &local);
        if let Some(reason) = reason {
            tracing::warn!(
                replica = self.client.kind(),
                location = self.client.location(),
                replica_txid = %newest,
                db_txid = %position.unwrap_or(Txid::NONE),
                reason,
                "database and replica differ, storing a whole image"
            );
        }
        let uploaded = match decision {
            Decision::Upload { after } => after,
            Decision::Snapshot => {
                let txid = self.store_image(capture, ImageKind::Snapshot, true).await?;
                // The newest level-0 file goes out again if there is one: level 0
                // must carry the newest TXID.
                let has_file = local.files.binary_search(&txid).is_ok();
                if has_file { txid.previous() } else { txid }
            }
            Decision::Rebase { txid, continues } => {
                self.store_image(capture, ImageKind::Rebase { txid }, !continues).await?
            }
        };
        self.uploaded = Some(uploaded);
        Ok(uploaded)
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
        let stream = self.client.open(info.id, info.size - CHECKSUM_LEN, CHECKSUM_LEN).await?;
        let theirs: Vec<Bytes> = stream.try_collect().await?;
        Ok(Some(theirs.concat() == ours))
    }

    /// Writes a snapshot of the present position, even if there is one.
    pub(crate) async fn snapshot(&mut self, capture: &SharedCapture) -> Result<Txid> {
        self.store_image(capture, ImageKind::Snapshot, true).await
    }

    /// Streams the whole database into the replica: to level 9, or to level 0 as a
    /// delta that holds every page.
    async fn store_image(&mut self, capture: &SharedCapture, kind: ImageKind, at_level_9: bool) -> Result<Txid> {
        let frozen = with(capture, move |capture| capture.freeze_image(kind)).await?;
        let txid = frozen.txid;
        self.attempted = self.attempted.max(Some(txid));
        let id = if at_level_9 {
            FileId { level: Level::SNAPSHOT, min: Txid::FIRST, max: txid }
        } else {
            FileId { level: Level::L0, min: txid, max: txid }
        };
        let mode = if kind == ImageKind::Snapshot { WriteMode::Overwrite } else { WriteMode::CreateOnly };
        let stored = self.stream_image(frozen, id, mode).await;
        let sums = match stored {
            Ok(sums) => sums,
            Err(err) => {
                if matches!(kind, ImageKind::Rebase { .. }) {
                    with(capture, |capture| {
                        capture.lose_base("the image could not be stored");
                        Ok(())
                    })
                    .await?;
                }
                return Err(err);
            }
        };
        with(capture, move |capture| {
            if matches!(kind, ImageKind::Rebase { .. }) {
                capture.adopt_sums(sums)?;
            }
            let newest = capture.txid();
            let has_file = newest.is_some_and(|newest| capture.l0_txids().is_ok_and(|files| files.contains(&newest)));
            if has_file { Ok(()) } else { capture.write_anchor() }
        })
        .await?;
        Ok(txid)
    }

    async fn stream_image(&self, mut frozen: Frozen, id: FileId, mode: WriteMode) -> Result<Option<PageSums>> {
        let header = frozen.header(id.min);
        let (timestamp, len) = (header.timestamp, frozen.len());
        tracing::info!(replica = self.client.kind(), level = id.level.get(), txid = %id.max, db_size = len, "storing image of the database");
        let (mut writer, chunks) = chunks(IMAGE_CHUNKS);
        let encoder = tokio::task::spawn_blocking(move || {
            let (_, sums) = frozen.encode(header, &mut writer)?;
            // Nobody listens when the store failed first; its error is the one that
            // is reported.
            if writer.finish().is_err() {
                tracing::trace!("image reader is gone");
            }
            Ok::<_, Error>(sums)
        });
        let request = WriteRequest { id, timestamp, mode, body: Body::Stream(chunks) };
        let written = self.client.write(request).await;
        let encoded = encoder.await.map_err(|err| Error::with_source(ErrorKind::Transient, "encode image", err))?;
        match written {
            Ok(info) => {
                let sums = encoded?;
                tracing::info!(replica = self.client.kind(), level = id.level.get(), txid = %id.max, size = info.size, "snapshot complete");
                Ok(sums)
            }
            Err(err) => {
                // When the encoder failed, its error is the cause of this one. When
                // the store failed, the encoder merely lost its reader.
                match encoded {
                    Err(cause) if err.kind() == ReplicaErrorKind::Cancelled => Err(cause),
                    _ => Err(second_writer(err, id, &self.client.location())),
                }
            }
        }
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

fn second_writer(err: litestream_replica::Error, id: FileId, location: &str) -> Error {
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
/// Encoded runs waiting for the store.
const IMAGE_CHUNKS: usize = 4;
