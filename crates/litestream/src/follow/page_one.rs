//! The first page, where a followed copy differs from a plain restore.
//!
//! ```text
//! 16–17  page size; 1 means 65536
//! 18–19  2,2 WAL, 1,1 rollback journal      → always 1,1 in a copy
//! 24–27  change counter                     → one more with each batch applied
//! 92–95  change counter when 28–31 was set  → follows 24–27
//! 96–99  version of the SQLite that wrote it
//! ```
//!
//! A reader keeps its cache as long as bytes 24 to 39 stay the same; a source in
//! WAL mode leaves the first page alone in most transactions. A copy that says
//! WAL would give every reader a SHARED lock for life.
//!
//! Sources: sqlite.org/fileformat2.html §1.3; spec: store-and-restore §14.4.

use ltx::PageSize;

/// The part of the first page that is looked at.
pub(super) const HEADER_LEN: usize = 100;

/// What the header says about the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageOne {
    pub(super) page_size: PageSize,
    pub(super) is_wal: bool,
    pub(super) counter: u32,
}

impl PageOne {
    /// `None` when this is no header of an SQLite database.
    pub(super) fn parse(header: &[u8]) -> Option<Self> {
        if header.get(..16)? != b"SQLite format 3\0" {
            return None;
        }
        let page_size = match u16::from_be_bytes([*header.get(16)?, *header.get(17)?]) {
            1 => PageSize::new(65_536)?,
            bytes => PageSize::new(u32::from(bytes))?,
        };
        let is_wal = header.get(VERSIONS..VERSIONS + 2)? != ROLLBACK_VERSIONS;
        Some(Self { page_size, is_wal, counter: u32::from_be_bytes(word(header, COUNTER)?) })
    }
}

/// Makes a first page from the source into one of the copy.
pub(super) fn adapt(page: &mut [u8], counter: u32) {
    let valid = word(page, COUNTER) == word(page, VALID_FOR);
    // Where the source's two counters differ, its bytes 28–31 are void; they
    // must not become valid by accident.
    let counter =
        if !valid && word(page, VALID_FOR) == Some(counter.to_be_bytes()) { counter.wrapping_add(1) } else { counter };
    put(page, VERSIONS, &ROLLBACK_VERSIONS);
    put(page, COUNTER, &counter.to_be_bytes());
    if valid {
        put(page, VALID_FOR, &counter.to_be_bytes());
    }
}

/// Whether two first pages differ in nothing but what [`adapt`] changes, and the
/// number of the SQLite that took an adopted copy out of WAL mode.
pub(super) fn is_same(left: &[u8], right: &[u8]) -> bool {
    let ours = [VERSIONS..VERSIONS + 2, COUNTER..COUNTER + 4, VALID_FOR..HEADER_LEN];
    let counts = |at: usize| !ours.iter().any(|range| range.contains(&at));
    left.len() == right.len()
        && left.iter().zip(right).enumerate().all(|(at, (left, right))| left == right || !counts(at))
}

fn word(page: &[u8], at: usize) -> Option<[u8; 4]> {
    page.get(at..)?.first_chunk().copied()
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Where write and read version stand.
pub(super) const VERSIONS: usize = 18;
/// Both versions of a database that uses a rollback journal.
pub(super) const ROLLBACK_VERSIONS: [u8; 2] = [1, 1];
const COUNTER: usize = 24;
const VALID_FOR: usize = 92;

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        let mut page = vec![7; 512];
        page[..16].copy_from_slice(b"SQLite format 3\0");
        page[16..20].copy_from_slice(&[2, 0, 2, 2]);
        page
    }

    #[test]
    fn an_adapted_page_is_the_same_page() {
        let (source, mut copy) = (page(), page());
        adapt(&mut copy, 9);
        assert!(is_same(&source, &copy));
        assert_eq!(copy[18..20], [1, 1]);
        assert_eq!((&copy[24..28], &copy[92..96]), (&[0, 0, 0, 9][..], &[0, 0, 0, 9][..]));
        copy[40] ^= 1;
        assert!(!is_same(&source, &copy));
    }

    #[test]
    fn a_void_size_in_the_header_stays_void() {
        let mut copy = page();
        copy[92..96].copy_from_slice(&[0, 0, 0, 9]);
        adapt(&mut copy, 9);
        assert_eq!((&copy[24..28], &copy[92..96]), (&[0, 0, 0, 10][..], &[0, 0, 0, 9][..]));
    }

    #[test]
    fn the_header_is_read() {
        let mut bytes = page();
        let parsed = PageOne::parse(&bytes).unwrap();
        assert_eq!((parsed.page_size.get(), parsed.is_wal, parsed.counter), (512, true, 0x0707_0707));
        bytes[16..18].copy_from_slice(&[0, 1]);
        assert_eq!(PageOne::parse(&bytes).unwrap().page_size.get(), 65_536);
        bytes[0] = 0;
        assert_eq!(PageOne::parse(&bytes), None);
    }
}
