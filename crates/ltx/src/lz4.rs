//! LZ4 blocks: one page in, one block out, and back.
//!
//! The matcher takes the decisions of upstream's, so that equal pages give
//! equal bytes and files can be compared whole. Nothing depends on that for
//! reading: any LZ4 block will do.
//!
//! Spec: ltx §4.3, Appendix A.

#![allow(
    clippy::indexing_slicing,
    reason = "positions are bounded by the page length; see the bound beside each loop, and bounds stay checked"
)]

use std::ops::Range;

/// Longest possible block of a page of `len` bytes.
pub(crate) const fn block_bound(len: usize) -> usize {
    len + len / 255 + 16
}

/// Compresses pages, keeping its table between them.
pub(crate) struct Compressor {
    /// By hash, the stream position of its last occurrence. Positions count over
    /// all pages, so that entries of earlier pages lie before `origin` and need
    /// no clearing.
    table: Box<[u32; TABLE_LEN]>,
    /// Stream position of the present page's first byte.
    origin: u32,
}

impl Compressor {
    pub(crate) fn new() -> Self {
        Self { table: empty_table(), origin: 1 }
    }

    /// Appends the block for `page` to `out`; at most [`block_bound`] bytes.
    pub(crate) fn compress(&mut self, page: &[u8], out: &mut Vec<u8>) {
        let end = u32::try_from(page.len()).ok().and_then(|len| self.origin.checked_add(len));
        let Some(end) = end else {
            // Positions run out after 4 GiB of pages.
            *self = Self::new();
            return self.compress(page, out);
        };
        let start = out.len();
        out.resize(start + block_bound(page.len()), 0);
        let len = self.sequences(page, &mut out[start..]);
        out.truncate(start + len);
        self.origin = end;
    }

    /// Writes the block into `out`, which has room for the longest; gives its length.
    fn sequences(&mut self, page: &[u8], out: &mut [u8]) -> usize {
        let limit = page.len().saturating_sub(MATCH_MARGIN);
        let mut out = Output { bytes: out, len: 0 };
        let (mut at, mut anchor) = (0, 0);
        // Every read below is of 8 bytes at `limit + 2` or before: inside the page.
        while at < limit {
            let word = le64(page, at);
            // Both lookups come before both stores.
            let (slot0, slot1) = (hash(word), hash(word >> 8));
            let (seen0, seen1) = (self.seen(slot0), self.seen(slot1));
            self.store(slot0, at);
            self.store(slot1, at + 1);

            let distance;
            if is_match(page, at, seen0, word) {
                distance = at - seen0;
            } else {
                let slot2 = hash(word >> 16);
                let seen2 = self.seen(slot2);
                at += 1;
                if is_match(page, at, seen1, word >> 8) {
                    distance = at - seen1;
                } else {
                    at += 1;
                    self.store(slot2, at);
                    if is_match(page, at, seen2, word >> 16) {
                        distance = at - seen2;
                    } else {
                        at += 2 + ((at - anchor) >> 7);
                        continue;
                    }
                }
            }

            let mut end = at + MIN_MATCH;
            while at > anchor && at > distance && page[at - 1] == page[at - distance - 1] {
                at -= 1;
            }
            while end + 8 <= limit {
                let difference = le64(page, end) ^ le64(page, end - distance);
                if difference != 0 {
                    end += (difference.trailing_zeros() / 8) as usize;
                    break;
                }
                end += 8;
            }
            out.sequence(page, anchor..at, distance, end - at - MIN_MATCH);
            (at, anchor) = (end, end);
            if at >= limit {
                break;
            }
            self.store(hash(le64(page, at - 2)), at - 2);
        }
        out.literals(page, anchor..page.len(), 0);
        out.len
    }

    /// Where the hash was last seen in this page; a hash not seen reads as 0.
    fn seen(&self, slot: u16) -> usize {
        self.table[usize::from(slot)].saturating_sub(self.origin) as usize
    }

    #[allow(clippy::cast_possible_truncation, reason = "positions in a page fit u32")]
    fn store(&mut self, slot: u16, at: usize) {
        self.table[usize::from(slot)] = self.origin + at as u32;
    }
}

/// Decodes `block` into exactly `page.len()` bytes.
///
/// Rejects what upstream's decoder rejects: output past the page, bytes after the
/// block's end, a final token with the nibble of a match. Rejects short output as
/// well, which upstream's does not (spec: ltx §4.3, §11). On failure `page` holds
/// nothing of use.
pub(crate) fn decompress(block: &[u8], page: &mut [u8]) -> Result<(), &'static str> {
    match decoded_len(block, page) {
        Some(len) if len == page.len() => Ok(()),
        Some(_) => Err("decoded page is too short"),
        None => Err("invalid source or destination buffer too short"),
    }
}

