//! Temporary storage for what must be remembered until the end of a file.
//!
//! This crate opens no files. The caller says how to make a temporary one; small
//! work never asks for it.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use crate::Pgno;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::index::{IndexBuilder, TERMINATOR};

/// A temporary file: written once, then read from its start.
pub trait SpillFile: Read + Write + Seek + Send {}

impl<T: Read + Write + Seek + Send> SpillFile for T {}

/// Makes temporary files for an [`Encoder`](crate::Encoder) or a
/// [`Merge`](crate::Merge) that outgrows memory.
///
/// Each file is empty, belongs to the one who asked for it, and should vanish when
/// dropped: an unlinked file does.
#[derive(Clone)]
pub struct Spill(Arc<dyn Fn() -> io::Result<Box<dyn SpillFile>> + Send + Sync>);

impl Spill {
    /// Makes files by calling `make`.
    pub fn new(make: impl Fn() -> io::Result<Box<dyn SpillFile>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    pub(crate) fn create(&self) -> Result<Box<dyn SpillFile>> {
        (self.0)().map_err(Error::Spill)
    }
}

impl fmt::Debug for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spill")
    }
}

/// The index of a file in the making: its newest part in memory, the rest too
/// unless there is a [`Spill`].
pub(crate) struct GrowingIndex {
    builder: IndexBuilder,
    memory: Vec<u8>,
    spill: Option<Spill>,
    spilled: Option<Spilled>,
}

struct Spilled {
    file: Box<dyn SpillFile>,
    /// Of what was written. A disk that gives back something else must not get
    /// away with it: the file checksum would cover the wrong index and match.
    hasher: Hasher,
}

impl GrowingIndex {
    pub(crate) fn new() -> Self {
        Self { builder: IndexBuilder::new(), memory: Vec::new(), spill: None, spilled: None }
    }

    pub(crate) fn spill_to(&mut self, spill: Spill) {
        self.spill = Some(spill);
    }

    /// Adds the entry of the next frame.
    pub(crate) fn push(&mut self, pgno: Pgno, frame_len: u32) -> Result<()> {
        self.builder.push(pgno, frame_len, &mut self.memory);
        if self.memory.len() < MEMORY_LEN { Ok(()) } else { self.flush() }
    }

    /// Where the page block ends, before its end marker.
    pub(crate) fn next_offset(&self) -> u64 {
        self.builder.next_offset()
    }

    /// Writes the whole index, terminator included, and gives its digest.
    pub(crate) fn write_to(mut self, out: &mut impl Write) -> Result<Digest> {
        self.memory.push(TERMINATOR);
        let mut hasher = Hasher::new();
        if let Some(Spilled { mut file, hasher: expected }) = self.spilled {
            file.flush().and_then(|()| file.seek(SeekFrom::Start(0))).map_err(Error::Spill)?;
            let mut buffer = vec![0; COPY_LEN];
            let expected = expected.digest();
            while hasher.digest().len() < expected.len() {
                let part = match file.read(&mut buffer) {
                    Ok(len) => buffer.get(..len).unwrap_or_default(),
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                    Err(err) => return Err(Error::Spill(err)),
                };
                if part.is_empty() {
                    return Err(damaged());
                }
                hasher.update(part);
                out.write_all(part).map_err(Error::Write)?;
            }
            if hasher.digest() != expected {
                return Err(damaged());
            }
        }
        hasher.update(&self.memory);
        out.write_all(&self.memory).map_err(Error::Write)?;
        Ok(hasher.digest())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(spill) = &self.spill else { return Ok(()) };
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            none => none.insert(Spilled { file: spill.create()?, hasher: Hasher::new() }),
        };
        spilled.hasher.update(&self.memory);
        spilled.file.write_all(&self.memory).map_err(Error::Spill)?;
        self.memory.clear();
        Ok(())
    }
}

fn damaged() -> Error {
    Error::Spill(io::Error::new(io::ErrorKind::InvalidData, "not what was written"))
}

/// Index kept in memory before it is worth a file: some 100,000 pages.
const MEMORY_LEN: usize = 1 << 20;
const COPY_LEN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What is read back differs from what was written where `damage` says.
    struct Rotten {
        bytes: Cursor<Vec<u8>>,
        damage: fn(&mut Vec<u8>),
    }

    impl Read for Rotten {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.bytes.read(buffer)
        }
    }

    impl Write for Rotten {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.bytes.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            (self.damage)(self.bytes.get_mut());
            Ok(())
        }
    }

    impl Seek for Rotten {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.bytes.seek(to)
        }
    }

    fn write(pages: u32, spill: Option<Spill>) -> Result<(Vec<u8>, Digest)> {
        let mut index = GrowingIndex::new();
        if let Some(spill) = spill {
            index.spill_to(spill);
        }
        for pgno in 1..=pages {
            index.push(Pgno::new(pgno).unwrap(), 30 + pgno % 7)?;
        }
        let mut out = Vec::new();
        let digest = index.write_to(&mut out)?;
        Ok((out, digest))
    }

    #[test]
    fn an_index_that_spills_is_the_one_that_does_not() {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let spill = Spill::new(|| {
            FILES.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Cursor::new(Vec::new())))
        });
        for (pages, files) in [(10, 0), (400_000, 1)] {
            let (bytes, digest) = write(pages, Some(spill.clone())).unwrap();
            assert_eq!((bytes, digest), write(pages, None).unwrap());
            assert_eq!(FILES.swap(0, Ordering::SeqCst), files, "{pages} pages");
        }
    }

    #[test]
    fn a_spill_that_gives_back_something_else_fails_the_file() {
        let damages: [fn(&mut Vec<u8>); 3] = [|bytes| bytes[500_000] ^= 1, |bytes| bytes.truncate(9), Vec::clear];
        for damage in damages {
            let spill = Spill::new(move || Ok(Box::new(Rotten { bytes: Cursor::default(), damage })));
            assert!(matches!(write(400_000, Some(spill)), Err(Error::Spill(_))));
        }
        let full = Spill::new(|| Err(io::ErrorKind::StorageFull.into()));
        assert!(
            matches!(write(400_000, Some(full)), Err(Error::Spill(err)) if err.kind() == io::ErrorKind::StorageFull)
        );
    }
}
