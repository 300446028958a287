//! Pages that wait until everything about them is proven.
//!
//! A database file must not be touched before the last byte of the last LTX file
//! is checked, and a file may be larger than memory. So pages are appended here,
//! in memory up to a few megabytes and beyond that in a file without a name on
//! the disk of the copy.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ltx::{PageSize, Pgno};

use crate::error::{Error, Result};
use crate::private;

/// Pages in the order they were added; the same page may come more than once.
///
/// ```text
/// page number (4 bytes) | page      …
/// ```
#[derive(Debug)]
pub(super) struct Spill {
    page_size: PageSize,
    /// Where the file is made, should it be needed.
    path: PathBuf,
    file: Option<File>,
    /// Bytes in the file; what follows is in memory.
    file_len: u64,
    memory: Vec<u8>,
}

impl Spill {
    /// An empty one for a copy at `output`.
    pub(super) fn new(output: &Path, page_size: PageSize) -> Self {
        let mut path = output.as_os_str().to_owned();
        path.push("-follow.tmp");
        Self { page_size, path: path.into(), file: None, file_len: 0, memory: Vec::new() }
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Bytes held.
    pub(super) fn len(&self) -> u64 {
        self.file_len + self.memory.len() as u64
    }

    /// Pages held, repetitions included.
    pub(super) fn count(&self) -> u64 {
        self.len() / self.record_len() as u64
    }

    /// Adds a page.
    ///
    /// # Errors
    /// The disk is full, or any other error of the file.
    pub(super) fn push(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        debug_assert_eq!(page.len(), self.page_size.len());
        self.memory.extend_from_slice(&pgno.get().to_be_bytes());
        self.memory.extend_from_slice(page);
        if self.memory.len() >= MEMORY_LEN { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let failed = |e| Error::io("write pages to be applied", e);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless(&self.path).map_err(failed)?),
        };
        file.write_all_at(&self.memory, self.file_len).map_err(failed)?;
        self.file_len += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Gives every page to `visit`, the last one added first: of several versions
    /// of a page, the first to be met is the one that counts.
    ///
    /// # Errors
    /// What `visit` returns, or an error of the file.
    pub(super) fn for_each_newest_first(&self, mut visit: impl FnMut(Pgno, &[u8]) -> Result<()>) -> Result<()> {
        let record_len = self.record_len();
        let mut visit_all = |bytes: &[u8]| {
            bytes.chunks_exact(record_len).rev().try_for_each(|record| match record.split_first_chunk() {
                Some((number, page)) => match Pgno::new(u32::from_be_bytes(*number)) {
                    Some(pgno) => visit(pgno, page),
                    None => Ok(()),
                },
                None => Ok(()),
            })
        };
        visit_all(&self.memory)?;
        if let Some(file) = &self.file {
            let mut buffer = vec![0; record_len * (READ_LEN / record_len).max(1)];
            let mut end = self.file_len;
            while end > 0 {
                // Whole records: both lengths are multiples of one.
                let len = usize::try_from(end).unwrap_or(usize::MAX).min(buffer.len());
                let part = buffer.get_mut(..len).unwrap_or_default();
                end -= len as u64;
                file.read_exact_at(part, end).map_err(|e| Error::io("read pages to be applied", e))?;
                visit_all(part)?;
            }
        }
        Ok(())
    }

    fn record_len(&self) -> usize {
        self.page_size.len() + 4
    }
}

/// A file that is gone as soon as it is closed.
fn nameless(path: &Path) -> std::io::Result<File> {
    let file = private::replace(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// What is held in memory at most: almost every batch as a whole.
const MEMORY_LEN: usize = 8 << 20;
const READ_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_newest_first_from_memory_and_disk() {
        let dir = tempfile::tempdir().unwrap();
        let size = PageSize::new(4096).unwrap();
        for count in [1_u32, 2_500, 5_000] {
            let mut spill = Spill::new(&dir.path().join("db"), size);
            for number in 1..=count {
                let byte = u8::try_from(number % 251).unwrap();
                spill.push(Pgno::new(number).unwrap(), &[byte; 4096]).unwrap();
            }
            assert_eq!(spill.file.is_some(), count > 2_100, "{count}");
            let mut expected = count;
            spill
                .for_each_newest_first(|pgno, page| {
                    assert_eq!(pgno.get(), expected);
                    assert_eq!(page, [u8::try_from(expected % 251).unwrap(); 4096]);
                    expected -= 1;
                    Ok(())
                })
                .unwrap();
            assert_eq!((expected, spill.count()), (0, u64::from(count)));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a file is left");
        }
    }
}
