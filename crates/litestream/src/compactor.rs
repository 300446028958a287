//! Merges stored files into one of a higher level.
//!
//! An executor only: which files, and when, is the scheduler's business. It says
//! which input is to blame when it fails, so that the scheduler can heal.
//!
//! Rules that must never break: nothing is visible in the store before every
//! input is verified to its last byte and is what its name says; and on failure
//! or when the future is dropped, the merging thread ends, all inputs are closed
//! and the staging file is gone.
//!
//! Spec: store-and-restore §7, ltx §9.

mod fault;
mod input;
mod scratch;
mod staging;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use litestream_replica::{
    Body, ErrorKind as ReplicaErrorKind, FileId, FileInfo, ReplicaClient, WriteMode, WriteRequest,
};
use ltx::{FileName, Merge, MergeLimits, MergeOptions, Spill};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) use self::fault::{Fault, Problem};

use self::fault::Culprits;
use self::input::{Input, Inputs};
use self::staging::Staging;
use crate::chunks::chunks;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind};

/// One file to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// On local disk, under its own name. To be preferred: some stores show an
    /// object before all of its bytes can be read.
    Local(PathBuf),
    /// In the store, as listed.
    Remote(FileInfo),
}

/// One compaction.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The file to make. Its range is from the first input's start to the last
    /// one's end.
    pub(crate) into: FileId,
    /// Oldest first, each reaching further than the one before, without holes.
    pub(crate) inputs: Vec<Source>,
    /// Where a local copy of the result goes, for the next level's compaction. The
    /// upload then reads that copy, so that it can be tried again; without it the
    /// result is streamed. Not flushed to the disk: a crash may leave a damaged
    /// copy, which the next merge finds out.
    pub(crate) staging: Option<PathBuf>,
    /// Directory for temporary files, made when it is missing. They have no name
    /// while they are in use.
    pub(crate) scratch: PathBuf,
    /// The disk that copy is on.
    pub(crate) disk: Disk,
    /// Inputs that may be open at once, at most [`FAN_IN`].
    pub(crate) fan_in: usize,
}

/// Merges the inputs and stores the result, create-only.
///
/// The output depends on the inputs alone, so a second try after a lost
/// acknowledgement meets its own object and succeeds. Cancel-safe: when the future
/// is dropped nothing becomes visible, and the merging thread ends at its next
/// read or write.
///
/// # Errors
/// [`Fault::Input`] names the first input found missing, damaged or unreadable;
/// [`Fault::Hole`] two neighbours that do not join; [`Fault::Unfit`] inputs that
/// make no sound file together; everything else, such as a failed upload, is
/// [`Fault::Other`].
pub(crate) async fn compact(client: &Arc<dyn ReplicaClient>, job: Job) -> Result<FileInfo, Fault> {
    let cancel = CancellationToken::new();
    let _stop_thread = cancel.clone().drop_guard();
    let Job { into, inputs, staging, scratch, disk, fan_in } = job;
    let inputs = Inputs::new(Arc::clone(client), inputs, fan_in, cancel);
    match staging {
        Some(path) => staged(client, into, inputs, (path, disk), scratch).await,
        None => streamed(client, into, inputs, scratch).await,
    }
}

/// Merges into a local file, then uploads that.
async fn staged(
    client: &Arc<dyn ReplicaClient>,
    into: FileId,
    inputs: Inputs,
    (path, disk): (PathBuf, Disk),
    scratch: PathBuf,
) -> Result<FileInfo, Fault> {
    let merged = tokio::task::spawn_blocking(move || {
        let (staging, file) = Staging::create(path, disk)?;
        let merging = Merging::open(inputs, into, scratch)?;
        let timestamp = merging.timestamp();
        merging.write(file)?;
        Ok::<_, Fault>((staging, timestamp))
    });
    let (staging, timestamp) = merged.await.map_err(thread_failed)??;
    let body = Body::File(staging.unfinished().to_owned());
    let stored = store(client, into, timestamp, body).await?;
    staging.keep();
    Ok(stored)
}

