//! How long a listing may become.
//!
//! Stores answer in pages and say themselves whether there is another. One that
//! never stops saying so would be asked for ever, or fill the memory; beyond any
//! real replica that is an error, never a shortened list.

use crate::{Error, ErrorKind, Result};

/// Counts the answers of one listing.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    row_count: u64,
    /// Pages in a row that brought nothing.
    empty_count: u32,
}

impl Pages {
    /// Notes that a page brought so many rows. `what` names store and listing.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) when the store goes on without end.
    pub(crate) fn add(&mut self, rows: usize, what: impl FnOnce() -> String) -> Result<()> {
        self.row_count = self.row_count.saturating_add(rows as u64);
        self.empty_count = if rows == 0 { self.empty_count + 1 } else { 0 };
        if self.row_count > MOST_ROWS || self.empty_count > MOST_EMPTY {
            return Err(Error::new(ErrorKind::Transient, format!("{}: the store's list has no end", what())));
        }
        Ok(())
    }
}

/// A file every second for eight months that nothing compacts or deletes.
const MOST_ROWS: u64 = 20_000_000;
/// Stores may answer with a page of nothing now and then, where much was deleted.
const MOST_EMPTY: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_end_is_an_error_and_a_long_one_is_not() {
        let what = || "s3: list db/0000/".to_owned();
        let mut pages = Pages::default();
        for _ in 0..20_000 {
            pages.add(1000, what).unwrap();
        }
        let error = pages.add(1, what).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert_eq!(error.to_string(), "s3: list db/0000/: the store's list has no end");

        let mut pages = Pages::default();
        for page in 0..3000 {
            pages.add(usize::from(page % 1000 == 0), what).unwrap();
        }
        assert!((0..1001).any(|_| pages.add(0, what).is_err()));
    }
}
