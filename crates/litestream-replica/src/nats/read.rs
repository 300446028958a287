//! Reads objects: whole ones checked against their digest, parts without what
//! stands before them.
//!
//! An object's chunks are messages of one subject in ascending order. Where its
//! writer promised chunks of one length, a range begins at the chunk that holds its
//! first byte: its message number is estimated from the description's, which comes
//! after the last chunk, and corrected by what the server then counts.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use sha2::{Digest, Sha256};

use super::api::Api;
use super::consume::{Consumer, Start};
use super::link::Session;
use super::object::{Meta, digest_text, same_digest};
use crate::{ByteStream, Error, ErrorKind, Result};

impl Api {
    /// Bytes `offset .. offset + len` of an object; `len == 0` means to the end.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is no such object;
    /// [`Corrupt`](ErrorKind::Corrupt) when chunks are missing.
    pub(super) async fn read(self: &Arc<Self>, object: &str, offset: u64, len: u64) -> Result<ByteStream> {
        let session = self.link.session().await?;
        let (meta, seq) = match self.meta(&session, object).await? {
            Some((meta, seq)) if !meta.deleted => (meta, seq),
            _ => return Err(Error::new(ErrorKind::NotFound, format!("read {object}: not found"))),
        };
        let end = if len == 0 { meta.size } else { offset.saturating_add(len).min(meta.size) };
        if offset >= end {
            return Ok(Box::pin(stream::empty()));
        }
        let range = Range { skip: offset, left: end - offset };
        let digest = (offset == 0 && end == meta.size).then(Sha256::new);
        if meta.chunks == 1 {
            return self.read_single(&session, meta, range, digest).await;
        }
        let reader = self.open_chunks(session, meta, seq, range, digest).await?;
        Ok(Box::pin(stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|bytes| (bytes, reader)))
        })))
    }

    /// One chunk is fetched by one request.
    async fn read_single(
        &self,
        session: &Session,
        meta: Meta,
        range: Range,
        digest: Option<Sha256>,
    ) -> Result<ByteStream> {
        let Some(message) = self.last_message(session, &self.bucket.chunks(&meta.nuid)).await? else {
            return Err(self.missing(session, &meta, 0).await);
        };
        let mut content = message.payload()?;
        if content.len() as u64 != meta.size {
            return Err(corrupt(&meta, &format!("{} bytes instead of {}", content.len(), meta.size)));
        }
        if let Some(mut digest) = digest {
            digest.update(&content);
            check(&meta, digest)?;
        }
        let content = range.cut(&mut content);
        Ok(Box::pin(stream::iter([Ok(content)])))
    }

    async fn open_chunks(
        self: &Arc<Self>,
        session: Session,
        meta: Meta,
        seq: u64,
        mut range: Range,
        digest: Option<Sha256>,
    ) -> Result<Reader> {
        let (first, wanted) = match meta.chunk_size() {
            Some(size) => {
                let first = range.skip / size;
                let wanted = (range.skip % size + range.left).div_ceil(size);
                range.skip %= size;
                (first, wanted)
            }
            None => (0, meta.chunks),
        };
        let needed = meta.chunks.saturating_sub(first);
        let consumer = self.position(&session, &meta, seq, needed).await?;
        // Another writer's messages may stand in between, so that the estimate was
        // too low; chunks before the first one are dropped as they come.
        let surplus = consumer.found.saturating_sub(needed);
        Ok(Reader {
            api: self.clone(),
            session,
            meta,
            range,
            digest,
            surplus,
            unasked: surplus.saturating_add(wanted),
            awaited: 0,
            consumer,
        })
    }

    /// A consumer that begins at or before the last `needed` chunks.
    async fn position(self: &Arc<Self>, session: &Session, meta: &Meta, seq: u64, needed: u64) -> Result<Consumer> {
        let subject = self.bucket.chunks(&meta.nuid);
        let mut start = if needed == meta.chunks { 1 } else { seq.saturating_sub(needed).max(1) };
        let mut step = needed;
        loop {
            let consumer = Consumer::create(self, session, &subject, Start::Sequence(start)).await?;
            if consumer.found >= needed {
                return Ok(consumer);
            }
            if start == 1 {
                return Err(self.missing(session, meta, consumer.found).await);
            }
            step = step.saturating_mul(4);
            start = start.saturating_sub(step).max(1);
        }
    }

    /// Why chunks are missing: their object was deleted or replaced meanwhile, or
    /// they are lost.
    async fn missing(&self, session: &Session, meta: &Meta, found: u64) -> Error {
        let name = &meta.name;
        match self.meta(session, name).await {
            Ok(Some((now, _))) if !now.deleted && now.nuid == meta.nuid => {
                corrupt(meta, &format!("{found} of {} chunks are there", meta.chunks))
            }
            Ok(Some((now, _))) if !now.deleted => {
                Error::new(ErrorKind::Transient, format!("read {name}: it was replaced meanwhile"))
            }
            Ok(_) => Error::new(ErrorKind::NotFound, format!("read {name}: it was deleted meanwhile")),
            Err(error) => error,
        }
    }
}

