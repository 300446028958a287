//! SQLite's log as its file format describes it, read without the code under test.
//!
//! Source: SQLite "Database File Format" §4.

/// What stands in a log: where each commit ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// Salts of the present generation.
    pub(crate) salts: u64,
    /// Length of a frame with its page.
    frame_len: usize,
    /// Sound frames up to and with the last commit.
    pub(crate) frames: usize,
    /// Frame counts at which a transaction ends, ascending.
    pub(crate) commits: Vec<usize>,
}

impl Log {
    /// Reads a log front to back until it makes no sense any more.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self::try_parse(bytes).unwrap_or_default()
    }

    fn try_parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_LEN)?;
        let big_endian = word(header, 0)? == 0x377f_0683;
        let page_size = usize::try_from(word(header, 8)?).ok()?;
        let page_size = if page_size == 1 { 65536 } else { page_size };
        let salts = header.get(16..24)?;
        let mut sum = add((0, 0), header.get(..24)?, big_endian);
        if (word(header, 24)?, word(header, 28)?) != sum {
            return None;
        }
        let frame_len = page_size + FRAME_HEADER_LEN;
        let mut log = Self { salts: u64::from_be_bytes(salts.try_into().ok()?), frame_len, ..Self::default() };
        for (index, frame) in bytes.get(HEADER_LEN..)?.chunks_exact(frame_len).enumerate() {
            sum = add(sum, frame.get(..8)?, big_endian);
            sum = add(sum, frame.get(FRAME_HEADER_LEN..)?, big_endian);
            if frame.get(8..16)? != salts || (word(frame, 16)?, word(frame, 20)?) != sum {
                break;
            }
            if word(frame, 4)? != 0 {
                log.frames = index + 1;
                log.commits.push(index + 1);
            }
        }
        Some(log)
    }

    /// Length of the file up to and with so many frames.
    pub(crate) fn len_of(&self, frames: usize) -> usize {
        HEADER_LEN + frames * self.frame_len
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn add((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let value = |word: [u8; 4]| if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) };
    for pair in bytes.as_chunks::<4>().0.chunks_exact(2) {
        if let [first, second] = pair {
            a = a.wrapping_add(value(*first)).wrapping_add(b);
            b = b.wrapping_add(value(*second)).wrapping_add(a);
        }
    }
    (a, b)
}

const HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 24;
