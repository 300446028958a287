//! Reads a file from front to back and verifies all of it.
//!
//! A page handed out by [`Decoder::next_page`] decoded cleanly and came in the
//! right order, but only [`Decoder::finish`] proves it to be what was written:
//! the file checksum is at the end. Publish nothing before.
//!
//! Accepts both page encodings, and what upstream accepts (spec: ltx §11, the
//! column "Ours"); memory does not grow with the number of pages.

use std::io::Read;

use crate::checksum::page_checksum;
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::frame::{self, Extent, Frame};
use crate::index::{self, ExpectedIndex, Triples};
use crate::page_order::PageOrder;
use crate::source::Source;
use crate::trailer::{self, validate_post_apply};
use crate::{DatabaseChecksum, Header, Pgno, Summary, Trailer, Warning};

/// Reads one file. The reader must end where the file does.
pub struct Decoder<R> {
    source: Source<R>,
    header: Header,
    role: Role,
    hasher: Hasher,
    order: PageOrder,
    expected_index: ExpectedIndex,
    /// Only for tracked snapshots, whose post-apply checksum can be verified.
    database: Option<DatabaseChecksum>,
    /// The frame last decoded; still in the source's window.
    current: Option<Frame>,
    last_pgno: u32,
    page_count: u64,
    beyond_commit: u64,
    state: State,
}

/// Why the file is read, which decides on two rules.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// On its own: snapshots must be complete.
    Whole,
    /// As an input of a merge: other inputs may fill the holes of a snapshot.
    Input,
    /// As an input of a merge whose post-apply checksum is of no consequence.
    EarlierInput,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pages,
    PagesEnded,
    Failed,
}

impl<R: Read> Decoder<R> {
    /// Reads and validates the header.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Read`], the first header rule broken, or
    /// [`Error::CommitZero`].
    pub fn new(reader: R) -> Result<Self> {
        Self::with_role(reader, Role::Whole)
    }

