//! Cuts a page block into chunks of whole frames along the page index, and
//! decodes them.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use ltx::{DatabaseChecksum, Digest, IndexEntry, PageSize, Pgno, decode_run, page_checksum};

use super::fault::Fault;
use super::fetch::MemoryShare;
use super::journal::{Finished, Journal, Key};
use super::pages::RunWriter;
use super::verdict::Verdict;
use crate::{Error, Result};

/// What the index says of one frame.
struct Frame {
    pgno: Pgno,
    len: u32,
    /// Whether this file is the newest that has the page.
    owned: bool,
}

/// Frames that lie back to back, not yet fetched.
pub(super) struct Extent {
    /// Position among the chunks of the file.
    pub(super) number: u64,
    /// First byte, from the start of the file.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) len: u64,
    frames: Vec<Frame>,
}

impl Extent {
    /// What decides the frames' bytes and place, as one digest.
    pub(super) fn fingerprint(&self, commit: u32) -> Digest {
        let mut bytes = Vec::with_capacity(4 + self.frames.len() * 9);
        bytes.extend(commit.to_be_bytes());
        for frame in &self.frames {
            bytes.extend(frame.pgno.get().to_be_bytes());
            bytes.extend(frame.len.to_be_bytes());
            bytes.push(u8::from(frame.owned));
        }
        Digest::of(&bytes)
    }

    /// The pages this chunk is the one to write, in order.
    pub(super) fn owned(&self) -> impl Iterator<Item = Pgno> + '_ {
        self.frames.iter().filter(|frame| frame.owned).map(|frame| frame.pgno)
    }
}

/// Gathers index entries into extents.
pub(super) struct Splitter {
    page_size: PageSize,
    chunk_len: u64,
    count: u64,
    frames: Vec<Frame>,
    offset: u64,
    len: u64,
}

impl Splitter {
    /// Extents of about `chunk_len` bytes.
    pub(super) fn new(page_size: PageSize, chunk_len: u64) -> Self {
        Self { page_size, chunk_len, count: 0, frames: Vec::new(), offset: 0, len: 0 }
    }

    /// Takes the next entry. Gives the extent before it once that is large enough.
    ///
    /// # Errors
    /// The reason why the entry describes no frame.
    pub(super) fn push(&mut self, entry: IndexEntry, owned: bool) -> Result<Option<Extent>, &'static str> {
        let page_len = self.page_size.len();
        if entry.len as usize > page_len + page_len / 255 + FRAME_OVERHEAD {
            return Err("a frame longer than any can be");
        }
        let is_full = self.len + u64::from(entry.len) > self.chunk_len
            || self.frames.len() >= CHUNK_FRAMES.min(CHUNK_DECODED_LEN / page_len);
        let full = if is_full { self.take() } else { None };
        if self.frames.is_empty() {
            self.offset = entry.offset;
        }
        self.len += u64::from(entry.len);
        self.frames.push(Frame { pgno: entry.pgno, len: entry.len, owned });
        Ok(full)
    }

    /// The extent in the making, if it has frames.
    pub(super) fn take(&mut self) -> Option<Extent> {
        if self.frames.is_empty() {
            return None;
        }
        let number = self.count;
        self.count += 1;
        let frames = std::mem::take(&mut self.frames);
        Some(Extent { number, offset: self.offset, len: std::mem::take(&mut self.len), frames })
    }

    /// How many extents there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

/// Frames to be fetched, decoded and written.
pub(super) struct Chunk {
    pub(super) extent: Extent,
    pub(super) verdict: Arc<Verdict>,
    /// The bytes, where they came along when the file was opened.
    pub(super) resident: Option<Bytes>,
    /// Where to note that it is done, and under which name.
    pub(super) note: Option<(Arc<Journal>, Key)>,
    /// The memory the bytes take; kept until they are written.
    pub(super) _share: Option<Arc<MemoryShare>>,
}

impl Chunk {
    /// Decodes all frames, writes the owned pages to `file` and reports to the
    /// verdict. Blocks. Takes the bytes, so that they go before their memory share.
    ///
    /// # Errors
    /// [`Fault::Index`] when the frames are not those of the index;
    /// [`Fault::File`] when they are damaged.
    pub(super) fn decode(self, bytes: Bytes, file: &File) -> Result<(), Fault> {
        let page_size = self.verdict.header.page_size;
        let commit = self.verdict.header.commit;
        let sums_pages = self.verdict.sums_pages();
        let mut database = DatabaseChecksum::new();
        let mut writer = RunWriter::new(file, page_size);
        let mut pages = Digest::EMPTY;
        let mut frames = self.extent.frames.iter();
        let decoded = decode_run(&bytes, page_size, &mut |pgno, page: &[u8]| {
            let frame = frames.next().filter(|frame| frame.pgno == pgno).ok_or(Stop::Index)?;
            if sums_pages && pgno.get() <= commit {
                database.toggle(page_checksum(pgno, page));
            }
            if !frame.owned {
                return Ok(());
            }
            if self.note.is_some() {
                pages = pages.combine(Digest::of(page));
            }
            writer.write(pgno, page).map_err(Stop::Write)
        });
        let complete = frames.next().is_none();
        match decoded {
            Ok(run) if complete => {
                writer.flush().map_err(Fault::Other)?;
                if let Some((journal, key)) = &self.note {
                    journal.add(key, &Finished { digest: run.digest, database, pages });
                }
                self.verdict.add_chunk(self.extent.number, run.digest, database)
            }
            Err(Stop::Format(error)) if self.index_fits(&bytes) => Err(Fault::corrupt(&self.verdict.info, error)),
            Err(Stop::Write(error)) => Err(Fault::Other(error)),
            _ => Err(Fault::Index { file: self.verdict.info, reason: "frames are not where it says".to_owned() }),
        }
    }

    /// Whether a frame head stands wherever the index says. If so, damage found
    /// while decoding is damage of the frames.
    fn index_fits(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.extent.frames.iter().all(|frame| {
            let Some((bytes, after)) = rest.split_at_checked(frame.len as usize) else { return false };
            rest = after;
            let Some((pgno, bytes)) = bytes.split_first_chunk() else { return false };
            let Some((flags, bytes)) = bytes.split_first_chunk() else { return false };
            let len_fits = match (u16::from_be_bytes(*flags), bytes.first_chunk()) {
                (1, Some(size)) => u32::from_be_bytes(*size).checked_add(BLOCK_HEAD_LEN) == Some(frame.len),
                _ => true,
            };
            u32::from_be_bytes(*pgno) == frame.pgno.get() && len_fits
        })
    }
}

/// Why decoding stopped.
enum Stop {
    Format(ltx::Error),
    Index,
    Write(Error),
}

impl From<ltx::Error> for Stop {
    fn from(error: ltx::Error) -> Self {
        Self::Format(error)
    }
}

/// The digest over several pieces in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunningDigest(pub(super) Digest);

impl RunningDigest {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0 = self.0.combine(Digest::of(bytes));
    }
}

/// What a chunk decodes to at most, so that well compressed files still spread
/// over all cores.
const CHUNK_DECODED_LEN: usize = 8 << 20;

/// Frames of a chunk at most; each takes 12 bytes of memory.
const CHUNK_FRAMES: usize = 8192;

/// More than any head, LZ4 frame header, checksum and rounding adds to a page.
const FRAME_OVERHEAD: usize = 128;

const BLOCK_HEAD_LEN: u32 = 10;
