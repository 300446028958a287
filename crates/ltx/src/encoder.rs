//! Writes a file in page order, front to back, without seeking.
//!
//! Nothing that breaks an ordering rule reaches the writer, and a snapshot that
//! lacks a page cannot be finished. A file is valid only once
//! [`Encoder::finish`] has returned.
//!
//! Spec: ltx §3.2, §4.2, §6.2.

use std::io::Write;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::index::{IndexBuilder, TERMINATOR};
use crate::page_order::PageOrder;
use crate::run::{EncodedRun, RunEncoder};
use crate::trailer::validate_post_apply;
use crate::{Checksum, Header, Pgno, Summary, Trailer, frame};

/// Writes one file.
///
/// Output is buffered inside; the writer sees few and large writes. Memory: the
/// buffer, and the finished part of the index, some ten bytes a page.
pub struct Encoder<W> {
    writer: W,
    header: Header,
    order: PageOrder,
    pending: RunEncoder,
    spent: EncodedRun,
    hasher: Hasher,
    index_builder: IndexBuilder,
    index: Vec<u8>,
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
            index_builder: IndexBuilder::new(),
            index: Vec::new(),
            page_count: 0,
            failed: false,
        })
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
    /// spec §6.2, or [`Error::Write`]. What was written so far is then no file.
    pub fn finish(mut self, post_apply: Checksum) -> Result<(W, Summary)> {
        self.attempt(|this| {
            this.order.finish()?;
            validate_post_apply(post_apply, &this.header)?;
            this.flush()
        })?;
        let index_offset = self.index_builder.next_offset() + frame::END.len() as u64;
        self.index.push(TERMINATOR);
        let index_len = self.index.len() as u64;

        self.hasher.update(&frame::END);
        self.hasher.append(Digest::of(&self.index));
        self.hasher.update(&index_len.to_be_bytes());
        self.hasher.update(&post_apply.get().to_be_bytes());
        let trailer = Trailer { post_apply, file: self.hasher.digest().finish() };

        self.writer.write_all(&frame::END).map_err(Error::Write)?;
        self.index.extend_from_slice(&index_len.to_be_bytes());
        self.index.extend_from_slice(&trailer.encode());
        self.writer.write_all(&self.index).map_err(Error::Write)?;
        self.writer.flush().map_err(Error::Write)?;
        let summary = Summary {
            header: self.header,
            trailer,
            size: index_offset + self.index.len() as u64,
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
            self.index_builder.push(*pgno, *frame_len, &mut self.index);
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
