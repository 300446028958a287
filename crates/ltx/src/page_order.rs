//! Which page may follow which.
//!
//! One rule for writer, reader and merge (spec: ltx §4.2): ascending, within
//! the database, never the lock page; in a snapshot without holes.

use crate::error::{Error, Result};
use crate::{Header, PageSize, Pgno};

/// Watches the pages of one file go by.
pub(crate) struct PageOrder {
    page_size: PageSize,
    commit: u32,
    complete: bool,
    last: u32,
}

impl PageOrder {
    /// The rules for a file with this header.
    pub(crate) fn new(header: &Header) -> Self {
        Self { page_size: header.page_size, commit: header.commit, complete: header.is_snapshot(), last: 0 }
    }

    /// The rules for one input of a merge: a later input may fill a snapshot's
    /// holes, so only the merged pages can be checked for them.
    pub(crate) fn allowing_holes(header: &Header) -> Self {
        Self { complete: false, ..Self::new(header) }
    }

    /// Accepts the next page, or says which rule it breaks.
    pub(crate) fn check(&mut self, pgno: Pgno) -> Result<()> {
        let (previous, lock, pgno) = (self.last, self.page_size.lock_page().get(), pgno.get());
        if pgno > self.commit {
            return Err(Error::PageOutOfBounds { pgno, commit: self.commit });
        }
        if pgno == lock {
            return Err(Error::LockPage { pgno });
        }
        if pgno <= previous {
            return Err(Error::PageOrder { previous, pgno });
        }
        if self.complete && previous == 0 && pgno != 1 {
            return Err(Error::SnapshotStart);
        }
        // SQLite never writes the page with the lock bytes, so a snapshot jumps
        // from `lock - 1` to `lock + 1`. A hole anywhere else is damage.
        if self.complete && previous + 1 == lock && pgno != lock + 1 {
            return Err(Error::SnapshotGapAtLockPage { previous, pgno });
        }
        if self.complete && previous + 1 != lock && pgno != previous + 1 {
            return Err(Error::SnapshotGap { previous, pgno });
        }
        self.last = pgno;
        Ok(())
    }

    /// Checks that a snapshot reached the end of the database.
    pub(crate) fn finish(&self) -> Result<()> {
        let lock = self.page_size.lock_page().get();
        let end = if self.commit == lock { self.commit - 1 } else { self.commit };
        if self.complete && self.last != end {
            return Err(Error::SnapshotShort { last: self.last, commit: self.commit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::Txid;

    fn walk(min: u64, commit: u32, pages: impl IntoIterator<Item = u32>) -> Result<()> {
        let size = PageSize::new(65536).unwrap();
        let header = Header::new(size, commit, Txid::new(min), Txid::new(9), Timestamp::UNIX_EPOCH);
        let mut order = PageOrder::new(&header);
        for pgno in pages {
            order.check(Pgno::new(pgno).unwrap())?;
        }
        order.finish()
    }

    const LOCK: u32 = 16385;

    #[test]
    fn a_snapshot_steps_over_the_lock_page_only() {
        for commit in [LOCK - 1, LOCK, LOCK + 1, LOCK + 2] {
            let all = (1..=commit).filter(|pgno| *pgno != LOCK);
            walk(1, commit, all.clone()).unwrap();
            walk(1, commit, all.clone().skip(1)).unwrap_err();
            walk(1, commit, all.clone().filter(|pgno| *pgno != 77)).unwrap_err();
            let short = walk(1, commit, all.take_while(|pgno| *pgno < LOCK - 1)).unwrap_err();
            assert!(matches!(short, Error::SnapshotShort { last: 16383, .. }), "{short}");
        }
        let skipped = walk(1, LOCK + 2, (1..LOCK).chain([LOCK + 2])).unwrap_err();
        assert_eq!(
            skipped.to_string(),
            "nonsequential page numbers in snapshot transaction (skip lock page): 16384,16387"
        );
    }

    #[test]
    fn messages_are_upstreams() {
        for (min, commit, pages, message) in [
            (2, 4, vec![5], "page number 5 out-of-bounds for commit size 4"),
            (2, LOCK, vec![LOCK], "cannot encode lock page: pgno=16385"),
            (1, 4, vec![2], "snapshot transaction file must start with page number 1"),
            (1, 4, vec![1, 3], "nonsequential page numbers in snapshot transaction: 1,3"),
            (2, 4, vec![3, 3], "out-of-order page numbers: 3,3"),
            (2, 4, vec![3, 1], "out-of-order page numbers: 3,1"),
        ] {
            assert_eq!(walk(min, commit, pages).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_delta_may_hold_any_ascending_pages_or_none() {
        walk(2, 9, []).unwrap();
        walk(2, LOCK + 5, [3, 4, 9, LOCK - 1, LOCK + 5]).unwrap();
    }
}
