//! Streams the whole database into its replica: to level 9, or to level 0 as a
//! delta that holds every page. Nothing is staged on local disk.
//!
//! Uploads of level 0 may go on meanwhile: the image stands for the transaction
//! that was the newest when it was frozen.

use litestream_replica::{
    Body, ErrorKind as ReplicaErrorKind, FileId, FileInfo, Level, ReplicaClient, WriteMode, WriteRequest,
};
use ltx::Txid;

use crate::capture::{Frozen, ImageKind};
use crate::chunks::chunks;
use crate::error::{Error, ErrorKind, Result};
use crate::page_sums::PageSums;
use crate::prefix::Prefix;
use crate::replica::{SharedCapture, second_writer, with};

/// Where an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As a snapshot that needs nothing before it.
    Snapshot,
    /// As the next transaction of the chain that is there.
    Level0,
}

/// Stores the present state of the database. Afterwards there is a level-0 file,
/// local at least, that carries the newest transaction: upstream takes its
/// position from level 0 alone.
///
/// # Errors
/// When there is nothing to freeze, or the store fails; nothing is visible then.
/// A rebase that failed leaves no base, so that it is tried again.
pub(crate) async fn store_image(
    prefix: &Prefix,
    capture: &SharedCapture,
    kind: ImageKind,
    place: Place,
) -> Result<FileInfo> {
    let frozen = freeze(prefix, capture, kind).await?;
    store_frozen(prefix, capture, kind, place, frozen).await
}

/// The moment that [`store_frozen`] stores.
///
/// # Errors
/// When there is nothing to freeze.
pub(crate) async fn freeze(prefix: &Prefix, capture: &SharedCapture, kind: ImageKind) -> Result<Frozen> {
    let frozen = with(capture, move |capture| capture.freeze_image(kind)).await?;
    // From here on this is the newest transaction, whether the image makes it
    // into the store or the level-0 file does.
    prefix.attempts(frozen.txid);
    Ok(frozen)
}

/// The second half of [`store_image`].
///
/// # Errors
/// As [`store_image`].
pub(crate) async fn store_frozen(
    prefix: &Prefix,
    capture: &SharedCapture,
    kind: ImageKind,
    place: Place,
    frozen: Frozen,
) -> Result<FileInfo> {
    let txid = frozen.txid;
    let id = match place {
        Place::Snapshot => FileId { level: Level::SNAPSHOT, min: Txid::FIRST, max: txid },
        Place::Level0 => FileId { level: Level::L0, min: txid, max: txid },
    };
    let mode = if kind == ImageKind::Snapshot { WriteMode::Overwrite } else { WriteMode::CreateOnly };
    let (info, sums) = match stream(prefix, frozen, id, mode).await {
        Ok(stored) => stored,
        Err(err) => {
            if matches!(kind, ImageKind::Rebase { .. }) {
                with(capture, |capture| {
                    capture.lose_image();
                    Ok(())
                })
                .await?;
            }
            return Err(err);
        }
    };
    with(capture, move |capture| {
        if matches!(kind, ImageKind::Rebase { .. }) {
            capture.image_arrived(sums)?;
        }
        let newest = capture.txid();
        let has_file = newest.is_some_and(|newest| capture.l0_txids().is_ok_and(|files| files.contains(&newest)));
        if has_file { Ok(()) } else { capture.write_anchor() }
    })
    .await?;
    Ok(info)
}

async fn stream(
    prefix: &Prefix,
    mut frozen: Frozen,
    id: FileId,
    mode: WriteMode,
) -> Result<(FileInfo, Option<PageSums>)> {
    let mut header = frozen.header(id.min);
    // The same state again, asked for by somebody or because its file is damaged:
    // with a younger time it could not stand for the moments since the first, and
    // retention may have left nothing else of them.
    let known = prefix.known().and_then(|inventory| inventory.files().iter().find(|file| file.id == id).copied());
    header.timestamp = known.map_or(header.timestamp, |known| known.created_at.min(header.timestamp));
    let timestamp = header.timestamp;
    tracing::debug!(replica = prefix.kind(), level = id.level.get(), txid = %id.max, db_size = frozen.len(), "storing image of the database");
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
    let written = prefix.write(request).await;
    let encoded = encoder.await.map_err(|err| Error::with_source(ErrorKind::Transient, "encode image", err))?;
    match written {
        Ok(info) => Ok((info, encoded?)),
        Err(err) => match encoded {
            // When the encoder failed, its error is the cause of this one. When
            // the store failed, the encoder merely lost its reader.
            Err(cause) if err.kind() == ReplicaErrorKind::Cancelled => Err(cause),
            _ => Err(second_writer(err, id, &prefix.location())),
        },
    }
}

/// Encoded runs waiting for the store.
const IMAGE_CHUNKS: usize = 4;
