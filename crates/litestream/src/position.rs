//! Where capture stands: the last transaction written and the place in the WAL
//! right behind it.
//!
//! The record is a hint that must never be wrong, but may be old: it lets a
//! restart prove in one read that nothing was missed. Losing it costs a scan of
//! the database, never data. It is therefore written without fsync: after a
//! power failure the level-0 files themselves, or a comparison of all pages, take
//! its place (docs/decisions/0003-position.md).

use std::os::unix::fs::FileExt;

use crc_fast::{CrcAlgorithm, checksum};
use ltx::{Checksum, PageSize, Txid};

use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::wal::{Chain, Salts, WalPosition};

/// Device and inode: the identity of a file, whatever its path says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    /// Device number.
    pub(crate) device: u64,
    /// Inode number.
    pub(crate) number: u64,
}

impl Inode {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: metadata.dev(), number: metadata.ino() }
    }
}

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Last transaction captured.
    pub(crate) txid: Txid,
    /// Checksum of that transaction's LTX file, if there is a local one.
    pub(crate) file_checksum: Checksum,
    /// Page size of the database.
    pub(crate) page_size: PageSize,
    /// Database size in pages after that transaction.
    pub(crate) commit: u32,
    /// The place in the WAL behind it.
    pub(crate) wal: WalPosition,
    /// The database file it was captured from.
    pub(crate) inode: Inode,
}

impl Position {
    fn encode(&self, turn: u64) -> [u8; RECORD_LEN] {
        let mut record = [0; RECORD_LEN];
        let mut fields = Vec::with_capacity(RECORD_LEN);
        fields.extend_from_slice(MAGIC);
        for word in [turn, self.txid.get(), self.file_checksum.get(), self.inode.device, self.inode.number] {
            fields.extend_from_slice(&word.to_be_bytes());
        }
        let WalPosition { salts, frame, chain } = self.wal;
        for word in [self.page_size.get(), self.commit, salts.0, salts.1, frame, chain.0, chain.1, 0] {
            fields.extend_from_slice(&word.to_be_bytes());
        }
        let digest = checksum(CrcAlgorithm::Crc64Nvme, &fields);
        fields.extend_from_slice(&digest.to_be_bytes());
        record.copy_from_slice(&fields);
        record
    }

    fn decode(record: &[u8; RECORD_LEN]) -> Option<(u64, Self)> {
        let (body, digest) = record.split_at(RECORD_LEN - 8);
        if checksum(CrcAlgorithm::Crc64Nvme, body).to_be_bytes() != digest || body.get(..8)? != MAGIC {
            return None;
        }
        let long = |i: usize| Some(u64::from_be_bytes(body.get(8 + i * 8..16 + i * 8)?.try_into().ok()?));
        let word = |i: usize| Some(u32::from_be_bytes(body.get(48 + i * 4..52 + i * 4)?.try_into().ok()?));
        let position = Self {
            txid: Txid::new(long(1)?),
            file_checksum: Checksum::new(long(2)?),
            inode: Inode { device: long(3)?, number: long(4)? },
            page_size: PageSize::new(word(0)?)?,
            commit: word(1)?,
            wal: WalPosition { salts: Salts(word(2)?, word(3)?), frame: word(4)?, chain: Chain(word(5)?, word(6)?) },
        };
        Some((long(0)?, position))
    }
}

/// The side file that keeps the position: two slots written in turn, so that a
/// torn write leaves the older record readable.
///
/// Opened for each access: a descriptor for every idle database would be too many.
pub(crate) struct PositionFile {
    open: Box<dyn Fn() -> Result<DiskFile> + Send>,
    /// Slot and turn of the last record.
    last: Option<(u64, u64)>,
}

impl PositionFile {
    /// `open` opens the file, making it if absent.
    pub(crate) fn new(open: impl Fn() -> Result<DiskFile> + Send + 'static) -> Self {
        Self { open: Box::new(open), last: None }
    }

    /// The newer of the two records, if any is whole.
    pub(crate) fn load(&mut self) -> Result<Option<Position>> {
        let file = (self.open)()?;
        let mut newest: Option<(u64, u64, Position)> = None;
        for slot in 0..2 {
            let mut record = [0; RECORD_LEN];
            match file.as_file().read_exact_at(&mut record, slot * RECORD_LEN as u64) {
                Ok(()) => {}
                Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => continue,
                Err(err) => return Err(Error::io("read position file", err)),
            }
            if let Some((turn, position)) = Position::decode(&record)
                && newest.is_none_or(|(_, known, _)| turn > known)
            {
                newest = Some((slot, turn, position));
            }
        }
        self.last = newest.map(|(slot, turn, _)| (slot, turn));
        Ok(newest.map(|(_, _, position)| position))
    }

    /// Records a position. Survives the end of this process at any moment; a
    /// power failure may bring back an older record.
    pub(crate) fn store(&mut self, position: &Position) -> Result<()> {
        let (slot, turn) = self.last.map_or((0, 1), |(slot, turn)| (1 - slot, turn + 1));
        (self.open)()?
            .write_all_at(&position.encode(turn), slot * RECORD_LEN as u64)
            .map_err(|e| Error::io("write position file", e))?;
        self.last = Some((slot, turn));
        Ok(())
    }

    /// Forgets every record for good.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.last = None;
        let file = (self.open)()?;
        file.set_len(0).and_then(|()| file.sync_data()).map_err(|e| Error::io("clear position file", e))
    }
}

const MAGIC: &[u8; 8] = b"LSPOS001";
/// 8 magic, 5 × 8, 8 × 4, 8 checksum.
const RECORD_LEN: usize = 88;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn position(txid: u64) -> Position {
        Position {
            txid: Txid::new(txid),
            file_checksum: Checksum::new(0x8000_0000_0000_0007),
            page_size: PageSize::new(65536).unwrap(),
            commit: 17,
            wal: WalPosition { salts: Salts(1, 2), frame: 3, chain: Chain(4, 5) },
            inode: Inode { device: 6, number: 7 },
        }
    }

    fn reopened(file: &File) -> (PositionFile, Option<Position>) {
        let file = file.try_clone().unwrap();
        let mut positions = PositionFile::new(move || Ok(file.try_clone().unwrap().into()));
        let loaded = positions.load().unwrap();
        (positions, loaded)
    }

    #[test]
    fn the_newest_record_comes_back() {
        let file = tempfile::tempfile().unwrap();
        let (mut positions, none) = reopened(&file);
        assert_eq!(none, None);
        // The same transaction may be recorded at another place of the WAL.
        for txid in [1, 2, 2, 3, 3, 3, 4] {
            positions.store(&position(txid)).unwrap();
            let (again, read) = reopened(&file);
            assert_eq!(read, Some(position(txid)));
            positions = again;
        }
        positions.clear().unwrap();
        assert_eq!(reopened(&file).1, None);
    }

    #[test]
    fn a_torn_write_brings_back_the_record_before() {
        for torn in 0..RECORD_LEN as u64 {
            let file = tempfile::tempfile().unwrap();
            let (mut positions, _) = reopened(&file);
            positions.store(&position(1)).unwrap();
            positions.store(&position(2)).unwrap();
            file.write_all_at(&[0xa5], RECORD_LEN as u64 + torn).unwrap();
            assert_eq!(reopened(&file).1, Some(position(1)), "byte {torn} damaged");
        }
    }
}
