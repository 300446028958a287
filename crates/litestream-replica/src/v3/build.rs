//! Makes the database file from decompressed objects, checking each step.
//!
//! Blocking. Everything is streamed: memory does not grow with the objects, nor
//! with what a hostile one claims to hold.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use ltx::PageSize;
use lz4_flex::frame::FrameDecoder;

use super::feed::{Abandoned, Objects};
use super::inventory::{V3Plan, missing_segment};
use super::log::Log;
use super::name::LogPosition;
use crate::{Error, ErrorKind, Result};

/// Why building stopped.
pub(super) enum Fault {
    /// The feed has ended early; its error is the cause.
    Abandoned,
    /// Something about one object of the plan.
    Object(usize, Error),
    /// Something else, such as a full disk.
    Other(Error),
}

/// What was built.
#[derive(Clone, Copy, Debug)]
pub(super) struct Built {
    pub(super) page_size: PageSize,
    pub(super) commit: u32,
    pub(super) output_len: u64,
}

/// Where to build.
pub(super) struct Site {
    pub(super) file: Arc<File>,
    /// Its path, for the scratch file beside it.
    pub(super) path: PathBuf,
}

/// Builds the database of `plan` from its objects, complete but not flushed.
pub(super) fn build(plan: &V3Plan, mut objects: Objects, site: &Site) -> Result<Built, Fault> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut snapshot = Snapshot { file: &site.file, len: 0, page_size: None };
    decode(0, &mut objects, &mut buffer, |bytes| snapshot.write(bytes))?;
    let page_size = snapshot.finish().map_err(|error| Fault::Object(0, error))?;

    let mut log: Option<Log<'_>> = None;
    for (number, segment) in (1..).zip(&plan.segments) {
        let wrong = |error: Error| Fault::Object(number, error);
        let start = segment.start;
        if start.offset == 0 {
            // A log shorter than the one before must not go on into its rest.
            if let Some(log) = log.take() {
                log.finish().map_err(|error| Fault::Object(number - 1, error))?;
            }
        }
        let log = log.get_or_insert_with(|| Log::new(&site.file, &site.path, page_size));
        if log.len() != start.offset {
            let expected = LogPosition { index: start.index, offset: log.len() };
            return Err(wrong(Error::new(ErrorKind::Hole, missing_segment(expected, start))));
        }
        let context = |error: Error| match error.kind() {
            ErrorKind::Corrupt => error.context(format!("write WAL segment {start}")),
            _ => error,
        };
        decode(number, &mut objects, &mut buffer, |bytes| log.append(bytes)).map_err(|fault| match fault {
            Fault::Object(number, error) => Fault::Object(number, context(error)),
            other => other,
        })?;
    }
    if let Some(log) = log {
        log.finish().map_err(|error| Fault::Object(plan.segments.len(), error))?;
    }
    prove(&site.file, page_size)
}

/// Decompresses one object, which is one LZ4 frame or several in a row.
fn decode(
    number: usize,
    objects: &mut Objects,
    buffer: &mut [u8],
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<(), Fault> {
    let corrupt = |text: &str| Fault::Object(number, Error::new(ErrorKind::Corrupt, text));
    let failed = |error: std::io::Error| match Abandoned::is_cause_of(&error) {
        true => Fault::Abandoned,
        false if error.kind() == std::io::ErrorKind::UnexpectedEof => corrupt("unexpected EOF"),
        false => Fault::Object(number, Error::with_source(ErrorKind::Corrupt, "decompress", error)),
    };
    objects.begin();
    // Anew for each object: it expects all frames of a stream to be of one kind.
    let mut decoder = FrameDecoder::new(objects);
    let mut filled = 0;
    loop {
        let read = decoder.read(buffer.get_mut(filled..).unwrap_or_default()).map_err(failed)?;
        filled += read;
        // Whatever the size of blocks, a database's header comes in one piece.
        if read > 0 && filled < FILL_LEN {
            continue;
        }
        if filled > 0 {
            sink(buffer.get(..filled).unwrap_or_default()).map_err(|error| match error.kind() {
                ErrorKind::Corrupt => Fault::Object(number, error),
                _ => Fault::Other(error),
            })?;
            filled = 0;
        }
        if read > 0 {
            continue;
        }
        // The end of a frame, its checksum compared. The decoder says the same
        // when its input ends between two blocks, having looked for another.
        let objects = decoder.get_mut();
        if objects.was_overread() {
            return Err(corrupt("unexpected EOF"));
        }
        if objects.is_at_end().map_err(failed)? {
            return Ok(());
        }
    }
}

/// The database file as it comes.
struct Snapshot<'a> {
    file: &'a File,
    len: u64,
    page_size: Option<PageSize>,
}

impl Snapshot<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.len == 0 {
            // Before anything else is taken in: what is no database could be of
            // any length.
            self.page_size = Some(read_header(bytes)?.page_size);
        }
        self.file.write_all_at(bytes, self.len).map_err(|e| Error::io("write database", e))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<PageSize> {
        let corrupt = |text: String| Error::new(ErrorKind::Corrupt, text);
        let page_size = self.page_size.ok_or_else(|| corrupt("the snapshot is empty".to_owned()))?;
        if !self.len.is_multiple_of(u64::from(page_size.get())) {
            return Err(corrupt(format!("{} bytes are no whole number of pages of {page_size}", self.len)));
        }
        Ok(page_size)
    }
}

