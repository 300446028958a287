//! Builds files byte by byte, also wrong ones, with a file checksum that fits.
//!
//! Shares no code with the library: blocks come from lz4_flex, checksums from
//! the `crc` crate.

#![allow(dead_code, reason = "each test target uses its part")]
#![allow(clippy::cast_possible_truncation, reason = "lengths of pages, and bytes cut from words")]

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::io::Write;

/// CRC-64/GO-ISO of another implementation.
pub(crate) fn crc64(bytes: &[u8]) -> u64 {
    crc::Crc::<u64>::new(&crc::CRC_64_GO_ISO).checksum(bytes)
}

/// One file in the making. Every part can be replaced before [`Forge::build`].
#[derive(Clone)]
pub(crate) struct Forge {
    pub(crate) header: [u8; 100],
    /// Bytes of each frame, and what the file checksum covers of it.
    pub(crate) frames: Vec<(u32, Vec<u8>, Vec<u8>)>,
    pub(crate) end: Vec<u8>,
    pub(crate) index: Option<Vec<u8>>,
    pub(crate) index_len: Option<u64>,
    pub(crate) post_apply: u64,
    pub(crate) file_checksum: Option<u64>,
}

impl Forge {
    pub(crate) fn new(page_size: u32, commit: u32, min: u64, max: u64) -> Self {
        let mut header = [0; 100];
        header[..4].copy_from_slice(b"LTX1");
        header[7] = 2;
        header[8..12].copy_from_slice(&page_size.to_be_bytes());
        header[12..16].copy_from_slice(&commit.to_be_bytes());
        header[16..24].copy_from_slice(&min.to_be_bytes());
        header[24..32].copy_from_slice(&max.to_be_bytes());
        header[32..40].copy_from_slice(&1_795_341_969_131_u64.to_be_bytes());
        Self {
            header,
            frames: Vec::new(),
            end: vec![0; 6],
            index: None,
            index_len: None,
            post_apply: 0,
            file_checksum: None,
        }
    }

    /// Overwrites header bytes.
    pub(crate) fn at(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.header[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Switches checksum tracking on.
    pub(crate) fn tracked(self, pre_apply: u64, post_apply: u64) -> Self {
        Self { post_apply, ..self.at(4, &[0; 4]).at(40, &pre_apply.to_be_bytes()) }
    }

    /// A page in block encoding.
    pub(crate) fn page(self, pgno: u32, data: &[u8]) -> Self {
        let payload = lz4_flex::block::compress(data);
        self.payload(pgno, 1, &payload, data)
    }

    /// A page with the given flags and payload that is hashed as `data`.
    pub(crate) fn payload(self, pgno: u32, flags: u16, payload: &[u8], data: &[u8]) -> Self {
        let mut head = [&pgno.to_be_bytes()[..], &flags.to_be_bytes()].concat();
        if flags & 1 != 0 {
            head.extend(&(payload.len() as u32).to_be_bytes());
        }
        let hashed = [&head[..], data].concat();
        self.frame(pgno, [&head[..], payload].concat(), hashed)
    }

    /// A page in frame encoding, as 0.5.0 … 0.5.15 wrote it.
    pub(crate) fn legacy(self, pgno: u32, data: &[u8]) -> Self {
        self.legacy_with(pgno, data, legacy_info())
    }

    /// A page in frame encoding with other options.
    pub(crate) fn legacy_with(self, pgno: u32, data: &[u8], info: FrameInfo) -> Self {
        let frame = lz4_frame(data, info);
        self.payload(pgno, 0, &frame, data)
    }

    pub(crate) fn frame(mut self, pgno: u32, bytes: Vec<u8>, hashed: Vec<u8>) -> Self {
        self.frames.push((pgno, bytes, hashed));
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let (mut file, mut hashed, mut index) = (self.header.to_vec(), self.header.to_vec(), Vec::new());
        for (pgno, bytes, covered) in &self.frames {
            for value in [u64::from(*pgno), file.len() as u64, bytes.len() as u64] {
                uvarint(value, &mut index);
            }
            file.extend(bytes);
            hashed.extend(covered);
        }
        index.push(0);
        let index = self.index.clone().unwrap_or(index);
        let tail = [
            &self.end[..],
            &index,
            &self.index_len.unwrap_or(index.len() as u64).to_be_bytes(),
            &self.post_apply.to_be_bytes(),
        ]
        .concat();
        file.extend(&tail);
        hashed.extend(&tail);
        let checksum = self.file_checksum.unwrap_or(1 << 63 | crc64(&hashed));
        file.extend(checksum.to_be_bytes());
        file
    }
}

pub(crate) fn legacy_info() -> FrameInfo {
    FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB).content_checksum(true)
}

pub(crate) fn lz4_frame(data: &[u8], info: FrameInfo) -> Vec<u8> {
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn uvarint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A page that is recognisable and compresses a little.
pub(crate) fn page(page_size: usize, seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..page_size)
        .map(|i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if i % 64 < 24 { (state >> 56) as u8 } else { seed as u8 }
        })
        .collect()
}
