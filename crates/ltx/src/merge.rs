//! Merges neighbouring files: of each page, the newest version.
//!
//! One algorithm serves compaction, which writes the merged pages to a file, and
//! restore, which writes them to a database. A merge is done when
//! [`Merge::finish`] has verified every input; until then nothing it gave may
//! be published.
//!
//! Spec: ltx §9.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use crate::decoder::{Decoder, Role};
use crate::error::{Error, Result};
use crate::page_order::PageOrder;
use crate::{Checksum, Encoder, FileName, Header, Pgno, Summary, Warning};

/// Merges `inputs`, oldest first, into one file.
///
/// Frames in block encoding are copied as they are, others are converted. The
/// output never tracks checksums and carries the last input's timestamp. Its
/// summary holds the warnings of all inputs.
///
/// # Errors
/// Those of [`Merge`] and [`Encoder`]. What was written is then no file.
pub fn merge<R: Read, W: Write>(inputs: Vec<R>, out: W) -> Result<Summary> {
    let mut merge = Merge::new(inputs)?;
    let mut encoder = Encoder::new(out, merge.header().clone())?;
    while let Some(page) = merge.next_page()? {
        match page.frame {
            Some(frame) => encoder.copy_frame(page.pgno, frame, page.data)?,
            None => encoder.encode_page(page.pgno, page.data)?,
        }
    }
    let warnings = merge.finish()?;
    let (_, mut summary) = encoder.finish(Checksum::NONE)?;
    summary.warnings = warnings;
    Ok(summary)
}

/// The merged pages of neighbouring files, in order.
///
/// Memory: one page and one read buffer for each input. Inputs wait while lower
/// pages come from others, so readers must stand being idle.
pub struct Merge<R> {
    inputs: Vec<Input<R>>,
    /// The next page of each input that has one: lowest page first, and of equal
    /// pages the newest input.
    queue: BinaryHeap<Reverse<(Pgno, Reverse<usize>)>>,
    header: Header,
    order: PageOrder,
    current: Option<usize>,
    failed: bool,
}

/// One page of a merge.
#[derive(Clone, Copy, Debug)]
pub struct MergedPage<'a> {
    /// Its number.
    pub pgno: Pgno,
    /// Its content.
    pub data: &'a [u8],
    /// Its frame in block encoding, when the input had it in that form.
    pub frame: Option<&'a [u8]>,
}

struct Input<R> {
    decoder: Decoder<R>,
    page: Vec<u8>,
}

impl<R: Read> Merge<R> {
    /// Reads all headers and checks that the inputs, oldest first, join up.
    ///
    /// Overlap is fine as long as each input reaches further than the one before.
    ///
    /// # Errors
    /// [`Error::NoInputs`]; [`Error::InputHeader`] for the first bad header;
    /// [`Error::MismatchedPageSizes`]; [`Error::NonContiguous`].
    pub fn new(inputs: Vec<R>) -> Result<Self> {
        let mut decoders = Vec::with_capacity(inputs.len());
        for (input, reader) in inputs.into_iter().enumerate() {
            let decoder = Decoder::with_role(reader, Role::EarlierInput)
                .map_err(|source| Error::InputHeader { input, source: Box::new(source) })?;
            decoders.push(decoder);
        }
        if let Some(last) = decoders.last_mut() {
            last.set_role(Role::Input);
        }
        let header = merged_header(&decoders)?;
        let inputs = decoders.into_iter().map(|decoder| Input { page: vec![0; header.page_size.len()], decoder });
        let mut merge = Self {
            inputs: inputs.collect(),
            queue: BinaryHeap::new(),
            order: PageOrder::new(&header),
            header,
            current: None,
            failed: false,
        };
        for input in 0..merge.inputs.len() {
            merge.pull(input)?;
        }
        Ok(merge)
    }

    /// The header of the merged file: the first input's start, the last one's
    /// end, size and time; no checksums, no WAL range.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The headers of the inputs, oldest first.
    pub fn headers(&self) -> impl Iterator<Item = &Header> {
        self.inputs.iter().map(|input| input.decoder.header())
    }

    /// The next page, or `None` after the last.
    ///
    /// Pages beyond the final database size are left out: the database shrank.
    ///
    /// # Errors
    /// [`Error::InputPage`]; the rules of a snapshot when the merge is one and
    /// lacks a page. The merge then refuses to go on.
    pub fn next_page(&mut self) -> Result<Option<MergedPage<'_>>> {
        if self.failed {
            return Err(Error::Poisoned);
        }
        match self.advance() {
            Ok(None) => Ok(None),
            Ok(Some((pgno, winner))) => {
                self.current = Some(winner);
                Ok(self.inputs.get(winner).map(|input| MergedPage {
                    pgno,
                    data: &input.page,
                    frame: input.decoder.current_block_frame(),
                }))
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    /// Verifies every input to its end, and that the pages of a snapshot are
    /// complete. Pages not asked for are merged and dropped.
    ///
    /// # Errors
    /// As [`Merge::next_page`]; [`Error::SnapshotShort`]; [`Error::InputClose`]
    /// for the first input whose index, trailer or file checksum is bad.
    pub fn finish(mut self) -> Result<Vec<Warning>> {
        while self.next_page()?.is_some() {}
        let mut warnings = Vec::new();
        for (input, Input { decoder, .. }) in self.inputs.into_iter().enumerate() {
            let summary = decoder.finish().map_err(|source| Error::InputClose { input, source: Box::new(source) })?;
            warnings.extend(summary.warnings.into_iter().map(|warning| warning.with_input(input)));
        }
        self.order.finish()?;
        Ok(warnings)
    }

    fn advance(&mut self) -> Result<Option<(Pgno, usize)>> {
        if let Some(input) = self.current.take() {
            self.pull(input)?;
        }
        loop {
            let Some(Reverse((pgno, Reverse(winner)))) = self.queue.pop() else { return Ok(None) };
            // Older versions of the same page.
            while let Some(Reverse((next, Reverse(older)))) = self.queue.peek().copied()
                && next == pgno
            {
                self.queue.pop();
                self.pull(older)?;
            }
            if pgno.get() > self.header.commit {
                self.pull(winner)?;
                continue;
            }
            self.order.check(pgno)?;
            return Ok(Some((pgno, winner)));
        }
    }

    /// Queues the next page of an input.
    fn pull(&mut self, input: usize) -> Result<()> {
        let Some(Input { decoder, page }) = self.inputs.get_mut(input) else { return Ok(()) };
        match decoder.next_page(page) {
            Ok(Some(pgno)) => self.queue.push(Reverse((pgno, Reverse(input)))),
            Ok(None) => {}
            Err(source) => return Err(Error::InputPage { input, source: Box::new(source) }),
        }
        Ok(())
    }
}

fn merged_header<R: Read>(inputs: &[Decoder<R>]) -> Result<Header> {
    for pair in inputs.windows(2) {
        let [left, right] = pair else { continue };
        let (left, right) = (left.header(), right.header());
        if left.page_size != right.page_size {
            return Err(Error::MismatchedPageSizes { left: left.page_size, right: right.page_size });
        }
        if right.min > left.max.next() || right.max <= left.max {
            let name = |header: &Header| FileName { min: header.min, max: header.max };
            return Err(Error::NonContiguous { left: name(left), right: name(right) });
        }
    }
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return Err(Error::NoInputs) };
    let (first, last) = (first.header(), last.header());
    let mut header = Header::new(first.page_size, last.commit, first.min, last.max, last.timestamp);
    header.timestamp_overflow_ms = last.timestamp_overflow_ms;
    Ok(header)
}