/// Decodes `block` to the start of `page`; `None` when it is no block or too long.
///
/// Copies sixteen bytes at once wherever input and output have room for them:
/// bytes too many are overwritten by the next sequence.
fn decoded_len(block: &[u8], page: &mut [u8]) -> Option<usize> {
    let (mut from, mut to) = (0, 0);
    loop {
        let token = *block.get(from)?;
        from += 1;
        let mut literals = usize::from(token >> 4);
        if literals == 15 {
            literals += extension(block, &mut from)?;
        }
        match (block.get(from..)?.first_chunk::<16>(), page.get_mut(to..)?.first_chunk_mut::<16>()) {
            (Some(source), Some(target)) if literals <= 16 => *target = *source,
            _ => page.get_mut(to..to + literals)?.copy_from_slice(block.get(from..from + literals)?),
        }
        from += literals;
        to += literals;
        if from == block.len() {
            return (token & 0x0f == 0).then_some(to);
        }

        let distance = usize::from(u16::from_le_bytes(*block.get(from..)?.first_chunk()?));
        from += 2;
        let mut length = MIN_MATCH + usize::from(token & 0x0f);
        if token & 0x0f == 15 {
            length += extension(block, &mut from)?;
        }
        copy_match(page, to, distance, length)?;
        to += length;
    }
}

/// Copies `length` bytes within `page` to `to`, from `distance` bytes before; the
/// two may overlap, which repeats the bytes between.
#[inline]
fn copy_match(page: &mut [u8], to: usize, distance: usize, length: usize) -> Option<()> {
    let source = to.checked_sub(distance).filter(|_| distance != 0)?;
    let end = to + length;
    if distance >= 16 && end + 16 <= page.len() {
        let mut done = 0;
        while done < length {
            let bytes = *page.get(source + done..)?.first_chunk::<16>()?;
            *page.get_mut(to + done..)?.first_chunk_mut::<16>()? = bytes;
            done += 16;
        }
    } else if end > page.len() {
        return None;
    } else if distance == 1 {
        let byte = *page.get(source)?;
        page.get_mut(to..end)?.fill(byte);
    } else {
        // Each round doubles what there is to copy from.
        let mut done = to;
        while done < end {
            let count = (done - source).min(end - done);
            page.copy_within(source..source + count, done);
            done += count;
        }
    }
    Some(())
}

/// Reads the bytes that extend a length of 15: 255s and one smaller.
fn extension(block: &[u8], at: &mut usize) -> Option<usize> {
    let mut sum = 0;
    loop {
        let byte = *block.get(*at)?;
        *at += 1;
        sum += usize::from(byte);
        if byte != 255 {
            return Some(sum);
        }
    }
}

