//! Bodies of uploads, cut into the parts that stores take one by one.
//!
//! A part is in memory while it is sent, so that it can be sent again. What was
//! sent is remembered as digests: enough to tell whether an object that already
//! has the name is the same.

#![cfg_attr(
    not(all(feature = "s3", feature = "abs", feature = "gs")),
    allow(dead_code, reason = "each store uses its own part of what they share")
)]

use std::io::Read;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};

use crate::file::blocking;
use crate::{Body, ByteStream, Error, Result};

/// The body as a supply of parts.
pub(crate) struct Source {
    pub(crate) known_len: Option<u64>,
    supply: Supply,
}

enum Supply {
    Bytes(Bytes),
    File(std::fs::File),
    Stream { stream: ByteStream, rest: Bytes },
    End,
}

impl Source {
    pub(crate) async fn open(body: Body) -> Result<Self> {
        Ok(match body {
            Body::Bytes(bytes) => Self { known_len: Some(bytes.len() as u64), supply: Supply::Bytes(bytes) },
            Body::Stream(stream) => Self { known_len: None, supply: Supply::Stream { stream, rest: Bytes::new() } },
            Body::File(path) => {
                blocking(move || {
                    let describe = |e| Error::io(format!("open {}", path.display()), e);
                    let file = std::fs::File::open(&path).map_err(describe)?;
                    let len = file.metadata().map_err(describe)?.len();
                    Ok(Self { known_len: Some(len), supply: Supply::File(file) })
                })
                .await?
            }
        })
    }

    /// The next `len` bytes; fewer only at the end.
    pub(crate) async fn next(&mut self, len: u64) -> Result<Bytes> {
        let wanted = usize::try_from(len).unwrap_or(usize::MAX);
        match std::mem::replace(&mut self.supply, Supply::End) {
            Supply::End => Ok(Bytes::new()),
            Supply::Bytes(mut bytes) => {
                let part = bytes.split_to(wanted.min(bytes.len()));
                self.supply = Supply::Bytes(bytes);
                Ok(part)
            }
            Supply::File(mut file) => {
                let (part, file) = blocking(move || {
                    let mut part = Vec::new();
                    (&mut file)
                        .take(len)
                        .read_to_end(&mut part)
                        .map_err(|e| Error::io("read local file for upload", e))?;
                    Ok((Bytes::from(part), file))
                })
                .await?;
                self.supply = Supply::File(file);
                Ok(part)
            }
            Supply::Stream { mut stream, mut rest } => {
                let mut part = BytesMut::new();
                loop {
                    let taken = rest.split_to(rest.len().min(wanted - part.len()));
                    if part.is_empty() && taken.len() == wanted {
                        self.supply = Supply::Stream { stream, rest };
                        return Ok(taken);
                    }
                    part.extend_from_slice(&taken);
                    if part.len() == wanted {
                        self.supply = Supply::Stream { stream, rest };
                        return Ok(part.freeze());
                    }
                    match stream.next().await {
                        Some(data) => rest = data?,
                        None => return Ok(part.freeze()),
                    }
                }
            }
        }
    }

    /// All the rest as digests, for a comparison without an upload.
    pub(crate) async fn pieces(&mut self, first: Bytes, sizes: PartSizes) -> Result<Vec<Piece>> {
        let mut pieces = vec![Piece::of(&first)];
        loop {
            let part = self.next(sizes.size(1)).await?;
            if part.is_empty() {
                return Ok(pieces);
            }
            pieces.push(Piece::of(&part));
        }
    }
}

/// What a store allows of one upload.
#[derive(Clone, Copy)]
pub(crate) struct PartLimits {
    /// Parts in all.
    pub(crate) max_parts: usize,
    /// Bytes of one part.
    pub(crate) max_size: u64,
}

/// How large each part is, so that as many as are allowed are enough.
#[derive(Clone, Copy)]
pub(crate) struct PartSizes {
    base: u64,
    grow: bool,
    limits: PartLimits,
}

impl PartSizes {
    /// Sizes for a body of `known_len` bytes, or for one without end in sight.
    pub(crate) fn plan(limits: PartLimits, configured: u64, known_len: Option<u64>, equal_parts: bool) -> Self {
        match known_len {
            Some(len) => Self { base: configured.max(len.div_ceil(limits.max_parts as u64)), grow: false, limits },
            None => Self { base: configured, grow: !equal_parts, limits },
        }
    }

    /// Bytes of part `number`, counted from one. Of a body of unknown length,
    /// each further tenth of the parts allowed is twice as large: 5 MiB parts
    /// then reach S3's limits.
    pub(crate) fn size(self, number: usize) -> u64 {
        let step = (self.limits.max_parts / 10).max(1);
        let doublings = if self.grow { number.saturating_sub(1) / step } else { 0 };
        self.base.saturating_mul(1 << doublings.min(10)).min(self.limits.max_size)
    }
}

