//! Buffered reading with look-ahead, for formats that say late how long they are.

use std::io::{ErrorKind, Read};

use crate::error::{Error, Result};

/// A reader with a window of bytes that were read but not consumed.
pub(crate) struct Source<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    consumed: u64,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, end: 0, consumed: 0 }
    }

    /// The bytes at hand; reads nothing.
    pub(crate) fn window(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads until at least `len` bytes are at hand, and gives all there are.
    ///
    /// # Errors
    /// [`Error::Truncated`] with `part` when the input ends before.
    pub(crate) fn fill(&mut self, len: usize, part: &'static str) -> Result<&[u8]> {
        if self.end - self.start < len {
            self.make_room(len);
        }
        while self.end - self.start < len {
            if self.read_more()? == 0 {
                return Err(Error::Truncated { part });
            }
        }
        Ok(self.window())
    }

    /// Drops `len` bytes of the window.
    pub(crate) fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.consumed += len as u64;
    }

    /// Bytes consumed from the start of the input.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// True when the input has no byte left.
    pub(crate) fn at_end(&mut self) -> Result<bool> {
        if self.start == self.end {
            self.make_room(1);
            self.read_more()?;
        }
        Ok(self.start == self.end)
    }

    fn make_room(&mut self, len: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < len.max(READ_LEN) {
            self.buffer.resize(len.max(READ_LEN), 0);
        }
    }

    fn read_more(&mut self) -> Result<usize> {
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match self.reader.read(free) {
                Ok(count) => {
                    self.end += count.min(free.len());
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
    }
}

/// What one read asks for. A merge holds one such buffer for each input.
const READ_LEN: usize = 32 * 1024;