/// A block in the making.
struct Output<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Output<'_> {
    /// Literals, then a match; `extra` is its length beyond the least.
    #[inline]
    fn sequence(&mut self, page: &[u8], literals: Range<usize>, distance: usize, extra: usize) {
        self.literals(page, literals, nibble(extra));
        #[allow(clippy::cast_possible_truncation, reason = "is_match accepts distances below 65536 only")]
        let distance = (distance as u16).to_le_bytes();
        self.bytes[self.len..self.len + 2].copy_from_slice(&distance);
        self.len += 2;
        self.extend_length(extra);
    }

    /// A token and its literals.
    #[inline]
    fn literals(&mut self, page: &[u8], range: Range<usize>, match_nibble: u8) {
        self.push(nibble(range.len()) << 4 | match_nibble);
        self.extend_length(range.len());
        // Most runs are short, and sixteen bytes at once are cheaper than a call.
        // What is copied too much will be overwritten.
        let (source, target) = (&page[range.start..], &mut self.bytes[self.len..]);
        match (source.first_chunk::<16>(), target.first_chunk_mut::<16>()) {
            (Some(source), Some(target)) if range.len() <= 16 => *target = *source,
            _ => target[..range.len()].copy_from_slice(&source[..range.len()]),
        }
        self.len += range.len();
    }

    /// The bytes that extend a length of 15 in the token.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "below 255 after the loop")]
    fn extend_length(&mut self, length: usize) {
        if let Some(mut rest) = length.checked_sub(15) {
            while rest >= 255 {
                self.push(255);
                rest -= 255;
            }
            self.push(rest as u8);
        }
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

#[allow(clippy::cast_possible_truncation, reason = "at most 15")]
fn nibble(length: usize) -> u8 {
    length.min(15) as u8
}

/// `seen` is a position of the page, before or after `at`.
fn is_match(page: &[u8], at: usize, seen: usize, word: u64) -> bool {
    // A distance of zero, or one that wrapped round, is no match.
    at.wrapping_sub(seen).wrapping_sub(1) < MAX_DISTANCE && le32(page, seen) == word & 0xffff_ffff
}

/// Of the low six bytes of `word`.
fn hash(word: u64) -> u16 {
    (((word << 16).wrapping_mul(227_718_039_650_203)) >> 48) as u16
}

fn le64(page: &[u8], at: usize) -> u64 {
    let bytes: [u8; 8] = match page[at..at + 8].first_chunk() {
        Some(bytes) => *bytes,
        None => unreachable!("a slice of eight"),
    };
    u64::from_le_bytes(bytes)
}

fn le32(page: &[u8], at: usize) -> u64 {
    let bytes: [u8; 4] = match page[at..at + 4].first_chunk() {
        Some(bytes) => *bytes,
        None => unreachable!("a slice of four"),
    };
    u64::from(u32::from_le_bytes(bytes))
}

fn empty_table() -> Box<[u32; TABLE_LEN]> {
    match vec![0; TABLE_LEN].into_boxed_slice().try_into() {
        Ok(table) => table,
        Err(_) => unreachable!("the vector has the array's length"),
    }
}

const TABLE_LEN: usize = 1 << 16;
const MIN_MATCH: usize = 4;
const MAX_DISTANCE: usize = 65535;
/// No match starts in the last 14 bytes; more than LZ4's own 12.
const MATCH_MARGIN: usize = 14;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    #[test]
    fn a_block_of_noise_is_one_literal_run_longer_than_the_page() {
        let mut state = 1_u64;
        let page: Vec<u8> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let mut block = Vec::new();
        Compressor::new().compress(&page, &mut block);
        assert_eq!(block.len(), 4114);
        let mut decoded = vec![0; 4096];
        decompress(&block, &mut decoded).unwrap();
        assert_eq!(decoded, page);
    }

    #[test]
    fn a_used_compressor_writes_what_a_fresh_one_writes() {
        let mut used = Compressor::new();
        // Positions run out within the loop.
        used.origin = u32::MAX - 5_000;
        for round in 0..40_u32 {
            let page: Vec<u8> = (0..1024_u32).map(|i| ((i * i * (round / 2 + 1)) >> 7 & 0xff) as u8).collect();
            let (mut got, mut expected) = (Vec::new(), Vec::new());
            used.compress(&page, &mut got);
            Compressor::new().compress(&page, &mut expected);
            assert_eq!(got, expected, "round {round}");
        }
    }

    #[test]
    fn damaged_blocks_are_refused() {
        let page = [0; 512];
        let mut block = Vec::new();
        Compressor::new().compress(&page, &mut block);
        let mut decoded = [1; 512];
        decompress(&block, &mut decoded).unwrap();
        assert_eq!(decoded, page);

        let trailing: Vec<u8> = block.iter().copied().chain([0]).collect();
        decompress(&trailing, &mut decoded).unwrap_err();
        decompress(&block, &mut [0; 511]).unwrap_err();
        decompress(&block, &mut [0; 513]).unwrap_err();
        decompress(&block[..block.len() - 1], &mut decoded).unwrap_err();
        decompress(&[], &mut decoded).unwrap_err();
        // The final token has literals only; the nibble of a match means nothing.
        let token = block.iter().rposition(|byte| *byte != 0).unwrap();
        for nibble in 1..16 {
            block[token] = block[token] & 0xf0 | nibble;
            decompress(&block, &mut decoded).unwrap_err();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Blocks of both compressors, then damaged.
        #[test]
        fn another_decoder_agrees_but_for_the_final_nibble(
            unit in vec(0..4_u8, 1..60),
            tail in vec(any::<u8>(), 0..40),
            foreign in any::<bool>(),
            damage in vec((any::<Index>(), any::<u8>()), 0..3),
        ) {
            let mut page: Vec<u8> = unit.iter().copied().cycle().take(512 - tail.len()).collect();
            page.extend(&tail);
            let mut block = Vec::new();
            if foreign {
                block = lz4_flex::block::compress(&page);
            } else {
                Compressor::new().compress(&page, &mut block);
            }
            for (at, byte) in damage {
                let at = at.index(block.len());
                block[at] = byte;
            }
            let (mut ours, mut theirs) = ([0; 512], [0; 512]);
            let sound = decompress(&block, &mut ours).is_ok();
            let expected = matches!(lz4_flex::block::decompress_into(&block, &mut theirs), Ok(512))
                && final_token(&block).is_some_and(|token| token & 0x0f == 0);
            prop_assert_eq!(sound, expected);
            if sound {
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    /// The token of the last sequence, which ends with its literals.
    fn final_token(block: &[u8]) -> Option<u8> {
        let mut at = 0;
        loop {
            let token = *block.get(at)?;
            at += 1;
            let mut literals = usize::from(token >> 4);
            if literals == 15 {
                literals += extension(block, &mut at)?;
            }
            at += literals;
            if at >= block.len() {
                return Some(token);
            }
            at += 2;
            if token & 0x0f == 15 {
                extension(block, &mut at)?;
            }
        }
    }
}
