//! Writes a file in page order, front to back, without seeking.
//!
//! Nothing that breaks an ordering rule reaches the writer, and a snapshot that
//! lacks a page cannot be finished. A file is valid only once
//! [`Encoder::finish`] has returned.
//!
//! Spec: ltx §3.2, §4.2, §6.2.

use std::io::{BufWriter, Write};

use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::page_order::PageOrder;
use crate::run::{EncodedRun, RunEncoder};
use crate::spill::GrowingIndex;
use crate::trailer::validate_post_apply;
use crate::{Checksum, Footer, Header, Pgno, Spill, Summary, Trailer, frame};

/// Writes one file.
///
/// Output is buffered inside; the writer sees few and large writes. Memory: the
/// buffer, and the finished part of the index: some ten bytes a page, or at most
/// 1 MiB with [`Encoder::spill_to`].
pub struct Encoder<W> {
    writer: W,
    header: Header,
    order: PageOrder,
    pending: RunEncoder,
    spent: EncodedRun,
    hasher: Hasher,
    index: GrowingIndex,
    page_count: u64,
    failed: bool,
}

impl<W: Write> Encoder<W> {
    /// Validates the header and writes it.
    ///
    /// # Errors
    /// The first header rule broken, before anything is written;
    /// [`Error::CommitZero`]; [`Error::Write`].
    pub fn new(mut writer: W, header: Header) -> Result<Self> {
        header.validate()?;
        if header.commit == 0 {
            return Err(Error::CommitZero);
        }
        let bytes = header.encode();
        writer.write_all(&bytes).map_err(Error::Write)?;
        let mut hasher = Hasher::new();
        hasher.update(&bytes);
        Ok(Self {
            writer,
            order: PageOrder::new(&header),
            pending: RunEncoder::new(header.page_size),
            spent: EncodedRun::default(),
            header,
            hasher,
            index: GrowingIndex::new(),
            page_count: 0,
            failed: false,
        })
    }

    /// Keeps the index of a large file in temporary storage instead of in memory.
    #[must_use]
    pub fn spill_to(mut self, spill: Spill) -> Self {
        self.index.spill_to(spill);
        self
    }

    /// Lets a snapshot have holes: this file is one part of a merge, and a later
    /// part may fill them.
    pub(crate) fn allow_holes(mut self) -> Self {
        self.order = PageOrder::allowing_holes(&self.header);
        self
    }

    /// The header written.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Compresses and writes the next page.
    ///
    /// # Errors
    /// The ordering rule broken (spec: ltx §4.2), [`Error::BufferSize`], or
    /// [`Error::Write`]. After any error the encoder refuses to go on.
    pub fn encode_page(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        self.attempt(|this| {
            this.order.check(pgno)?;
            this.pending.push(pgno, page)?;
            this.flush_when_large()
        })
    }

    /// Writes the next page from a frame in block encoding, verbatim; see
    /// [`RunEncoder::push_encoded`].
    ///
    /// # Errors
    /// As [`Encoder::encode_page`] and [`RunEncoder::push_encoded`].
    pub fn copy_frame(&mut self, pgno: Pgno, frame: &[u8], page: &[u8]) -> Result<()> {
        self.attempt(|this| {
            this.order.check(pgno)?;
            this.pending.push_encoded(frame, page)?;
            this.flush_when_large()
        })
    }

    /// Writes the next pages, encoded elsewhere.
    ///
    /// # Errors
    /// As [`Encoder::encode_page`], for each page of the run.
    pub fn append_run(&mut self, run: EncodedRun) -> Result<()> {
        self.attempt(|this| {
            for (pgno, _) in &run.frames {
                this.order.check(*pgno)?;
            }
            this.flush()?;
            this.write_run(&run)
        })
    }

    /// Writes everything that follows the pages and flushes the writer.
    ///
    /// `post_apply` is [`Checksum::NONE`] for a header with `NO_CHECKSUM`, else
    /// the database checksum after the file, which is not verified here.
    ///
    /// # Errors
    /// [`Error::SnapshotShort`] when a snapshot lacks its last pages, a rule of
    /// spec §6.2, [`Error::Write`], or [`Error::Spill`]. What was written so far is then no file.
    pub fn finish(mut self, post_apply: Checksum) -> Result<(W, Summary)> {
        self.attempt(|this| {
            this.order.finish()?;
            validate_post_apply(post_apply, &this.header)?;
            this.flush()
        })?;
        let index_offset = self.index.next_offset() + frame::END.len() as u64;
        // What follows the pages of a small file goes out in one write.
        let mut tail = BufWriter::new(&mut self.writer);
        tail.write_all(&frame::END).map_err(Error::Write)?;
        let index = self.index.write_to(&mut tail)?;

        self.hasher.update(&frame::END);
        self.hasher.append(index);
        self.hasher.update(&index.len().to_be_bytes());
        self.hasher.update(&post_apply.get().to_be_bytes());
        let trailer = Trailer { post_apply, file: self.hasher.digest().finish() };
        let mut footer = [0; Footer::TAIL_LEN];
        if let Some((index_len, rest)) = footer.split_first_chunk_mut() {
            *index_len = index.len().to_be_bytes();
            rest.copy_from_slice(&trailer.encode());
        }
        tail.write_all(&footer).map_err(Error::Write)?;
        tail.flush().map_err(Error::Write)?;
        drop(tail);
        let summary = Summary {
            header: self.header,
            trailer,
            size: index_offset + index.len() + footer.len() as u64,
            page_count: self.page_count,
            warnings: Vec::new(),
        };
        Ok((self.writer, summary))
    }

    fn flush_when_large(&mut self) -> Result<()> {
        if self.pending.len() < WRITE_LEN { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let run = self.pending.finish_reusing(std::mem::take(&mut self.spent));
        self.write_run(&run)?;
        self.spent = run;
        Ok(())
    }

    fn write_run(&mut self, run: &EncodedRun) -> Result<()> {
        for (pgno, frame_len) in &run.frames {
            self.index.push(*pgno, *frame_len)?;
        }
        self.hasher.append(run.digest);
        self.page_count += run.frames.len() as u64;
        self.writer.write_all(&run.bytes).map_err(Error::Write)
    }

    /// A failed step may have left half a frame behind; no step may follow it.
    fn attempt(&mut self, step: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.failed {
            return Err(Error::Poisoned);
        }
        let result = step(self);
        self.failed = result.is_err();
        result
    }
}

/// What one write hands over, at least, except the last.
const WRITE_LEN: usize = 64 * 1024;