/// A stretch of the file as it was sent.
pub(crate) struct Piece {
    pub(crate) len: u64,
    pub(crate) sha256: [u8; 32],
}

impl Piece {
    pub(crate) fn of(body: &[u8]) -> Self {
        Self { len: body.len() as u64, sha256: Sha256::digest(body).into() }
    }
}

pub(crate) fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.len).sum()
}

/// Whether a stored object is these pieces, no less and no more.
pub(crate) async fn holds_same(mut existing: ByteStream, pieces: &[Piece]) -> Result<bool> {
    let mut rest = Bytes::new();
    for piece in pieces {
        let mut digest = Sha256::new();
        let mut missing = piece.len;
        while missing > 0 {
            if rest.is_empty() {
                match existing.next().await {
                    Some(data) => rest = data?,
                    None => return Ok(false),
                }
            }
            let len = usize::try_from(missing).unwrap_or(usize::MAX).min(rest.len());
            digest.update(rest.split_to(len));
            missing -= len as u64;
        }
        if digest.finalize()[..] != piece.sha256 {
            return Ok(false);
        }
    }
    while rest.is_empty() {
        match existing.next().await {
            Some(data) => rest = data?,
            None => return Ok(true),
        }
    }
    Ok(false)
}

/// One error for all keys that were not deleted; the log names the first few.
#[cfg(any(feature = "abs", feature = "gs", feature = "webdav", feature = "oss", feature = "nats", feature = "sftp"))]
pub(crate) fn deleted(results: Vec<(String, Result<()>)>) -> Result<()> {
    let mut refused: Vec<(String, Error)> =
        results.into_iter().filter_map(|(key, result)| Some((key, result.err()?))).collect();
    refused.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    for (key, error) in refused.iter().take(LOGGED) {
        tracing::warn!(key, %error, "delete object failed");
    }
    if refused.len() > LOGGED {
        tracing::warn!(count = refused.len() - LOGGED, "additional delete errors suppressed");
    }
    // What passes by itself does so only if all of it does.
    let lasting = refused.iter().find(|(_, error)| !error.is_retryable()).or(refused.first());
    let Some((_, first)) = lasting else { return Ok(()) };
    let mut text = "failed to delete files:".to_owned();
    for (key, error) in refused.iter().take(REPORTED) {
        text.push_str(&format!("\n{key}: {error}"));
    }
    Err(Error::new(first.kind(), text))
}

#[cfg(any(feature = "abs", feature = "gs", feature = "webdav", feature = "oss", feature = "nats", feature = "sftp"))]
const LOGGED: usize = 5;
#[cfg(any(feature = "abs", feature = "gs", feature = "webdav", feature = "oss", feature = "nats", feature = "sftp"))]
const REPORTED: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 5 << 20;
    const LIMITS: PartLimits = PartLimits { max_parts: 10_000, max_size: 5 << 30 };

    #[test]
    fn as_many_parts_as_are_allowed_are_enough() {
        let unknown = PartSizes::plan(LIMITS, BASE, None, false);
        assert_eq!(unknown.size(1), BASE);
        assert_eq!(unknown.size(1000), BASE);
        assert_eq!(unknown.size(1001), 2 * BASE);
        let all: u64 = (1..=LIMITS.max_parts).map(|number| unknown.size(number)).sum();
        assert!(all > 4 << 40, "{all}");

        let large = PartSizes::plan(LIMITS, BASE, Some(1 << 40), false);
        assert!(large.size(1) * LIMITS.max_parts as u64 >= 1 << 40);
        assert_eq!(large.size(9999), large.size(1));

        let equal = PartSizes::plan(LIMITS, BASE, None, true);
        assert_eq!(equal.size(9999), BASE);
    }

    fn stream_of(lens: &[usize]) -> ByteStream {
        let chunks: Vec<Result<Bytes>> = lens.iter().map(|&len| Ok(Bytes::from(vec![7; len]))).collect();
        Box::pin(futures_util::stream::iter(chunks))
    }

    #[tokio::test]
    async fn streams_are_cut_into_full_parts() {
        let mut source = Source::open(Body::Stream(stream_of(&[1, 4, 10, 0, 3, 8]))).await.unwrap();
        let mut lens = Vec::new();
        loop {
            match source.next(10).await.unwrap().len() {
                0 => break,
                len => lens.push(len),
            }
        }
        assert_eq!(lens, [10, 10, 6]);
    }

    #[tokio::test]
    async fn only_the_same_bytes_are_the_same() {
        let pieces = [Piece::of(&[7; 10]), Piece::of(&[7; 5])];
        for (lens, same) in [(&[4, 11][..], true), (&[15, 0], true), (&[14], false), (&[16], false), (&[], false)] {
            assert_eq!(holds_same(stream_of(lens), &pieces).await.unwrap(), same, "{lens:?}");
        }
        assert!(holds_same(stream_of(&[0]), &[Piece::of(b"")]).await.unwrap());
    }
}