/// What the first 100 bytes of a database say.
struct DatabaseHeader {
    page_size: PageSize,
    /// Pages, where SQLite would believe it.
    page_count: Option<u32>,
}

fn read_header(bytes: &[u8]) -> Result<DatabaseHeader> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "not a SQLite database");
    let header = bytes.first_chunk::<HEADER_LEN>().filter(|header| header.starts_with(MAGIC)).ok_or_else(corrupt)?;
    let word = |at: usize| match header.get(at..at + 4) {
        Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
        _ => 0,
    };
    let page_size = match word(14) & 0xffff {
        1 => 65536,
        size => size,
    };
    let page_size = PageSize::new(page_size).ok_or_else(corrupt)?;
    let is_current = word(24) == word(92);
    Ok(DatabaseHeader { page_size, page_count: Some(word(28)).filter(|count| is_current && *count > 0) })
}

/// Looks at the finished file as SQLite will.
fn prove(file: &File, page_size: PageSize) -> Result<Built, Fault> {
    let io = |e| Fault::Other(Error::io("read restored database", e));
    let corrupt = |text: String| Fault::Other(Error::new(ErrorKind::Corrupt, text));
    let output_len = file.metadata().map_err(io)?.len();
    let mut bytes = [0; HEADER_LEN];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    let header = read_header(&bytes).map_err(Fault::Other)?;
    let page_len = u64::from(page_size.get());
    if header.page_size != page_size || !output_len.is_multiple_of(page_len) {
        let found = header.page_size;
        return Err(corrupt(format!(
            "restored database has pages of {found} and {output_len} bytes, not of {page_size}"
        )));
    }
    let commit =
        u32::try_from(output_len / page_len).map_err(|_| corrupt("restored database is too long".to_owned()))?;
    match header.page_count {
        Some(count) if count > commit => {
            return Err(corrupt(format!("restored database has {commit} pages, but its header says {count}")));
        }
        // SQLite overlooks the rest.
        Some(count) if count < commit => tracing::warn!(commit, count, "restored file is longer than its database"),
        _ => {}
    }
    Ok(Built { page_size, commit, output_len })
}

const MAGIC: &[u8] = b"SQLite format 3\0";

/// The part of page 1 that describes the database.
const HEADER_LEN: usize = 100;

/// What is read and written at once, at most and, but for the end, at least.
const BUFFER_LEN: usize = 1 << 20;
const FILL_LEN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;

    use litestream_fuzz::{Bound, Target, bounded};
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn compressed(info: FrameInfo, content: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Hands one object to `sink`, as often as something of it is decoded.
    fn decode_one(object: &[u8], buffer: &mut [u8], sink: impl FnMut(&[u8]) -> Result<()>) -> Result<(), Fault> {
        decode(0, &mut Objects::of(object.to_vec().into()), buffer, sink)
    }

    /// Blocks that claim any length, matches that repeat a byte for ever, frames in a row:
    /// what comes out is what LZ4 can make of so many bytes, in buffers of one size.
    #[test]
    fn no_compressed_object_crashes_or_takes_memory_beyond_its_buffers() {
        let content: Vec<u8> =
            (0..40_000_u32).map(|at| if at % 4096 < 3000 { 0 } else { (at * 7 % 251) as u8 }).collect();
        let plain = FrameInfo::new().block_size(BlockSize::Max64KB);
        let summed = FrameInfo::new().content_checksum(true).block_checksums(true).content_size(Some(40_000));
        let linked = FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max4MB);
        let frames = [plain, summed, linked].map(|info| compressed(info, &content));
        let buffer = RefCell::new(vec![0; BUFFER_LEN]);
        for frame in &frames {
            let mut decoded = Vec::new();
            let sink = |bytes: &[u8]| {
                decoded.extend_from_slice(bytes);
                Ok(())
            };
            assert!(decode_one(frame, &mut buffer.borrow_mut(), sink).is_ok());
            assert!(decoded == content);
        }
        let twice = [frames[0].clone(), frames[1].clone()].concat();
        let words =
            [&[0x04, 0x22, 0x4d, 0x18][..], &[0xff; 4], &[0; 4], &[0xff, 0xff, 0xff, 0x7f], &[0x00, 0x00, 0x40, 0x80]];
        Target::new("lz4 frames", frames.into_iter().chain([twice])).words(&words).run(|input| {
            // A block of the largest size, two more for what it becomes, and a window.
            let bound = Bound { base: 13 << 20, per_byte: 2 };
            let mut len = 0;
            let sink = |bytes: &[u8]| {
                len += bytes.len();
                Ok(())
            };
            match bounded(input.len(), bound, || decode_one(input, &mut buffer.borrow_mut(), sink)) {
                Ok(()) => {}
                Err(Fault::Object(0, error)) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
                Err(_) => panic!("another fault than the object's"),
            }
            // A byte of a length stands for 255.
            assert!(len <= 255 * input.len() + 64, "{len} bytes from {}", input.len());
        });
    }
}
