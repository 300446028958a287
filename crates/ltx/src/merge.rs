//! Merges neighbouring files: of each page, the newest version.
//!
//! One algorithm serves compaction, which writes the merged pages to a file, and
//! readers that want the pages alone. A merge is done when [`Merge::finish`] has
//! verified every input; until then nothing it gave may be published.
//!
//! Spec: ltx §9.

mod fold;
mod input;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use self::input::{Input, Slot};
use crate::error::{Error, Result};
use crate::page_order::PageOrder;
use crate::{Checksum, Encoder, FileName, Header, Pgno, Spill, Summary, Warning};

/// Merges `inputs`, oldest first, into one file.
///
/// See [`Merge::write_to`].
///
/// # Errors
/// Those of [`Merge`] and [`Encoder`]. What was written is then no file.
pub fn merge<R: Read, W: Write>(inputs: Vec<R>, out: W) -> Result<Summary> {
    Merge::new(inputs)?.write_to(out)
}

/// What a merge may be told beyond its inputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergeOptions<'a> {
    /// The name of each input. Where there is one, the header must agree with it.
    pub names: &'a [FileName],
    /// Bounds for merges of many or large files.
    pub limits: Option<&'a MergeLimits>,
}

/// Bounds of a merge, whatever the number of its inputs and pages.
#[derive(Clone, Debug)]
pub struct MergeLimits {
    /// Most inputs open at once, at least three. Beyond that number, as few as
    /// possible are merged into temporary files first, and dropped. Readers should
    /// open their files when they are first read.
    pub fan_in: usize,
    /// Makes these temporary files, and one for the output's index.
    pub spill: Spill,
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
    /// Of inputs that were merged before.
    warnings: Vec<Warning>,
    spill: Option<Spill>,
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

impl<R: Read> Merge<R> {
    /// Reads all headers and checks that the inputs, oldest first, join up.
    ///
    /// Overlap is fine as long as each input reaches further than the one before.
    ///
    /// # Errors
    /// [`Error::NoInputs`]; [`Error::InputHeader`] for the first bad header;
    /// [`Error::MismatchedPageSizes`]; [`Error::NonContiguous`].
    pub fn new(inputs: Vec<R>) -> Result<Self> {
        Self::with_options(inputs, MergeOptions::default())
    }

    /// As [`Merge::new`], within limits and with names to compare.
    ///
    /// With more inputs than the limits allow, this merges some of them first.
    ///
    /// # Errors
    /// As [`Merge::new`]; [`Error::InputHeader`] with [`Error::NameMismatch`];
    /// [`Error::Spill`]. Inputs merged first may fail as in
    /// [`Merge::next_page`] and [`Merge::finish`].
    pub fn with_options(inputs: Vec<R>, options: MergeOptions<'_>) -> Result<Self> {
        let slots = inputs.into_iter().enumerate().map(|(number, reader)| Slot::given(number, reader)).collect();
        let (inputs, warnings) = fold::open(slots, options)?;
        let header = merged_header(&inputs)?;
        let order = PageOrder::new(&header);
        let spill = options.limits.map(|limits| limits.spill.clone());
        Self { warnings, spill, ..Self::of_opened(inputs, header, order) }.start()
    }

    /// A merge of open inputs, all still before their first page.
    fn of_opened(inputs: Vec<Input<R>>, header: Header, order: PageOrder) -> Self {
        Self {
            queue: BinaryHeap::with_capacity(inputs.len()),
            inputs,
            header,
            order,
            current: None,
            failed: false,
            warnings: Vec::new(),
            spill: None,
        }
    }

    /// Reads the first page of each input.
    fn start(mut self) -> Result<Self> {
        for input in 0..self.inputs.len() {
            self.pull(input)?;
        }
        Ok(self)
    }

    /// The header of the merged file: the first input's start, the last one's
    /// end, size and time; no checksums, no WAL range.
    pub fn header(&self) -> &Header {
        &self.header
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
                Ok(self.inputs.get(winner).map(|input| input.merged_page(pgno)))
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
        let mut warnings = self.warnings;
        for input in self.inputs {
            warnings.extend(input.finish()?);
        }
        self.order.finish()?;
        Ok(warnings)
    }

    /// Writes the merged pages as one file.
    ///
    /// Frames in block encoding are copied as they are, others are converted. The
    /// output never tracks checksums and carries the last input's timestamp. Its
    /// summary holds the warnings of all inputs.
    ///
    /// # Errors
    /// As [`Merge::finish`] and [`Encoder::finish`]. What was written is then no
    /// file: the end of one is written only after every input was verified.
    pub fn write_to<W: Write>(self, out: W) -> Result<Summary> {
        let encoder = Encoder::new(out, self.header.clone())?;
        self.copy_to(encoder).map(|(_, summary)| summary)
    }

    fn copy_to<W: Write>(mut self, mut encoder: Encoder<W>) -> Result<(W, Summary)> {
        if let Some(spill) = &self.spill {
            encoder = encoder.spill_to(spill.clone());
        }
        while let Some(page) = self.next_page()? {
            match page.frame {
                Some(frame) => encoder.copy_frame(page.pgno, frame, page.data)?,
                None => encoder.encode_page(page.pgno, page.data)?,
            }
        }
        let warnings = self.finish()?;
        let (out, mut summary) = encoder.finish(Checksum::NONE)?;
        summary.warnings = warnings;
        Ok((out, summary))
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
        let Some(next) = self.inputs.get_mut(input).map(Input::pull).transpose()?.flatten() else { return Ok(()) };
        self.queue.push(Reverse((next, Reverse(input))));
        Ok(())
    }
}

fn merged_header<R: Read>(inputs: &[Input<R>]) -> Result<Header> {
    for pair in inputs.windows(2) {
        let [left, right] = pair else { continue };
        let (left, right) = (left.header(), right.header());
        if left.page_size != right.page_size {
            return Err(Error::MismatchedPageSizes { left: left.page_size, right: right.page_size });
        }
        if right.min > left.max.next() || right.max <= left.max {
            return Err(Error::NonContiguous { left: left.name(), right: right.name() });
        }
    }
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return Err(Error::NoInputs) };
    let (first, last) = (first.header(), last.header());
    let mut header = Header::new(first.page_size, last.commit, first.min, last.max, last.timestamp);
    header.timestamp_overflow_ms = last.timestamp_overflow_ms;
    Ok(header)
}
