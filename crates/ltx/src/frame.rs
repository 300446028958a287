//! One page in a file: its number, its flags, its compressed content.
//!
//! Two encodings exist and may alternate within a file (spec: ltx §4).
//!
//! ```text
//! block:  pgno u32 | 0001 u16 | payload size u32 | LZ4 block      (written since 0.5.16)
//! frame:  pgno u32 | 0000 u16 | LZ4 frame                         (0.5.0 … 0.5.15)
//! end:    0000 0000 | 0000                                         end of the page block
//! ```

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::{PageSize, Pgno, lz4, lz4_frame};

/// What starts at some byte of the page block.
pub(crate) enum Extent {
    /// Not to be told before this many bytes are at hand.
    Need(usize),
    /// The end marker, [`END`].
    End,
    /// A frame.
    Frame(Frame),
}

/// Measures of one frame.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) pgno: Pgno,
    /// 10 for the block encoding, 6 for the frame encoding.
    pub(crate) head_len: usize,
    /// Head and payload.
    pub(crate) len: usize,
}

impl Frame {
    /// Whether this is the encoding written since 0.5.16.
    pub(crate) fn is_block(&self) -> bool {
        self.head_len == BLOCK_HEAD_LEN
    }

    /// Decodes the frame, given its bytes, into `page`.
    pub(crate) fn decode(&self, bytes: &[u8], page: &mut [u8]) -> Result<()> {
        let payload = bytes.get(self.head_len..self.len).ok_or(Error::Truncated { part: PART })?;
        let decoded =
            if self.is_block() { lz4::decompress(payload, page) } else { lz4_frame::decompress(payload, page) };
        decoded.map_err(|reason| Error::Payload { pgno: self.pgno.get(), reason })
    }
}

/// Measures the frame at the start of `bytes`.
///
/// # Errors
/// Every head that no frame can have, before anything is allocated for it.
pub(crate) fn extent(bytes: &[u8], page_size: PageSize) -> Result<Extent> {
    let Some((number, rest)) = bytes.split_first_chunk() else { return Ok(Extent::Need(END.len())) };
    let Some((flags, rest)) = rest.split_first_chunk() else { return Ok(Extent::Need(END.len())) };
    let (number, flags) = (u32::from_be_bytes(*number), u16::from_be_bytes(*flags));
    let Some(pgno) = Pgno::new(number) else {
        return if flags == 0 { Ok(Extent::End) } else { Err(Error::PgnoRequired) };
    };
    match flags {
        FLAG_SIZE => {
            let Some(size) = rest.first_chunk() else { return Ok(Extent::Need(BLOCK_HEAD_LEN)) };
            let size = u32::from_be_bytes(*size);
            if size == 0 || size as usize > lz4::block_bound(page_size.len()) {
                return Err(Error::PayloadSize { pgno: number, size: u64::from(size) });
            }
            let len = BLOCK_HEAD_LEN + size as usize;
            Ok(Extent::Frame(Frame { pgno, head_len: BLOCK_HEAD_LEN, len }))
        }
        0 => {
            let head_len = END.len();
            match lz4_frame::frame_len(rest, page_size.len()) {
                Ok(Ok(len)) => Ok(Extent::Frame(Frame { pgno, head_len, len: head_len + len })),
                Ok(Err(need)) => Ok(Extent::Need(head_len + need)),
                Err(reason) => Err(Error::Payload { pgno: number, reason }),
            }
        }
        _ => Err(Error::PageFlags { flags }),
    }
}

/// Decodes exactly one frame, in either encoding, into `page`.
///
/// For readers that fetch single frames by the page index (spec: ltx §6.4);
/// compare the page number returned with the one asked for.
///
/// # Errors
/// Every damage that shows without the file checksum: a head no frame has, a
/// payload that does not give exactly one page, bytes missing or left over.
/// `page` then holds nothing of use. [`Error::BufferSize`] when `page` is not
/// one page long.
pub fn decode_frame(frame: &[u8], page_size: PageSize, page: &mut [u8]) -> Result<Pgno> {
    require_page(page, page_size)?;
    match extent(frame, page_size)? {
        Extent::Need(_) => Err(Error::Truncated { part: PART }),
        Extent::End => Err(Error::PgnoRequired),
        Extent::Frame(found) if found.len < frame.len() => Err(Error::FrameTrailingBytes { pgno: found.pgno.get() }),
        Extent::Frame(found) => found.decode(frame, page).map(|()| found.pgno),
    }
}

/// What [`decode_run`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedRun {
    /// What the file checksum covers of these frames.
    pub digest: Digest,
    /// Number of frames.
    pub page_count: u64,
    /// First page number, if any.
    pub first: Option<Pgno>,
    /// Last page number, if any.
    pub last: Option<Pgno>,
}

/// Decodes frames that lie back to back, giving each page to `sink`.
///
/// The unit of parallel reading: cut the page block at frame boundaries taken
/// from the page index, decode the parts anywhere, then join the digests in
/// order (with those of header, end marker and so on, see [`Digest`]) and compare
/// with the file checksum. The end marker is not part of a run.
///
/// # Errors
/// As [`decode_frame`], [`Error::PageOrder`] when pages do not ascend, and
/// whatever `sink` returns. Pages before the damage have reached the sink.
pub fn decode_run<E: From<Error>>(
    bytes: &[u8],
    page_size: PageSize,
    mut sink: impl FnMut(Pgno, &[u8]) -> Result<(), E>,
) -> Result<DecodedRun, E> {
    let mut page = vec![0; page_size.len()];
    let mut hasher = Hasher::new();
    let mut run = DecodedRun { digest: Digest::EMPTY, page_count: 0, first: None, last: None };
    let mut rest = bytes;
    while !rest.is_empty() {
        let Extent::Frame(frame) = extent(rest, page_size)? else { return Err(Error::Truncated { part: PART }.into()) };
        let Some((bytes, after)) = rest.split_at_checked(frame.len) else {
            return Err(Error::Truncated { part: PART }.into());
        };
        if let Some(last) = run.last.filter(|last| *last >= frame.pgno) {
            return Err(Error::PageOrder { previous: last.get(), pgno: frame.pgno.get() }.into());
        }
        frame.decode(bytes, &mut page)?;
        hasher.update(bytes.get(..frame.head_len).unwrap_or_default());
        hasher.update(&page);
        sink(frame.pgno, &page)?;
        run.page_count += 1;
        run.first = run.first.or(Some(frame.pgno));
        run.last = Some(frame.pgno);
        rest = after;
    }
    run.digest = hasher.digest();
    Ok(run)
}

/// The head of a frame in block encoding.
pub(crate) fn block_head(pgno: Pgno, payload_len: u32) -> [u8; BLOCK_HEAD_LEN] {
    let ([a, b, c, d], [e, f]) = (pgno.get().to_be_bytes(), FLAG_SIZE.to_be_bytes());
    let [g, h, i, j] = payload_len.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j]
}

/// Refuses buffers that are not one page long.
pub(crate) fn require_page(page: &[u8], page_size: PageSize) -> Result<()> {
    if page.len() == page_size.len() { Ok(()) } else { Err(Error::BufferSize { len: page.len(), page_size }) }
}

/// Closes the page block: a page number and flags of zero.
pub(crate) const END: [u8; 6] = [0; 6];
/// Page number, flags and payload size.
pub(crate) const BLOCK_HEAD_LEN: usize = 10;
/// The page flag that says a payload size follows.
const FLAG_SIZE: u16 = 0x0001;
const PART: &str = "page frame";
