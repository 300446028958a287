//! What a writer needs, tried out on files of our own.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use ltx::Txid;

use super::{Findings, PROBE_DIR};
use crate::clock::Clock;
use crate::lease::{Condition, Removal, check_conditions};
use crate::{Body, ErrorKind, FileId, FileInfo, Level, ReplicaClient, Result, WriteMode, WriteRequest};

/// A place for probes that nobody else uses.
pub struct ProbeSite {
    own: Arc<dyn ReplicaClient>,
    all: Arc<dyn ReplicaClient>,
}

impl ProbeSite {
    /// `open` gives a client for a path below the replica's. `None` where that
    /// cannot be: then nothing may be written, for it could be taken for data.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn new<E>(open: impl Fn(&str) -> Result<Arc<dyn ReplicaClient>, E>) -> Result<Option<Self>, E> {
        let name = format!("{PROBE_DIR}/{:016x}", fastrand::u64(..));
        let site = Self { own: open(&name)?, all: open(PROBE_DIR)? };
        let is_apart = site.own.location().contains(&name) && site.all.location().contains(PROBE_DIR);
        Ok(is_apart.then_some(site))
    }

    pub(super) fn location(&self) -> String {
        self.own.location()
    }

    /// Each step says what it finds; later ones need what earlier ones wrote.
    pub(super) async fn run(&self, clock: &dyn Clock, findings: &mut Findings) {
        let (one, race) = (id(1), id(2));
        let content: Bytes = format!("litestream check, may be deleted: {:x}", fastrand::u128(..)).into();
        let began = clock.now();
        if let Err(error) = self.write(one, began, content.clone()).await {
            findings.failed("write", error.to_string());
            return;
        }
        let ended = clock.now();
        findings.ok("write", format!("took {} ms", ended.as_millisecond() - began.as_millisecond()));

        match self.own.list(Level::L0, Txid::NONE, false).await {
            Ok(files) if files.iter().any(|file| file.id == one && file.size == content.len() as u64) => {}
            Ok(_) => findings.failed("list", "a file just written is not listed, restores may miss transactions"),
            Err(error) => findings.failed("list", error.to_string()),
        }
        self.read_back(one, &content, findings).await;
        self.clock_of_store(began, ended, findings).await;
        self.create_only(one, race, began, findings).await;
        self.lease(findings).await;
        self.delete(&[one, race], findings).await;
    }

    /// Removes what this check wrote, and what interrupted ones left long ago.
    pub(super) async fn clean_up(&self, clock: &dyn Clock) -> Result<()> {
        self.own.delete_all().await?;
        let left = self.all.list_objects("").await?;
        let now = clock.now().as_second();
        if left.iter().all(|object| now - object.modified.as_second() > ABANDONED_SECONDS) {
            self.all.delete_all().await?;
        }
        Ok(())
    }

    async fn write(&self, id: FileId, timestamp: Timestamp, content: Bytes) -> Result<FileInfo> {
        let body = Body::Bytes(content);
        self.own.write(WriteRequest { id, timestamp, mode: WriteMode::CreateOnly, body }).await
    }

    async fn read(&self, id: FileId, offset: u64, len: u64) -> Result<Vec<u8>> {
        let chunks: Vec<Bytes> = self.own.open(id, offset, len).await?.try_collect().await?;
        Ok(chunks.concat())
    }

    async fn read_back(&self, id: FileId, content: &Bytes, findings: &mut Findings) {
        match self.read(id, 0, 0).await {
            Ok(read) if read == *content => findings.ok("read", "what was written comes back"),
            Ok(_) => findings.failed("read", "other bytes come back than were written"),
            Err(error) => findings.failed("read", error.to_string()),
        }
        match self.read(id, 11, 7).await {
            Ok(read) if Some(&*read) == content.get(11..18) => findings.ok("range", "parts of files can be read"),
            Ok(read) => findings.failed("range", format!("asked for 7 bytes and got {} others", read.len())),
            Err(error) => findings.failed("range", error.to_string()),
        }
    }

    /// Compares the store's time of the write with ours.
    async fn clock_of_store(&self, began: Timestamp, ended: Timestamp, findings: &mut Findings) {
        if matches!(self.own.kind(), "file" | "sftp") {
            findings.skipped("clock", "files get their times from this machine");
            return;
        }
        let modified = match self.own.list_objects("").await {
            Ok(objects) => objects.iter().map(|object| object.modified.as_second()).max(),
            Err(error) => return findings.degraded("clock", error.to_string()),
        };
        let Some(modified) = modified else {
            return findings.skipped("clock", "the store tells no time");
        };
        let ahead = if modified < began.as_second() {
            began.as_second() - modified
        } else {
            (ended.as_second() - modified).min(0)
        };
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        match ahead.unsigned_abs() {
            skew @ 0..=TOLERATED_SECONDS => findings.ok("clock", format!("within {} s of the store's", skew.max(1))),
            skew => findings.degraded(
                "clock",
                format!("this machine is {skew} s {side} the store; set its clock, restores by timestamp and signatures depend on it"),
            ),
        }
    }

    /// A file must never replace another; at best the store itself sees to that.
    async fn create_only(&self, taken: FileId, race: FileId, now: Timestamp, findings: &mut Findings) {
        match self.write(taken, now, Bytes::from_static(b"another")).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Ok(_) => return findings.failed("create-only", "an existing file was replaced, a second writer would too"),
            Err(error) => return findings.failed("create-only", error.to_string()),
        }
        let writers = (0..RACERS).map(|number| self.write(race, now, format!("writer {number}").into()));
        let results = join_all(writers).await;
        let winners = results.iter().filter(|result| result.is_ok()).count();
        let fault = results.into_iter().filter_map(Result::err).find(|error| error.kind() != ErrorKind::Conflict);
        match (winners, fault) {
            (1, None) => findings.ok("create-only", "of several writers at once one wins and the rest are refused"),
            (_, Some(error)) => findings.degraded("create-only", format!("cannot be tried: {error}")),
            _ => findings.degraded(
                "create-only",
                "the store has no conditional writes: litestream looks before it writes, but two writers at the same \
                 moment replace each other's files; let only one write here",
            ),
        }
    }

    /// Whether a lease could be held here.
    async fn lease(&self, findings: &mut Findings) {
        let Some(lock) = self.own.lock() else {
            return findings.skipped("lease", format!("not available for {} replicas", self.own.kind()));
        };
        let body = Bytes::from_static(b"{}");
        let tried = async {
            let Some(etag) = lock.put(body.clone(), Condition::Absent).await? else { return Ok(None) };
            check_conditions(&*lock, &body).await?;
            lock.remove(&etag).await.map(Some)
        };
        match tried.await {
            Ok(Some(Removal::Removed)) => findings.ok("lease", "works here"),
            Ok(_) => findings.degraded("lease", "conditions give odd answers, do not use a lease here"),
            Err(error) => findings.skipped("lease", format!("not available: {error}")),
        }
    }

    async fn delete(&self, files: &[FileId], findings: &mut Findings) {
        let deleted = async {
            self.own.delete(files).await?;
            // As retention may, after a lost answer.
            self.own.delete(files).await?;
            self.own.list(Level::L0, Txid::NONE, false).await
        };
        match deleted.await {
            Ok(left) if left.is_empty() => findings.ok("delete", "files can be deleted"),
            Ok(_) => findings.failed("delete", "deleted files are still listed"),
            Err(error) => findings.degraded(
                "delete",
                format!("old files stay for ever; allow deleting, or set retention.enabled to false: {error}"),
            ),
        }
    }
}

fn id(txid: u64) -> FileId {
    FileId { level: Level::L0, min: Txid::new(txid), max: Txid::new(txid) }
}

/// Writers of one name at the same moment.
const RACERS: u32 = 4;
/// Stores tell whole seconds, and the way there takes time.
const TOLERATED_SECONDS: u64 = 5;
/// No check takes as long as this.
const ABANDONED_SECONDS: i64 = 3600;
