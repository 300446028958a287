//! CRC-64/GO-ISO over the byte stream that a file checksum covers, in parts.
//!
//! A CRC of two neighbouring parts follows from their CRCs and the length of
//! the second, so parts may be computed in parallel and joined in order.
//!
//! Spec: ltx §7.1 (the CRC), §7.2 (which bytes a file checksum covers).

use crc_fast::CrcAlgorithm;

use crate::Checksum;

/// The CRC and length of one part of a stream.
///
/// For a file checksum the parts are, in order: the header as stored; for each
/// frame its 6- or 10-byte head and the *decompressed* page; the six zero bytes
/// that end the page block; the index with its size field; the post-apply
/// checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    crc: u64,
    len: u64,
}

impl Digest {
    /// The digest of no bytes, neutral in [`Digest::combine`].
    pub const EMPTY: Self = Self { crc: 0, len: 0 };

    /// A digest known from elsewhere, by its [`crc`](Self::crc) and
    /// [`len`](Self::len).
    pub const fn from_parts(crc: u64, len: u64) -> Self {
        Self { crc, len }
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { crc: crc_fast::checksum(CrcAlgorithm::Crc64GoIso, bytes), len: bytes.len() as u64 }
    }

    /// The digest of this part followed by `next`. Costs O(log `next.len()`).
    #[must_use]
    pub fn combine(self, next: Self) -> Self {
        let crc = multiply(x_to_the_bytes(next.len), self.crc) ^ next.crc;
        Self { crc, len: self.len.saturating_add(next.len) }
    }

    /// The plain CRC of the part.
    pub const fn crc(self) -> u64 {
        self.crc
    }

    /// Number of bytes in the part.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// True when the part has no bytes.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The CRC as a checksum. A file checksum is this, over all parts.
    pub const fn finish(self) -> Checksum {
        Checksum::present(self.crc)
    }
}

/// A digest in the making, for bytes that arrive in small pieces.
#[derive(Clone)]
pub(crate) struct Hasher {
    running: crc_fast::Digest,
    len: u64,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self { running: crc_fast::Digest::new(CrcAlgorithm::Crc64GoIso), len: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.running.update(bytes);
        self.len += bytes.len() as u64;
    }

    /// Appends a part whose digest is known.
    pub(crate) fn append(&mut self, part: Digest) {
        let joined = self.digest().combine(part);
        // The register of this CRC is the value XOR all ones (§7.1).
        self.running = crc_fast::Digest::new_with_init_state(CrcAlgorithm::Crc64GoIso, !joined.crc);
        self.len = joined.len;
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest { crc: self.running.finalize(), len: self.len }
    }
}

// Polynomials over GF(2) modulo the CRC's generator, in the CRC's own bit order:
// the highest bit is the coefficient of x⁰. Appending n bytes to a message
// multiplies its CRC by x^(8n), which is all that combining needs; initial value
// and final XOR cancel because they are equal.

/// The generator without its x⁶⁴ term, reflected.
const GENERATOR: u64 = 0xD800_0000_0000_0000;

/// x⁰.
const ONE: u64 = 1 << 63;

/// `SQUARES[k]` = x^(8·2^k), so that the bits of a byte count select factors.
#[allow(clippy::indexing_slicing, reason = "evaluated at compile time")]
const SQUARES: [u64; 64] = {
    let mut table = [ONE >> 8; 64];
    let mut k = 1;
    while k < table.len() {
        table[k] = multiply(table[k - 1], table[k - 1]);
        k += 1;
    }
    table
};

const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 { (b >> 1) ^ GENERATOR } else { b >> 1 };
        bit >>= 1;
    }
    product
}

fn x_to_the_bytes(len: u64) -> u64 {
    let mut power = ONE;
    for (k, factor) in SQUARES.iter().enumerate() {
        if len >> k & 1 != 0 {
            power = multiply(power, *factor);
        }
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_has_the_values_of_the_specification() {
        for (input, crc) in [
            (&b""[..], 0),
            (b"a", 0x3420_0000_0000_0000),
            (b"123456789", 0xb909_56c7_75a4_1001),
            (&[0; 4096], 0x492f_c33c_906f_ff90),
        ] {
            assert_eq!(Digest::of(input).crc(), crc);
        }
    }

    #[test]
    fn parts_join_to_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| ((i * 31) >> 3 & 0xff) as u8).collect();
        let whole = Digest::of(&bytes);
        for cut in [0, 1, 7, 8, 4096, 9_999, 10_000] {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(Digest::of(head).combine(Digest::of(tail)), whole, "cut at {cut}");
        }
        assert_eq!(Digest::EMPTY.combine(whole), whole);
        assert_eq!(whole.combine(Digest::EMPTY), whole);
    }

    #[test]
    fn a_hasher_continues_after_an_appended_part() {
        let mut hasher = Hasher::new();
        hasher.update(b"12");
        hasher.append(Digest::of(b"345"));
        hasher.update(b"6789");
        assert_eq!(hasher.digest(), Digest::of(b"123456789"));
    }
}
