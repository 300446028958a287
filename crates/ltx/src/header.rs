//! The first 100 bytes of a file.
//!
//! The same rules bind writer and reader, in the same order (spec: ltx §3).

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::{Checksum, FileName, PageSize, Txid};

/// Header flags. Bit 1 is the only one defined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderFlags(u32);

impl HeaderFlags {
    /// Checksums are tracked: pre- and post-apply checksum are present.
    pub const NONE: Self = Self(0);
    /// Checksums are not tracked; both are zero. What Litestream writes.
    pub const NO_CHECKSUM: Self = Self(0x0000_0002);

    /// The raw bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// True when pre- and post-apply checksum must be zero.
    pub const fn no_checksum(self) -> bool {
        self.0 & Self::NO_CHECKSUM.0 != 0
    }

    const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::NO_CHECKSUM.0 == 0 { Some(Self(bits)) } else { None }
    }
}

/// What a file says about itself before its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether checksums are tracked.
    pub flags: HeaderFlags,
    /// Page size of the database.
    pub page_size: PageSize,
    /// Size of the database in pages after applying the file.
    pub commit: u32,
    /// First transaction in the file; 1 makes it a snapshot.
    pub min: Txid,
    /// Last transaction in the file.
    pub max: Txid,
    /// When the newest transaction was encoded. Stored in milliseconds; anything
    /// finer is cut off on encoding.
    pub timestamp: Timestamp,
    /// The stored milliseconds when [`Timestamp`] cannot hold them (years before
    /// −9999 or after 9999), which the format allows; `timestamp` is then the
    /// nearest that can be held. Wins over `timestamp` on encoding.
    pub timestamp_overflow_ms: Option<i64>,
    /// Database checksum before applying; absent in snapshots and untracked files.
    pub pre_apply: Checksum,
    /// Byte offset in the WAL of the range the file was made from; at most `i64::MAX`.
    pub wal_offset: u64,
    /// Byte length of that range; at most `i64::MAX`.
    pub wal_size: u64,
    /// First salt of the range's frames.
    pub wal_salt1: u32,
    /// Second salt of the range's frames.
    pub wal_salt2: u32,
    /// Zero in all files of Litestream.
    pub node_id: u64,
}

impl Header {
    /// Length in bytes.
    pub const LEN: usize = 100;

    /// A header without checksums, WAL range and node.
    pub const fn new(page_size: PageSize, commit: u32, min: Txid, max: Txid, timestamp: Timestamp) -> Self {
        Self {
            flags: HeaderFlags::NO_CHECKSUM,
            page_size,
            commit,
            min,
            max,
            timestamp,
            timestamp_overflow_ms: None,
            pre_apply: Checksum::NONE,
            wal_offset: 0,
            wal_size: 0,
            wal_salt1: 0,
            wal_salt2: 0,
            node_id: 0,
        }
    }

