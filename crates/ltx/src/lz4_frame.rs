//! LZ4 frames: the page encoding of 0.5.0 to 0.5.15, for reading only.
//!
//! Nothing gives a frame's length, and a frame reader reads ahead for another
//! frame, which would swallow the next page. So the end is found by hand first,
//! and the frame is decoded from exactly its own bytes.
//!
//! Spec: ltx §4.4.

use std::io::Read;

use lz4_flex::frame::FrameDecoder;

use crate::lz4::block_bound;

/// Finds the end of the frame at the start of `bytes`.
///
/// `Ok(Err(n))` means: at least `n` bytes are needed to say more. The length is
/// bounded, so a damaged frame cannot ask for endless input.
pub(crate) fn frame_len(bytes: &[u8], page_len: usize) -> Result<Result<usize, usize>, &'static str> {
    let Some(descriptor) = bytes.get(..6) else { return Ok(Err(7)) };
    let [m0, m1, m2, m3, flags, _] = *descriptor else { unreachable!("a slice of six") };
    if [m0, m1, m2, m3] != MAGIC {
        return Err("bad magic number");
    }
    if flags >> 6 != 1 {
        return Err("unsupported frame version");
    }
    if flags & CONTENT_CHECKSUM == 0 {
        return Err("expected lz4 end frame");
    }
    let mut at = 7;
    if flags & CONTENT_SIZE != 0 {
        at += 8;
    }
    if flags & DICTIONARY_ID != 0 {
        at += 4;
    }
    loop {
        if at > longest(page_len) {
            return Err("frame is longer than any page");
        }
        let Some(size) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else { return Ok(Err(at + 4)) };
        at += 4;
        let size = u32::from_le_bytes(*size) & !STORED;
        if size == 0 {
            // The content checksum ends the frame.
            return Ok(if bytes.len() < at + 4 { Err(at + 4) } else { Ok(at + 4) });
        }
        at = at.saturating_add(size as usize);
        if flags & BLOCK_CHECKSUM != 0 {
            at += 4;
        }
    }
}

/// Decodes one whole frame into exactly `page.len()` bytes; checks its checksums.
pub(crate) fn decompress(frame: &[u8], page: &mut [u8]) -> Result<(), &'static str> {
    let mut decoder = FrameDecoder::new(frame);
    decoder.read_exact(page).map_err(|_| "invalid frame or frame too short")?;
    // The decoder checks the content checksum when it is asked beyond the end.
    match decoder.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("frame is longer than a page"),
        Err(_) => Err("expected lz4 end frame"),
    }
}

/// Longest frame worth looking at: writers put a page into one block; twice that
/// leaves room for any sensible division.
const fn longest(page_len: usize) -> usize {
    2 * block_bound(page_len) + 64
}

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
const DICTIONARY_ID: u8 = 0x01;
const CONTENT_CHECKSUM: u8 = 0x04;
const CONTENT_SIZE: u8 = 0x08;
const BLOCK_CHECKSUM: u8 = 0x10;
const STORED: u32 = 1 << 31;