/// What of the bytes to come is wanted.
struct Range {
    skip: u64,
    left: u64,
}

impl Range {
    /// The part of a range's only chunk.
    fn cut(mut self, content: &mut Bytes) -> Bytes {
        self.take(content)
    }

    /// The wanted part of the next bytes.
    fn take(&mut self, content: &mut Bytes) -> Bytes {
        let within = |count: u64, len: usize| usize::try_from(count).unwrap_or(usize::MAX).min(len);
        let skipped = content.split_to(within(self.skip, content.len()));
        self.skip -= skipped.len() as u64;
        let taken = content.split_to(within(self.left, content.len()));
        self.left -= taken.len() as u64;
        taken
    }
}

/// An object on its way.
struct Reader {
    api: Arc<Api>,
    session: Session,
    meta: Meta,
    range: Range,
    digest: Option<Sha256>,
    /// Chunks to drop.
    surplus: u64,
    unasked: u64,
    awaited: u64,
    consumer: Consumer,
}

impl Reader {
    /// How many of the object's chunks have come.
    fn received(&self) -> u64 {
        self.meta.chunks.saturating_sub(self.unasked.saturating_add(self.awaited))
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.range.left == 0 {
                return Ok(None);
            }
            if self.awaited <= WINDOW / 2 && self.unasked > 0 {
                let count = self.unasked.min(WINDOW);
                self.consumer.request(count).await?;
                self.unasked -= count;
                self.awaited += count;
            }
            if self.awaited == 0 {
                return Err(corrupt(&self.meta, "its chunks are shorter than its size"));
            }
            let Some(delivery) = self.consumer.next().await? else {
                return Err(self.api.missing(&self.session, &self.meta, self.received()).await);
            };
            self.awaited -= 1;
            if self.surplus > 0 {
                self.surplus -= 1;
                continue;
            }
            let mut content = delivery.payload;
            if let Some(digest) = &mut self.digest {
                digest.update(&content);
            }
            let taken = self.range.take(&mut content);
            if self.range.left == 0
                && let Some(digest) = self.digest.take()
            {
                // The last byte is given only with all before it proven.
                check(&self.meta, digest)?;
            }
            if !taken.is_empty() {
                return Ok(Some(taken));
            }
        }
    }
}

fn check(meta: &Meta, digest: Sha256) -> Result<()> {
    let found = digest_text(digest);
    match &meta.digest {
        Some(noted) if !same_digest(noted, &found) => Err(corrupt(meta, "its content does not match its digest")),
        _ => Ok(()),
    }
}

fn corrupt(meta: &Meta, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("object {} in bucket {:?} is damaged: {what}", meta.name, meta.bucket))
}

/// Chunks on their way at most one and a half times this.
const WINDOW: u64 = 16;
