//! `<out>.tmp-resume`: which parts of a large restore are done, so that one that
//! was killed goes on instead of starting over.
//!
//! Nothing in it is believed. A record describes one chunk: which frames of which
//! file it was, what it contributed to that file's checksum, and a digest of the
//! pages it wrote. A later restore uses it only where it is about to fetch the
//! very same chunk, and only after reading those pages back from the temporary
//! file and finding the same digest. So it does not matter whether the plan has
//! changed since, whether pages reached the disk before the machine lost power,
//! or whose file it is: what does not agree is fetched again.
//!
//! Rule that must never break: each page is written by the one chunk that owns it
//! or was found in place by that chunk, never both and never neither.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ltx::{Checksum, DatabaseChecksum, Digest, PageSize, Pgno};
use rustix::fs::OFlags;

use crate::FileInfo;

/// The side file of one restore.
pub(super) struct Journal {
    /// `None` once writing has failed: the restore goes on without.
    file: Mutex<Option<File>>,
    found: HashMap<Key, Finished>,
    is_over_leftover: bool,
}

/// A chunk, told apart by everything that decides its bytes and their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u64; 8]);

impl Key {
    /// The chunk at `offset` of a file whose trailer holds `checksum`. `frames`
    /// is a digest of its page numbers, lengths and owners.
    pub(super) fn new(
        file: &FileInfo,
        checksum: Checksum,
        page_size: PageSize,
        offset: u64,
        len: u64,
        frames: Digest,
    ) -> Self {
        let level = u64::from(file.id.level.get()) << 32 | u64::from(page_size.get());
        Self([level, file.id.min.get(), file.id.max.get(), file.size, checksum.get(), offset, len, frames.crc()])
    }
}

/// What a finished chunk contributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    /// Its part of the file's checksum.
    pub(super) digest: Digest,
    /// Its part of the database's checksum, where the file has one.
    pub(super) database: DatabaseChecksum,
    /// The owned pages, in their order.
    pub(super) pages: Digest,
}

impl Journal {
    /// Starts a journal; with `resume`, after reading what an earlier restore
    /// left. Failure to write one is no failure of the restore.
    pub(super) fn open(path: &Path, resume: bool) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let mut found = HashMap::new();
        let opened = options.open(path).and_then(|mut file| {
            let mut bytes = Vec::new();
            if resume {
                file.read_to_end(&mut bytes)?;
            }
            let valid_len;
            (found, valid_len) = records(&bytes);
            // What follows a record that was cut short could not be read again.
            file.set_len(valid_len as u64)?;
            if valid_len == 0 {
                file.write_all(MAGIC)?;
            }
            Ok(file)
        });
        let file = opened.inspect_err(|error| {
            tracing::debug!(path = %path.display(), %error, "no journal, an interrupted restore would start over");
        });
        Self { file: Mutex::new(file.ok()), found, is_over_leftover: resume }
    }

    /// How many chunks an earlier restore had finished.
    pub(super) fn found_count(&self) -> usize {
        self.found.len()
    }

    /// Whether the temporary file holds what an earlier restore wrote, noted or
    /// not.
    pub(super) fn is_over_leftover(&self) -> bool {
        self.is_over_leftover
    }

    /// What an earlier restore says of this chunk.
    pub(super) fn find(&self, key: &Key) -> Option<Finished> {
        self.found.get(key).copied()
    }

    /// Notes a chunk whose pages are written.
    pub(super) fn add(&self, key: &Key, finished: &Finished) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write of one record: a process that dies leaves it whole or cuts
        // it, and its checksum tells.
        let failed = file.as_ref().is_some_and(|mut file| file.write_all(&record(key, finished)).is_err());
        if failed {
            *file = None;
        }
    }
}

/// The digest of these pages as they stand in a database file, or `None` where
/// they cannot be read.
pub(super) fn digest_in_place(file: &File, page_size: PageSize, pages: impl Iterator<Item = Pgno>) -> Option<Digest> {
    let mut page = vec![0; page_size.len()];
    let mut digest = Digest::EMPTY;
    for pgno in pages {
        file.read_exact_at(&mut page, pgno.offset(page_size)).ok()?;
        digest = digest.combine(Digest::of(&page));
    }
    Some(digest)
}

