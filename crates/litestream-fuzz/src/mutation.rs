//! One way to damage an input.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One way to damage an input. Places are chosen by [`Index`], so that a mutation
/// fits inputs of any length and shrinks toward their start.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Inverts one bit.
    Flip {
        /// The byte.
        at: Index,
        /// The bit, 0 to 7.
        bit: u8,
    },
    /// Overwrites bytes with a number, as counts, sizes and offsets are stored.
    Number {
        /// The first byte.
        at: Index,
        /// 1, 2, 4 or 8 bytes.
        width: usize,
        /// Most significant byte first.
        big_endian: bool,
        /// The number, cut to `width`.
        value: u64,
    },
    /// Adds to the number that stands there.
    Nudge {
        /// The first byte.
        at: Index,
        /// 1, 2, 4 or 8 bytes.
        width: usize,
        /// Most significant byte first.
        big_endian: bool,
        /// What is added, wrapping round.
        by: i64,
    },
    /// Ends the input.
    Cut {
        /// The new length.
        at: Index,
    },
    /// Takes bytes out.
    Remove {
        /// The first one.
        at: Index,
        /// How many.
        len: usize,
    },
    /// Inserts bytes behind themselves, again and again.
    Repeat {
        /// The first one.
        at: Index,
        /// How many.
        len: usize,
        /// How often.
        times: usize,
    },
    /// Moves bytes to another place.
    Move {
        /// The first one.
        from: Index,
        /// How many.
        len: usize,
        /// Where they go.
        to: Index,
    },
    /// Inserts a word of the grammar.
    Word {
        /// Before this byte.
        at: Index,
        /// Which word.
        word: Index,
        /// How often.
        times: usize,
    },
    /// Overwrites bytes with a word of the grammar.
    Over {
        /// The first byte.
        at: Index,
        /// Which word.
        word: Index,
    },
    /// Goes on as another input does.
    Splice {
        /// The first byte that is replaced.
        at: Index,
        /// The other input.
        other: Index,
        /// Its first byte that is taken.
        from: Index,
    },
    /// Inserts bytes without sense.
    Noise {
        /// Before this byte.
        at: Index,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

impl Mutation {
    /// Any mutation.
    pub fn any() -> impl Strategy<Value = Self> {
        let at = any::<Index>;
        let width = || select(&[1_usize, 2, 4, 8][..]);
        let len = || prop_oneof![1..9_usize, 1..600_usize];
        let times = || prop_oneof![4 => 1..4_usize, 1 => 4..20_000_usize];
        prop_oneof![
            (at(), 0..8_u8).prop_map(|(at, bit)| Self::Flip { at, bit }),
            (at(), width(), any::<bool>(), number()).prop_map(|(at, width, big_endian, value)| Self::Number {
                at,
                width,
                big_endian,
                value
            }),
            (at(), width(), any::<bool>(), -3..4_i64).prop_map(|(at, width, big_endian, by)| Self::Nudge {
                at,
                width,
                big_endian,
                by
            }),
            at().prop_map(|at| Self::Cut { at }),
            (at(), len()).prop_map(|(at, len)| Self::Remove { at, len }),
            (at(), len(), times()).prop_map(|(at, len, times)| Self::Repeat { at, len, times }),
            (at(), len(), at()).prop_map(|(from, len, to)| Self::Move { from, len, to }),
            (at(), at(), times()).prop_map(|(at, word, times)| Self::Word { at, word, times }),
            (at(), at()).prop_map(|(at, word)| Self::Over { at, word }),
            (at(), at(), at()).prop_map(|(at, other, from)| Self::Splice { at, other, from }),
            (at(), proptest::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Self::Noise { at, bytes }),
        ]
    }

    /// Damages `input`, which grows to [`MAX_LEN`] at most. `words` and `corpus` are
    /// the target's.
    pub(crate) fn apply(&self, input: &mut Vec<u8>, words: &[Vec<u8>], corpus: &[Vec<u8>]) {
        match self {
            Self::Flip { at, bit } => {
                if let Some(byte) = pick(input, at).and_then(|at| input.get_mut(at)) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Number { at, width, big_endian, value } => {
                let at = place(input, at, *width);
                store(input, at, *width, *big_endian, |_| *value);
            }
            Self::Nudge { at, width, big_endian, by } => {
                let at = place(input, at, *width);
                store(input, at, *width, *big_endian, |value| value.wrapping_add_signed(*by));
            }
            Self::Cut { at } => input.truncate(at.index(input.len() + 1)),
            Self::Remove { at, len } => {
                let range = range(input, at, *len);
                input.drain(range);
            }
            Self::Repeat { at, len, times } => {
                let range = range(input, at, *len);
                let piece = input.get(range.clone()).unwrap_or_default().to_vec();
                insert(input, range.end, &piece, *times);
            }
            Self::Move { from, len, to } => {
                let piece: Vec<u8> = input.drain(range(input, from, *len)).collect();
                let to = to.index(input.len() + 1);
                input.splice(to..to, piece);
            }
            Self::Word { at, word, times } => {
                let at = at.index(input.len() + 1);
                insert(
                    input,
                    at,
                    pick(words, word).and_then(|word| words.get(word)).map_or(&[], Vec::as_slice),
                    *times,
                );
            }
            Self::Over { at, word } => {
                let Some(word) = pick(words, word).and_then(|word| words.get(word)) else { return };
                let range = range(input, at, word.len());
                input.splice(range, word.iter().copied());
            }
            Self::Splice { at, other, from } => {
                let Some(other) = pick(corpus, other).and_then(|other| corpus.get(other)) else { return };
                input.truncate(at.index(input.len() + 1));
                let from = from.index(other.len() + 1);
                input.extend_from_slice(other.get(from..).unwrap_or_default());
            }
            Self::Noise { at, bytes } => insert(input, at.index(input.len() + 1), bytes, 1),
        }
        input.truncate(MAX_LEN);
    }
}

/// Numbers at the edges of what fields hold.
fn number() -> impl Strategy<Value = u64> {
    let edges: Vec<u64> = [0_u64, 8, 15, 16, 31, 32, 47, 62, 63]
        .into_iter()
        .flat_map(|bit| [(1_u64 << bit).wrapping_sub(1), 1 << bit, (1 << bit) + 1])
        .chain([u64::MAX, u64::MAX - 1, u64::MAX - 23, u64::from(u32::MAX) * 512])
        .collect();
    prop_oneof![4 => select(edges), 1 => any::<u64>(), 1 => 0..300_u64]
}

fn pick<T>(from: &[T], index: &Index) -> Option<usize> {
    (!from.is_empty()).then(|| index.index(from.len()))
}

/// Where a field of `width` bytes may begin.
fn place(input: &[u8], at: &Index, width: usize) -> usize {
    at.index(input.len().saturating_sub(width) + 1)
}

fn range(input: &[u8], at: &Index, len: usize) -> std::ops::Range<usize> {
    let at = at.index(input.len() + 1);
    at..at.saturating_add(len).min(input.len())
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8], times: usize) {
    let room = MAX_LEN.saturating_sub(input.len()) / piece.len().max(1);
    input.splice(at..at, piece.repeat(times.min(room)));
}

fn store(input: &mut [u8], at: usize, width: usize, big_endian: bool, change: impl Fn(u64) -> u64) {
    let Some(field) = input.get_mut(at..at + width) else { return };
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(field.iter()) {
        *to = *from;
    }
    let number = if big_endian { u64::from_be_bytes(bytes) >> (64 - 8 * width) } else { u64::from_le_bytes(bytes) };
    let number = change(number);
    let bytes = if big_endian { (number << (64 - 8 * width)).to_be_bytes() } else { number.to_le_bytes() };
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = from;
    }
}

/// Longest input.
pub(crate) const MAX_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_land_in_either_order() {
        let mut input = vec![0, 0, 0, 7, 9];
        store(&mut input, 0, 4, true, |value| value + 0x0102);
        assert_eq!(input, [0, 0, 1, 9, 9]);
        store(&mut input, 0, 2, false, |value| value + 0x0201);
        assert_eq!(input, [1, 2, 1, 9, 9]);
        store(&mut input, 3, 4, false, |_| 0);
        assert_eq!(input, [1, 2, 1, 9, 9], "a field that does not fit is left alone");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn inputs_stay_short_and_short_ones_are_no_problem(mutation in Mutation::any(), len in 0..12_usize) {
            let mut input = vec![1; len];
            mutation.apply(&mut input, &[vec![2; 1000]], &[vec![], vec![3; 4]]);
            prop_assert!(input.len() <= MAX_LEN);
            mutation.apply(&mut input, &[], &[]);
        }
    }
}
