//! Frames encoded apart from a file: the unit of parallel encoding.
//!
//! Compression and checksums depend on the pages alone, so runs of pages can be
//! encoded on several threads and appended to one file in order.

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::frame::{self, Extent};
use crate::lz4::Compressor;
use crate::{PageSize, Pgno};

/// Frames of ascending pages, ready to be written.
#[derive(Clone, Debug, Default)]
pub struct EncodedRun {
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<(Pgno, u32)>,
    pub(crate) digest: Digest,
}

impl EncodedRun {
    /// The frames, back to back.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Page and frame length of each frame, in order.
    pub fn frames(&self) -> &[(Pgno, u32)] {
        &self.frames
    }

    /// What the file checksum covers of these frames.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// True when the run holds no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// Encodes pages into [`EncodedRun`]s.
///
/// Keeps a compressor table of 256 KiB; use one encoder for many runs.
pub struct RunEncoder {
    page_size: PageSize,
    compressor: Compressor,
    run: EncodedRun,
    hasher: Hasher,
}

impl RunEncoder {
    /// For pages of `page_size`.
    pub fn new(page_size: PageSize) -> Self {
        Self { page_size, compressor: Compressor::new(), run: EncodedRun::default(), hasher: Hasher::new() }
    }

    /// Compresses `page` into a frame at the end of the run.
    ///
    /// # Errors
    /// [`Error::BufferSize`] when `page` is not one page long. The order of pages
    /// is checked when the run is appended to a file.
    pub fn push(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        frame::require_page(page, self.page_size)?;
        let head_at = self.run.bytes.len();
        self.run.bytes.extend_from_slice(&frame::block_head(pgno, 0));
        let payload_at = self.run.bytes.len();
        self.compressor.compress(page, &mut self.run.bytes);
        let payload_len = self.run.bytes.len() - payload_at;
        #[allow(clippy::cast_possible_truncation, reason = "a block of a page is at most 65809 bytes")]
        let (payload_len, frame_len) = (payload_len as u32, (frame::BLOCK_HEAD_LEN + payload_len) as u32);
        let head = frame::block_head(pgno, payload_len);
        if let Some(placeholder) = self.run.bytes.get_mut(head_at..payload_at) {
            placeholder.copy_from_slice(&head);
        }
        self.record(pgno, frame_len, &head, page);
        Ok(())
    }

    /// Copies a frame in block encoding as it is.
    ///
    /// `page` is what the frame decodes to, which the caller has verified: the
    /// file checksum is made from it.
    ///
    /// # Errors
    /// [`Error::BufferSize`] when `page` is not one page long, and any error of
    /// the frame's head; [`Error::PageFlags`] for the frame encoding, which is
    /// never written.
    pub fn push_encoded(&mut self, frame: &[u8], page: &[u8]) -> Result<()> {
        frame::require_page(page, self.page_size)?;
        let found = match frame::extent(frame, self.page_size)? {
            Extent::Frame(found) => found,
            Extent::End => return Err(Error::PgnoRequired),
            Extent::Need(_) => return Err(Error::Truncated { part: "page frame" }),
        };
        if !found.is_block() {
            return Err(Error::PageFlags { flags: 0 });
        }
        if found.len < frame.len() {
            return Err(Error::FrameTrailingBytes { pgno: found.pgno.get() });
        }
        let head = frame.get(..found.head_len).ok_or(Error::Truncated { part: "page frame" })?;
        if frame.len() < found.len {
            return Err(Error::Truncated { part: "page frame" });
        }
        self.run.bytes.extend_from_slice(frame);
        #[allow(clippy::cast_possible_truncation, reason = "extent bounds the length of a frame")]
        self.record(found.pgno, found.len as u32, head, page);
        Ok(())
    }

    /// Bytes encoded since the last [`RunEncoder::finish`].
    pub fn len(&self) -> usize {
        self.run.bytes.len()
    }

    /// True when nothing was pushed since the last [`RunEncoder::finish`].
    pub fn is_empty(&self) -> bool {
        self.run.is_empty()
    }

    /// Ends the run and starts the next.
    pub fn finish(&mut self) -> EncodedRun {
        self.finish_reusing(EncodedRun::default())
    }

    /// As [`RunEncoder::finish`]; the next run uses the memory of `spent`.
    pub fn finish_reusing(&mut self, mut spent: EncodedRun) -> EncodedRun {
        spent.bytes.clear();
        spent.frames.clear();
        let mut run = std::mem::replace(&mut self.run, spent);
        run.digest = std::mem::replace(&mut self.hasher, Hasher::new()).digest();
        run
    }

    fn record(&mut self, pgno: Pgno, frame_len: u32, head: &[u8], page: &[u8]) {
        self.hasher.update(head);
        self.hasher.update(page);
        self.run.frames.push((pgno, frame_len));
    }
}