    /// Reads and validates the header at the start of `bytes`; later bytes are
    /// ignored, as are the 20 reserved ones.
    ///
    /// # Errors
    /// [`Error::Truncated`] when `bytes` is shorter than [`Header::LEN`], else
    /// the first rule broken of those in spec §3.2.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes.get(..Self::LEN).ok_or(Error::Truncated { part: "header" })?);
        if fields.u32().to_be_bytes() != *MAGIC {
            return Err(Error::Magic);
        }
        let flags = fields.u32();
        let flags = HeaderFlags::from_bits(flags).ok_or(Error::HeaderFlags { flags })?;
        let page_size = fields.u32();
        let page_size = PageSize::new(page_size).ok_or(Error::PageSize { page_size })?;
        let commit = fields.u32();
        let (min, max) = (Txid::new(fields.u64()), Txid::new(fields.u64()));
        let (timestamp, timestamp_overflow_ms) = timestamp_of(fields.u64().cast_signed());
        let header = Self {
            flags,
            page_size,
            commit,
            min,
            max,
            timestamp,
            timestamp_overflow_ms,
            pre_apply: Checksum::new(fields.u64()),
            wal_offset: fields.u64(),
            wal_size: fields.u64(),
            wal_salt1: fields.u32(),
            wal_salt2: fields.u32(),
            node_id: fields.u64(),
        };
        header.validate()?;
        Ok(header)
    }

    /// The bytes of the header, reserved ones zero. Does not validate.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.flags.bits().to_be_bytes());
        bytes.extend_from_slice(&self.page_size.get().to_be_bytes());
        bytes.extend_from_slice(&self.commit.to_be_bytes());
        bytes.extend_from_slice(&self.min.get().to_be_bytes());
        bytes.extend_from_slice(&self.max.get().to_be_bytes());
        bytes.extend_from_slice(&self.timestamp_ms().to_be_bytes());
        bytes.extend_from_slice(&self.pre_apply.get().to_be_bytes());
        bytes.extend_from_slice(&self.wal_offset.to_be_bytes());
        bytes.extend_from_slice(&self.wal_size.to_be_bytes());
        bytes.extend_from_slice(&self.wal_salt1.to_be_bytes());
        bytes.extend_from_slice(&self.wal_salt2.to_be_bytes());
        bytes.extend_from_slice(&self.node_id.to_be_bytes());
        let mut header = [0; Self::LEN];
        for (to, from) in header.iter_mut().zip(bytes) {
            *to = from;
        }
        header
    }

    /// The name a file with this header goes by.
    pub const fn name(&self) -> FileName {
        FileName { min: self.min, max: self.max }
    }

    /// Checks every rule between fields.
    ///
    /// # Errors
    /// The first rule broken, in the order of spec §3.2.
    pub fn validate(&self) -> Result<()> {
        let Self { min, max, wal_offset, wal_size, pre_apply, .. } = *self;
        if min.is_none() {
            return Err(Error::MinTxidRequired);
        }
        if max.is_none() {
            return Err(Error::MaxTxidRequired);
        }
        if min > max {
            return Err(Error::TxidOrder { min: min.get(), max: max.get() });
        }
        if wal_offset.cast_signed() < 0 {
            return Err(Error::WalOffsetNegative { offset: wal_offset.cast_signed() });
        }
        if wal_size.cast_signed() < 0 {
            return Err(Error::WalSizeNegative { size: wal_size.cast_signed() });
        }
        if wal_offset == 0 && (self.wal_salt1 != 0 || self.wal_salt2 != 0) {
            return Err(Error::WalOffsetRequiredBySalt);
        }
        if wal_offset == 0 && wal_size != 0 {
            return Err(Error::WalOffsetRequiredBySize);
        }
        match (self.is_snapshot(), self.flags.no_checksum()) {
            (true, _) if !pre_apply.is_none() => Err(Error::PreApplyOnSnapshot),
            (false, true) if !pre_apply.is_none() => Err(Error::PreApplyNotAllowed),
            (false, false) if pre_apply.is_none() => Err(Error::PreApplyRequired),
            (false, false) if !pre_apply.has_flag() => Err(Error::PreApplyFormat),
            _ => Ok(()),
        }
    }

    /// True when the file holds the whole database, which only its first
    /// transaction decides (spec: ltx §8.1).
    pub const fn is_snapshot(&self) -> bool {
        self.min.get() == Txid::FIRST.get()
    }

    /// The timestamp as stored: milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_overflow_ms.unwrap_or_else(|| {
            // Cutting toward the past, so that times before 1970 keep their order.
            let floor = self.timestamp.as_nanosecond().div_euclid(1_000_000);
            i64::try_from(floor).unwrap_or_else(|_| self.timestamp.as_millisecond())
        })
    }
}

fn timestamp_of(ms: i64) -> (Timestamp, Option<i64>) {
    match Timestamp::from_millisecond(ms) {
        Ok(timestamp) => (timestamp, None),
        Err(_) if ms < 0 => (Timestamp::MIN, Some(ms)),
        Err(_) => (Timestamp::MAX, Some(ms)),
    }
}

/// Takes big-endian integers off the front of a slice known to be long enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            unreachable!("the caller cut {} bytes, the sum of all fields and more", Header::LEN)
        };
        self.0 = rest;
        *field
    }
}

const MAGIC: &[u8; 4] = b"LTX1";

#[cfg(test)]
mod tests {
    use super::*;

    fn delta() -> Header {
        Header::new(PageSize::new(65536).unwrap(), 7, Txid::new(2), Txid::new(9), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn fields_round_trip() {
        let header = Header {
            timestamp: Timestamp::from_millisecond(-1).unwrap(),
            wal_offset: 32,
            wal_size: i64::MAX as u64,
            wal_salt1: 0x39e9_2b82,
            wal_salt2: 0xa60c_4690,
            node_id: u64::MAX,
            ..delta()
        };
        let bytes = header.encode();
        assert_eq!(bytes[8..12], [0, 1, 0, 0], "a page size of 65536 is stored in full");
        assert_eq!(Header::parse(&bytes).unwrap(), header);
    }

    #[test]
    fn tracked_delta_carries_its_pre_apply_checksum() {
        let header = Header { flags: HeaderFlags::NONE, pre_apply: Checksum::EMPTY, ..delta() };
        assert_eq!(Header::parse(&header.encode()).unwrap(), header);
    }

    #[test]
    fn timestamps_beyond_the_calendar_survive() {
        for ms in [i64::MIN, i64::MAX] {
            let mut bytes = delta().encode();
            bytes[32..40].copy_from_slice(&ms.to_be_bytes());
            let header = Header::parse(&bytes).unwrap();
            assert_eq!(header.timestamp_ms(), ms);
            assert_eq!(header.encode(), bytes);
        }
    }

    #[test]
    fn finer_than_a_millisecond_is_cut_toward_the_past() {
        let timestamp = Timestamp::from_nanosecond(-1).unwrap();
        assert_eq!(Header { timestamp, ..delta() }.timestamp_ms(), -1);
    }
}