fn record(key: &Key, finished: &Finished) -> [u8; RECORD_LEN] {
    let Finished { digest, database, pages } = finished;
    let values = [digest.crc(), digest.len(), database.value().get(), pages.crc(), pages.len()];
    let mut record = [0; RECORD_LEN];
    let (fields, sum) = record.split_at_mut(RECORD_LEN - 8);
    for (field, value) in fields.chunks_exact_mut(8).zip(key.0.iter().chain(&values)) {
        field.copy_from_slice(&value.to_be_bytes());
    }
    sum.copy_from_slice(&Digest::of(fields).crc().to_be_bytes());
    record
}

/// The records up to the first that is cut short or damaged, and how many bytes
/// they take.
fn records(bytes: &[u8]) -> (HashMap<Key, Finished>, usize) {
    let mut found = HashMap::new();
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return (found, 0) };
    let mut valid_len = MAGIC.len();
    for record in rest.chunks_exact(RECORD_LEN) {
        let mut fields = record.chunks_exact(8).map(|field| field.try_into().map_or(0, u64::from_be_bytes));
        let mut next = || fields.next().unwrap_or_default();
        let key = Key(std::array::from_fn(|_| next()));
        let digest = Digest::from_parts(next(), next());
        let database = DatabaseChecksum::from(Checksum::new(next()));
        let pages = Digest::from_parts(next(), next());
        let (body, _) = record.split_at(RECORD_LEN - 8);
        if Digest::of(body).crc() != next() {
            break;
        }
        found.insert(key, Finished { digest, database, pages });
        valid_len += RECORD_LEN;
    }
    (found, valid_len)
}

/// Says what the file is, and of which form.
const MAGIC: &[u8] = b"litestream restore journal 1\n\0\0\0";

/// Eight fields of the key, five of the contribution, a checksum.
const RECORD_LEN: usize = 14 * 8;

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;

    fn sample(number: u64) -> (Key, Finished) {
        let digest = Digest::of(&number.to_be_bytes());
        (Key([number; 8]), Finished { digest, database: DatabaseChecksum::new(), pages: digest })
    }

    #[test]
    fn records_survive_up_to_the_first_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let journal = Journal::open(&path, false);
        for number in 0..3 {
            let (key, finished) = sample(number);
            journal.add(&key, &finished);
        }
        let whole = std::fs::read(&path).unwrap();
        let count = |bytes: &[u8]| records(bytes).0.len();
        assert_eq!(Journal::open(&path, true).find(&sample(2).0), Some(sample(2).1));
        assert_eq!(count(&whole), 3);
        for cut in 0..=whole.len() {
            assert_eq!(count(&whole[..cut]), cut.saturating_sub(MAGIC.len()) / RECORD_LEN, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let intact = at.checked_sub(MAGIC.len()).map_or(0, |at| at / RECORD_LEN);
            assert_eq!(count(&bytes), intact, "flip at {at}");
        }
    }

    #[test]
    fn a_journal_goes_on_behind_a_record_that_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        Journal::open(&path, false).add(&sample(1).0, &sample(1).1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([7; RECORD_LEN / 2]);
        std::fs::write(&path, bytes).unwrap();
        Journal::open(&path, true).add(&sample(2).0, &sample(2).1);
        assert_eq!(Journal::open(&path, true).found_count(), 2);
    }

    #[test]
    fn a_new_journal_forgets_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        Journal::open(&path, false).add(&sample(1).0, &sample(1).1);
        assert_eq!(Journal::open(&path, true).found_count(), 1);
        assert_eq!(Journal::open(&path, false).found_count(), 0);
        assert_eq!(Journal::open(&path, true).found_count(), 0);
    }

    #[test]
    fn no_journal_crashes_or_is_believed_without_its_checksum() {
        let mut sound = MAGIC.to_vec();
        for number in 0..3 {
            let (key, finished) = sample(number);
            sound.extend(record(&key, &finished));
        }
        Target::new("restore journal", [sound]).run(|input| {
            let bound = Bound { base: 4096, per_byte: 10 };
            let (found, valid_len) = bounded(input.len(), bound, || records(input));
            assert!(valid_len <= input.len() && found.len() <= valid_len / RECORD_LEN);
            for (key, finished) in found {
                let record = record(&key, &finished);
                assert!(input.windows(RECORD_LEN).any(|bytes| bytes == record), "a record is one that was written");
            }
        });
    }
}