    pub(crate) fn with_role(reader: R, role: Role) -> Result<Self> {
        let mut source = Source::new(reader);
        let mut hasher = Hasher::new();
        let bytes = source.fill(Header::LEN, "header")?.get(..Header::LEN).unwrap_or_default();
        let header = Header::parse(bytes)?;
        // As stored: reserved bytes count, whatever they hold.
        hasher.update(bytes);
        source.consume(Header::LEN);
        if header.commit == 0 {
            return Err(Error::CommitZero);
        }
        let order = if role == Role::Whole { PageOrder::new(&header) } else { PageOrder::allowing_holes(&header) };
        let tracked_snapshot = header.is_snapshot() && !header.flags.no_checksum();
        Ok(Self {
            source,
            role,
            hasher,
            order,
            expected_index: ExpectedIndex::new(),
            database: tracked_snapshot.then(DatabaseChecksum::new),
            header,
            current: None,
            last_pgno: 0,
            page_count: 0,
            beyond_commit: 0,
            state: State::Pages,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Decodes the next page into `page`, which must be one page long; `None`
    /// after the last.
    ///
    /// Pages beyond the file's own `commit` do not belong to the database; they
    /// are verified, counted as a warning and left out.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Truncated`], damage of the frame, or the
    /// ordering rule broken. `page` then holds nothing of use, and the decoder
    /// refuses to go on.
    pub fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>> {
        frame::require_page(page, self.header.page_size)?;
        match self.state {
            State::PagesEnded => return Ok(None),
            State::Failed => return Err(Error::Poisoned),
            State::Pages => {}
        }
        let result = self.advance(page);
        match result {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::PagesEnded,
            Err(_) => self.state = State::Failed,
        }
        result
    }

    /// The bytes of the page last returned, if they may be copied into another
    /// file as they are.
    pub(crate) fn current_block_frame(&self) -> Option<&[u8]> {
        let frame = self.current.filter(Frame::is_block)?;
        self.source.window().get(..frame.len)
    }

    /// Verifies the rest of the file: remaining pages, index, trailer, file
    /// checksum, and that nothing follows.
    ///
    /// # Errors
    /// As [`Decoder::next_page`]; [`Error::SnapshotShort`];
    /// [`Error::FileChecksumMismatch`]; [`Error::TrailingBytes`]; a rule of spec
    /// §6.2 for the trailer. A wrong index is only a [`Warning`].
    pub fn finish(mut self) -> Result<Summary> {
        let mut page = Vec::new();
        while self.state != State::PagesEnded {
            page.resize(self.header.page_size.len(), 0);
            self.next_page(&mut page)?;
        }
        self.order.finish()?;
        let index_matches = self.read_index()?;
        let trailer = self.read_trailer()?;
        let mut warnings = Vec::new();
        if !index_matches {
            warnings.push(Warning::IndexMismatch { input: 0 });
        }
        if self.beyond_commit > 0 {
            warnings.push(Warning::PagesBeyondCommit { input: 0, count: self.beyond_commit });
        }
        match validate_post_apply(trailer.post_apply, &self.header) {
            Err(_) if self.role == Role::EarlierInput => warnings.push(Warning::PostApply { input: 0 }),
            result => result?,
        }
        if let Some(computed) = self.database.map(DatabaseChecksum::value)
            && computed != trailer.post_apply
        {
            return Err(Error::PostApplyMismatch { stored: trailer.post_apply, computed });
        }
        Ok(Summary {
            header: self.header,
            trailer,
            size: self.source.consumed(),
            page_count: self.page_count,
            warnings,
        })
    }

    fn advance(&mut self, page: &mut [u8]) -> Result<Option<Pgno>> {
        loop {
            if let Some(frame) = self.current.take() {
                self.source.consume(frame.len);
            }
            let Some(frame) = self.measure()? else { return Ok(None) };
            let bytes = self.source.fill(frame.len, "page frame")?;
            frame.decode(bytes, page)?;
            self.hasher.update(bytes.get(..frame.head_len).unwrap_or_default());
            self.hasher.update(page);
            #[allow(clippy::cast_possible_truncation, reason = "extent bounds the length of a frame")]
            self.expected_index.push(frame.pgno, frame.len as u32);
            self.current = Some(frame);
            self.page_count += 1;

            let pgno = frame.pgno.get();
            if pgno <= self.last_pgno {
                return Err(Error::PageOrder { previous: self.last_pgno, pgno });
            }
            self.last_pgno = pgno;
            if pgno > self.header.commit {
                self.beyond_commit += 1;
                continue;
            }
            self.order.check(frame.pgno)?;
            if let Some(database) = &mut self.database {
                database.toggle(page_checksum(frame.pgno, page));
            }
            return Ok(Some(frame.pgno));
        }
    }

    /// Measures the next frame; `None` at the end marker, which it consumes.
    fn measure(&mut self) -> Result<Option<Frame>> {
        loop {
            match frame::extent(self.source.window(), self.header.page_size)? {
                Extent::Frame(frame) => return Ok(Some(frame)),
                Extent::Need(len) => {
                    self.source.fill(len, "page block")?;
                }
                Extent::End => {
                    self.hasher.update(&frame::END);
                    self.source.consume(frame::END.len());
                    return Ok(None);
                }
            }
        }
    }

    /// Reads index and size field; true when both are as they should be.
    fn read_index(&mut self) -> Result<bool> {
        let mut triples = Triples::default();
        let mut found = Hasher::new();
        while !triples.ended() {
            let window = self.source.fill(1, index::PART)?;
            let mut len = 0;
            for byte in window {
                len += 1;
                triples.push(*byte)?;
                if triples.ended() {
                    break;
                }
            }
            found.update(window.get(..len).unwrap_or_default());
            self.source.consume(len);
        }
        let found = found.digest();
        self.hasher.append(found);
        let size_field = self.source.fill(8, index::PART)?.first_chunk().copied().unwrap_or_default();
        self.hasher.update(&size_field);
        self.source.consume(size_field.len());
        let expected = std::mem::replace(&mut self.expected_index, ExpectedIndex::new()).finish();
        Ok(found == expected && u64::from_be_bytes(size_field) == found.len())
    }

    fn read_trailer(&mut self) -> Result<Trailer> {
        let trailer = Trailer::parse(self.source.fill(Trailer::LEN, trailer::PART)?)?;
        self.source.consume(Trailer::LEN);
        self.hasher.update(&trailer.post_apply.get().to_be_bytes());
        if !self.source.at_end()? {
            return Err(Error::TrailingBytes);
        }
        if self.hasher.digest().finish() == trailer.file { Ok(trailer) } else { Err(Error::FileChecksumMismatch) }
    }
}