/// Merges into the upload.
async fn streamed(
    client: &Arc<dyn ReplicaClient>,
    into: FileId,
    inputs: Inputs,
    scratch: PathBuf,
) -> Result<FileInfo, Fault> {
    let (mut writer, stream) = chunks(CHUNKS);
    let (opened, timestamp) = oneshot::channel();
    let merged = tokio::task::spawn_blocking(move || {
        let merging = Merging::open(inputs, into, scratch)?;
        // Refused only when the caller is gone, which the next read will find out.
        let _ = opened.send(merging.timestamp());
        merging.write(&mut writer)?;
        writer.finish().map_err(|err| Fault::Other(Error::io("send merged file", err)))
    });
    // Not sent when opening failed; the thread says why.
    let Ok(timestamp) = timestamp.await else {
        merged.await.map_err(thread_failed)??;
        return Err(Fault::Other(Error::new(ErrorKind::Transient, "merge ended without a word")));
    };
    let stored = store(client, into, timestamp, Body::Stream(stream)).await;
    let merged = merged.await.map_err(thread_failed)?;
    match (stored, merged) {
        (stored, Ok(())) => stored,
        (Err(Fault::Other(err)), Err(Fault::Other(cause))) if err.kind() != ErrorKind::Cancelled => {
            // The merge merely lost its reader.
            tracing::trace!(%cause, "merge ended with its upload");
            Err(Fault::Other(err))
        }
        // The upload merely lost its writer.
        (_, Err(fault)) => Err(fault),
    }
}

async fn store(
    client: &Arc<dyn ReplicaClient>,
    id: FileId,
    timestamp: Timestamp,
    body: Body,
) -> Result<FileInfo, Fault> {
    let request = WriteRequest { id, timestamp, mode: WriteMode::CreateOnly, body };
    client.write(request).await.map_err(|err| match err.kind() {
        ReplicaErrorKind::Conflict => Fault::Other(Error::with_source(
            ErrorKind::Setup,
            format!("{} already holds another {id}: a second writer uses this replica", client.location()),
            err,
        )),
        _ => Fault::Other(Error::from(err)),
    })
}

/// A merge whose inputs are open and have sound headers.
struct Merging {
    merge: Merge<Input>,
    culprits: Culprits,
}

impl Merging {
    fn open(inputs: Inputs, into: FileId, scratch: PathBuf) -> Result<Self, Fault> {
        let names = inputs.names()?;
        let fan_in = inputs.fan_in();
        let (inputs, culprits) = inputs.open();
        let limits = MergeLimits { fan_in, spill: Spill::new(move || scratch::temporary_file(&scratch)) };
        let options = MergeOptions { names: &names, limits: Some(&limits) };
        let merge = Merge::with_options(inputs, options).map_err(|err| culprits.fault(err))?;
        let found = merge.header().name();
        if found != into.name() {
            let problem = format!("compact into {into}: inputs make {found}");
            return Err(Fault::Unfit(Error::new(ErrorKind::Corrupt, problem)));
        }
        Ok(Self { merge, culprits })
    }

    fn timestamp(&self) -> Timestamp {
        self.merge.header().timestamp
    }

    fn write(self, out: impl Write) -> Result<(), Fault> {
        let summary = self.merge.write_to(out).map_err(|err| self.culprits.fault(err))?;
        for warning in summary.warnings {
            tracing::warn!(?warning, "odd input of a compaction");
        }
        Ok(())
    }
}

impl Source {
    /// The range that the file's name gives.
    fn name(&self) -> Result<FileName, Fault> {
        match self {
            Self::Remote(info) => Ok(info.id.name()),
            Self::Local(path) => {
                let name = path.file_name().and_then(|name| name.to_str()).and_then(FileName::parse);
                name.ok_or_else(|| {
                    let problem = format!("compact {}: not the name of an ltx file", path.display());
                    Fault::Unfit(Error::new(ErrorKind::Setup, problem))
                })
            }
        }
    }
}

fn thread_failed(err: tokio::task::JoinError) -> Fault {
    Fault::Other(Error::with_source(ErrorKind::Transient, "merge files", err))
}

/// Chunks between merge and store, of 64 KiB each.
const CHUNKS: usize = 4;
/// Inputs open at once. Each holds a file, a page and a buffer of 32 KiB or one
/// frame: 10 MiB in all with pages of 4 KiB, 25 MiB with the largest. More inputs
/// than this, after a long outage, are merged in parts.
pub(crate) const FAN_IN: usize = 128;

#[cfg(test)]
mod tests;
