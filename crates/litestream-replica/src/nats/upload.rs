//! Stores objects: chunks first, under an identity of their own, then the one
//! message that makes an object of them.
//!
//! Nothing is visible before that message, and it is refused if the name was
//! written meanwhile. Chunks of an attempt that failed are removed; those of one
//! whose outcome is unknown are never touched, because the object may be there.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::api::{Api, Stored};
use super::link::Session;
use super::object::{Meta, Upload, digest_text, new_nuid};
use crate::parts::Source;
use crate::retry::RetryPolicy;
use crate::{Body, Error, ErrorKind, Result, WriteMode};

impl Api {
    /// Stores `body` under a name and tells its size.
    ///
    /// A short body, or one that can be read again, is sent again after a
    /// transient failure; a long stream is not.
    pub(super) async fn write(
        self: &Arc<Self>,
        retry: RetryPolicy,
        object: &str,
        timestamp: Timestamp,
        mode: WriteMode,
        body: Body,
    ) -> Result<u64> {
        // A stream is begun only when it can be sent.
        retry.run("connect", || async { Ok(self.link.session().await.map(drop)?) }).await?;
        let body = match body {
            Body::Stream(mut stream) => {
                let mut start = Vec::new();
                loop {
                    match stream.next().await.transpose()? {
                        Some(bytes) => start.push(bytes),
                        None => break Body::Bytes(start.concat().into()),
                    }
                    if start.iter().map(Bytes::len).sum::<usize>() > REPEATED {
                        break Body::Stream(Box::pin(
                            futures_util::stream::iter(start.into_iter().map(Ok)).chain(stream),
                        ));
                    }
                }
            }
            body => body,
        };
        let attempt = |body: Body| async {
            let source = Source::open(body).await?;
            Ok(self.store(object, timestamp, mode, source).await?)
        };
        match body {
            Body::Bytes(bytes) => retry.run("write", || attempt(Body::Bytes(bytes.clone()))).await,
            Body::File(path) => retry.run("write", || attempt(Body::File(path.clone()))).await,
            stream @ Body::Stream(_) => {
                let source = Source::open(stream).await?;
                self.store(object, timestamp, mode, source).await
            }
        }
    }

    /// One attempt.
    async fn store(
        self: &Arc<Self>,
        object: &str,
        timestamp: Timestamp,
        mode: WriteMode,
        mut source: Source,
    ) -> Result<u64> {
        let session = self.link.session().await?;
        let mut existing = self.meta(&session, object).await?;
        if let (WriteMode::CreateOnly, Some((meta, _))) = (mode, &existing)
            && !meta.deleted
        {
            let (mut digest, mut size) = (Sha256::new(), 0);
            loop {
                let piece = source.next(CHUNK_SIZE).await?;
                if piece.is_empty() {
                    return same_or_conflict(meta, size, &digest_text(digest));
                }
                size += piece.len() as u64;
                digest.update(&piece);
            }
        }

        let mut chunks = self.send(&session, &mut source).await?;
        let meta = Meta::new(&self.bucket, object, timestamp, &chunks.upload);
        let mut attempts_left = CONFLICTS;
        loop {
            attempts_left -= 1;
            // Given up from here on, they may belong to a visible object.
            chunks.kept = true;
            let last = existing.as_ref().map_or(0, |(_, seq)| *seq);
            let Err(error) = self.publish_meta(&session, &meta, last).await else { break };
            chunks.kept = error.kind() == ErrorKind::Transient;
            if error.kind() != ErrorKind::Conflict || attempts_left == 0 {
                return Err(error);
            }
            existing = self.meta(&session, object).await?;
            if let (WriteMode::CreateOnly, Some((other, _))) = (mode, &existing)
                && !other.deleted
            {
                return same_or_conflict(other, meta.size, &chunks.upload.digest);
            }
        }
        if let Some((old, _)) = existing.filter(|(old, _)| old.nuid != meta.nuid && old.chunks > 0)
            && let Err(error) = self.purge(&session, &self.bucket.chunks(&old.nuid), None).await
        {
            tracing::warn!(object, %error, "replaced content could not be removed from the bucket");
        }
        Ok(meta.size)
    }

    /// Sends the chunks, several at a time, and sees each acknowledged in its turn.
    async fn send(self: &Arc<Self>, session: &Session, source: &mut Source) -> Result<Chunks> {
        let chunk_size = CHUNK_SIZE.min(session.max_payload() as u64);
        let mut chunks = Chunks::new(self, session, chunk_size).await?;
        let (mut digest, mut ended) = (Sha256::new(), false);
        loop {
            while !ended && chunks.upload.chunks - chunks.acknowledged < WINDOW {
                let chunk = source.next(chunk_size).await?;
                ended = (chunk.len() as u64) < chunk_size;
                if !chunk.is_empty() {
                    digest.update(&chunk);
                    chunks.send(chunk).await?;
                }
            }
            if chunks.acknowledged == chunks.upload.chunks {
                break;
            }
            chunks.next_answer().await?;
        }
        chunks.upload.digest = digest_text(digest);
        Ok(chunks)
    }

