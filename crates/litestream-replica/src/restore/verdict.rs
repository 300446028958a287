//! Whether a file is what its checksum says, found out from parts that arrive in
//! any order.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ltx::{DatabaseChecksum, Digest, Header, Trailer};

use super::fault::Fault;
use crate::{FileInfo, Result};

/// Collects the digests of one file.
pub(super) struct Verdict {
    pub(super) info: FileInfo,
    pub(super) header: Header,
    parts: Mutex<Parts>,
}

/// What the chunks and the end of a file contribute.
struct Parts {
    /// Digest of header and chunks, as far as they are complete.
    joined: Digest,
    /// The chunk that comes next.
    next: u64,
    /// Chunks that arrived before it.
    early: BTreeMap<u64, Digest>,
    /// Sum of all pages so far; only used for a tracked snapshot.
    database: DatabaseChecksum,
    end: Option<End>,
}

/// The last bytes of a file, and how many chunks come before them.
struct End {
    chunk_count: u64,
    digest: Digest,
    trailer: Trailer,
}

impl Verdict {
    /// `head` is the digest of the header as stored.
    pub(super) fn new(info: FileInfo, header: Header, head: Digest) -> Self {
        let parts =
            Parts { joined: head, next: 0, early: BTreeMap::new(), database: DatabaseChecksum::new(), end: None };
        Self { info, header, parts: Mutex::new(parts) }
    }

    /// Whether the post-apply checksum covers exactly this file's pages.
    pub(super) fn sums_pages(&self) -> bool {
        self.header.is_snapshot() && !self.header.flags.no_checksum()
    }

    /// Adds chunk `number`. `pages` is the sum of its pages where
    /// [`sums_pages`](Self::sums_pages).
    ///
    /// # Errors
    /// A checksum mismatch, when this was the last part missing.
    pub(super) fn add_chunk(&self, number: u64, digest: Digest, pages: DatabaseChecksum) -> Result<(), Fault> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.early.insert(number, digest);
        parts.database.toggle(pages.value());
        self.judge(&mut parts)
    }

    /// Adds everything behind the last chunk: end marker, index with its size,
    /// post-apply checksum.
    ///
    /// # Errors
    /// As [`add_chunk`](Self::add_chunk).
    pub(super) fn add_end(&self, chunk_count: u64, digest: Digest, trailer: Trailer) -> Result<(), Fault> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.end = Some(End { chunk_count, digest, trailer });
        self.judge(&mut parts)
    }

    fn judge(&self, parts: &mut Parts) -> Result<(), Fault> {
        while let Some(digest) = parts.early.remove(&parts.next) {
            parts.joined = parts.joined.combine(digest);
            parts.next += 1;
        }
        let Some(End { digest, trailer, .. }) = parts.end.as_ref().filter(|end| end.chunk_count == parts.next) else {
            return Ok(());
        };
        if parts.joined.combine(*digest).finish() != trailer.file {
            return Err(Fault::corrupt(&self.info, ltx::Error::FileChecksumMismatch));
        }
        let computed = parts.database.value();
        if self.sums_pages() && computed != trailer.post_apply {
            let stored = trailer.post_apply;
            return Err(Fault::corrupt(&self.info, ltx::Error::PostApplyMismatch { stored, computed }));
        }
        Ok(())
    }
}
