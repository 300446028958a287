//! One input of a merge: a file as given, or several merged before.

use std::io::{self, Read};

use super::MergedPage;
use crate::decoder::{Decoder, Role};
use crate::error::{Error, Result};
use crate::spill::SpillFile;
use crate::{FileName, Header, Pgno, Warning};

/// An input whose file is not open yet.
pub(super) struct Slot<R> {
    reader: Reader<R>,
    /// Position among the inputs given; `None` for what is ours.
    number: Option<usize>,
}

enum Reader<R> {
    Given(R),
    Folded(Box<dyn SpillFile>),
}

/// An input whose header was read, and its next page.
pub(super) struct Input<R> {
    decoder: Decoder<Reader<R>>,
    page: Vec<u8>,
    number: Option<usize>,
}

impl<R: Read> Slot<R> {
    pub(super) fn given(number: usize, reader: R) -> Self {
        Self { reader: Reader::Given(reader), number: Some(number) }
    }

    /// What was merged into temporary storage, from its start.
    pub(super) fn folded(file: Box<dyn SpillFile>) -> Self {
        Self { reader: Reader::Folded(file), number: None }
    }

    /// Reads and validates the header.
    pub(super) fn open(self, role: Role, names: &[FileName]) -> Result<Input<R>> {
        let Self { reader, number } = self;
        let opened = Decoder::with_role(reader, role).and_then(|decoder| {
            let (found, name) = (decoder.header().name(), number.and_then(|number| names.get(number)));
            match name {
                Some(name) if *name != found => Err(Error::NameMismatch { name: *name, header: found }),
                _ => Ok(decoder),
            }
        });
        let decoder = opened.map_err(|source| blame(number, source, Error::input_header))?;
        Ok(Input { page: vec![0; decoder.header().page_size.len()], decoder, number })
    }
}

impl<R: Read> Input<R> {
    pub(super) fn header(&self) -> &Header {
        self.decoder.header()
    }

    /// Moves on to the next page.
    pub(super) fn pull(&mut self) -> Result<Option<Pgno>> {
        self.decoder.next_page(&mut self.page).map_err(|source| blame(self.number, source, Error::input_page))
    }

    /// The page that [`pull`](Self::pull) brought.
    pub(super) fn merged_page(&self, pgno: Pgno) -> MergedPage<'_> {
        MergedPage { pgno, data: &self.page, frame: self.decoder.current_block_frame() }
    }

    /// Verifies what follows the pages.
    pub(super) fn finish(self) -> Result<Vec<Warning>> {
        let Self { decoder, number, .. } = self;
        let summary = decoder.finish().map_err(|source| blame(number, source, Error::input_close))?;
        let Some(number) = number else { return Ok(Vec::new()) };
        Ok(summary.warnings.into_iter().map(|warning| warning.with_input(number)).collect())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Given(reader) => reader.read(buffer),
            Self::Folded(file) => file.read(buffer),
        }
    }
}

/// The caller's input is the caller's; temporary storage is nobody's.
fn blame(number: Option<usize>, source: Error, of_input: fn(usize, Error) -> Error) -> Error {
    match (number, source) {
        (Some(number), source) => of_input(number, source),
        (None, Error::Read(err)) => Error::Spill(err),
        (None, source) => Error::Spill(io::Error::new(io::ErrorKind::InvalidData, source)),
    }
}