    /// Makes the object visible, if nobody wrote the name since message `last`.
    async fn publish_meta(&self, session: &Session, meta: &Meta, last: u64) -> Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        headers.insert("Nats-Expected-Last-Subject-Sequence", last.to_string());
        let payload = serde_json::to_vec(meta)
            .map_err(|e| Error::with_source(ErrorKind::Setup, format!("describe {}", meta.name), e))?;
        let subject = self.bucket.meta(&meta.name);
        match self.publish(session, "store description", &subject, headers, payload.into()).await {
            // Without an answer nobody knows whether the message arrived, or will.
            Err(error) if error.kind() == ErrorKind::Transient => {
                match self.meta(&self.link.session().await?, &meta.name).await {
                    Ok(Some((stored, _))) if stored.nuid == meta.nuid => Ok(()),
                    _ => Err(error),
                }
            }
            result => result,
        }
    }
}

/// Chunks that no object consists of yet; removed when dropped before one does.
struct Chunks {
    api: Arc<Api>,
    session: Session,
    upload: Upload,
    subject: String,
    inbox: String,
    answers: Subscriber,
    /// Chunks that are stored for certain, and the number of the last message.
    acknowledged: u64,
    sequence: u64,
    kept: bool,
}

impl Chunks {
    async fn new(api: &Arc<Api>, session: &Session, chunk_size: u64) -> Result<Self> {
        let upload = Upload { nuid: new_nuid(), size: 0, chunks: 0, chunk_size, digest: String::new() };
        let (subject, inbox) = (api.bucket.chunks(&upload.nuid), session.client.new_inbox());
        let answers = session.client.subscribe(format!("{inbox}.*")).await;
        let answers = answers.map_err(|e| Error::with_source(ErrorKind::Transient, session.describe(&subject), e))?;
        let (api, session) = (api.clone(), session.clone());
        Ok(Self { api, session, upload, subject, inbox, answers, acknowledged: 0, sequence: 0, kept: false })
    }

    async fn send(&mut self, chunk: Bytes) -> Result<()> {
        let reply = format!("{}.{}", self.inbox, self.upload.chunks);
        self.upload.size += chunk.len() as u64;
        self.upload.chunks += 1;
        let sent = self.session.client.publish_with_reply(self.subject.clone(), reply, chunk);
        self.session.wait(&self.subject, sent).await?.map_err(|e| self.fault(&e))
    }

    async fn next_answer(&mut self) -> Result<()> {
        let answer = self.session.wait(&self.subject, self.answers.next()).await?;
        let Some(answer) = answer else { return Err(self.fault(&"connection closed")) };
        if answer.status.is_some() {
            return Err(self.api.nobody("store chunk"));
        }
        let Stored { seq } = self.api.parse("store chunk", &answer.payload)?;
        // Chunks are read in the order of the stream: it must be ours.
        if answer.subject.as_str() != format!("{}.{}", self.inbox, self.acknowledged) || seq <= self.sequence {
            return Err(self.fault(&"chunks arrived out of order"));
        }
        (self.sequence, self.acknowledged) = (seq, self.acknowledged + 1);
        Ok(())
    }

    fn fault(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::new(ErrorKind::Transient, format!("{}: {cause}", self.session.describe(&self.subject)))
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if self.kept || self.upload.chunks == 0 {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (api, subject) = (self.api.clone(), std::mem::take(&mut self.subject));
        runtime.spawn(async move {
            if let Err(error) = api.discard(&subject).await {
                tracing::warn!(subject, %error, "unfinished upload could not be removed from the bucket");
            }
        });
    }
}

impl Api {
    /// Removes the chunks of an upload that was given up.
    async fn discard(&self, subject: &str) -> Result<()> {
        let mut rounds_left = DISCARDS;
        loop {
            rounds_left -= 1;
            let session = self.link.session().await?;
            self.purge(&session, subject, None).await?;
            // Chunks that were still on their way, or wait for the connection to
            // come back, are stored behind the removal.
            tokio::time::sleep(SETTLED_AFTER).await;
            if rounds_left == 0 || self.last_message(&session, subject).await?.is_none() {
                return Ok(());
            }
        }
    }
}

fn same_or_conflict(existing: &Meta, size: u64, digest: &str) -> Result<u64> {
    if existing.holds(size, digest) {
        return Ok(size);
    }
    Err(Error::new(ErrorKind::Conflict, format!("write {}: the name is taken by other content", existing.name)))
}

/// As every client's object store has them.
const CHUNK_SIZE: u64 = 128 << 10;
/// Chunks on their way at most.
const WINDOW: u64 = 16;
/// Streams up to this length are held, so that they can be sent again.
const REPEATED: usize = 1 << 20;
/// How often a name may change while it is written.
const CONFLICTS: u32 = 5;
/// How often the chunks of an upload that was given up are looked for, and how long
/// between.
const DISCARDS: u32 = 5;
const SETTLED_AFTER: Duration = Duration::from_secs(1);
