//! Writes verified pages into a live database, all or nothing.
//!
//! The caller holds SQLite's EXCLUSIVE lock, so nobody reads meanwhile; and what
//! is overwritten stands in a rollback journal, so that nobody reads half of it
//! even if this process dies (see `journal`).
//!
//! Spec: store-and-restore §14.4; decision 0006.

use std::path::Path;

use jiff::Timestamp;
use ltx::{PageSize, Pgno, Txid};

use super::journal::Journal;
use super::page_one::{self, PageOne};
use super::spill::Spill;
use crate::error::{Error, ErrorKind, Result};
use crate::sqlite::Exclusive;

/// Verified pages of one or more files, and the state they lead to.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) pages: Spill,
    /// Length of the database afterwards, in pages.
    pub(super) commit: u32,
    /// The TXID it then stands at.
    pub(super) to: Txid,
    /// When that was captured.
    pub(super) timestamp: Timestamp,
    pub(super) file_count: usize,
    /// It holds the whole database; what was there before does not matter.
    pub(super) is_whole: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Pages written, the first included. Zero when the database was already
    /// what the batch makes of it.
    pub(super) page_count: u64,
    /// The change counter in the file now.
    pub(super) counter: u32,
}

/// Steps at which a test looks what a crash would leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    JournalBegun,
    JournalSealed,
    PageWritten,
    Synced,
    Truncated,
    Committed,
}

/// Applies `batch` to the locked database at `path` (without symbolic links).
///
/// On an error before the journal is sealed the database is untouched; after
/// that the journal stays, and the next lock taken rolls it back.
pub(super) fn apply(lock: &Exclusive<'_>, path: &Path, batch: &Batch, on_step: &dyn Fn(Step)) -> Result<Written> {
    let file = lock.file();
    let old = Old::read(file)?;
    let page_size = batch.pages.page_size();
    if !batch.is_whole && old.page_one.page_size != page_size {
        let problem = format!("page size changed from {} to {}", old.page_one.page_size.get(), page_size.get());
        return Err(Error::new(ErrorKind::Discontinuous, problem));
    }
    // Refused before anything is allocated by a length that may be nonsense.
    let base = if batch.is_whole { 0 } else { old.page_count };
    if u64::from(batch.commit.saturating_sub(base)) > batch.pages.count() + 1 {
        return Err(incomplete(base, batch));
    }
    let mut journal = Journal::create(path, old.page_one.page_size, old.page_count)?;
    on_step(Step::JournalBegun);
    let Some(mut changes) = plan_changes(lock, batch, &old, base, &mut journal)? else {
        return Ok(Written { page_count: 0, counter: old.page_one.counter });
    };
    journal.seal()?;
    on_step(Step::JournalSealed);

    let mut page_count = 1;
    batch.pages.for_each_newest_first(|pgno, page| {
        if pgno != Pgno::FIRST && changes.changed.take(pgno) {
            page_count += 1;
            lock.write_at(pgno.offset(page_size), page)?;
            on_step(Step::PageWritten);
        }
        Ok(())
    })?;
    let mut new_page_one = changes.page_one;
    page_one::adapt(&mut new_page_one, old.page_one.counter.wrapping_add(1));
    lock.write_at(0, &new_page_one)?;
    let counter = PageOne::parse(&new_page_one).map_or(0, |page| page.counter);
    let len = u64::from(batch.commit) * u64::from(page_size.get());
    if file.len()? != len {
        lock.sync()?;
        on_step(Step::Synced);
        lock.truncate(len)?;
        on_step(Step::Truncated);
    }
    lock.sync()?;
    on_step(Step::Synced);
    journal.commit()?;
    on_step(Step::Committed);
    Ok(Written { page_count, counter })
}

/// The database as it is.
struct Old {
    page_one: PageOne,
    page_count: u32,
}

impl Old {
    fn read(file: &crate::sqlite::LiveFile) -> Result<Self> {
        let mut header = [0; page_one::HEADER_LEN];
        file.read_at(0, &mut header)?;
        let page_one = PageOne::parse(&header)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the copy is not an SQLite database"))?;
        let page_count = file.len()? / u64::from(page_one.page_size.get());
        let page_count = u32::try_from(page_count)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, "the copy is longer than any database", e))?;
        Ok(Self { page_one, page_count })
    }
}

/// What a batch does to a database.
struct Changes {
    /// Pages to be written.
    changed: PageSet,
    /// The first page before it is adapted.
    page_one: Vec<u8>,
}

/// Journals the pages that the batch changes or cuts off. `None` when there are
/// none: the database is what the batch makes of it.
///
/// Pages are compared because a batch may repeat what is there: after a crash
/// behind the commit, and when a snapshot bridges a gap. Every page beyond `base`
/// must be in the batch, or zeros would stand in.
fn plan_changes(
    lock: &Exclusive<'_>,
    batch: &Batch,
    old: &Old,
    base: u32,
    journal: &mut Journal,
) -> Result<Option<Changes>> {
    let (page_size, old_size) = (batch.pages.page_size(), old.page_one.page_size);
    // Pages of another size have nothing in common but their numbers.
    let comparable = if page_size == old_size { old.page_count } else { 0 };
    let (mut seen, mut changed) = (PageSet::new(batch.commit), PageSet::new(batch.commit));
    let (mut page_one, mut current) = (Vec::new(), vec![0; old_size.len()]);
    let mut is_changed = comparable != batch.commit;
    batch.pages.for_each_newest_first(|pgno, page| {
        if pgno.get() > batch.commit || !seen.put(pgno) {
            return Ok(());
        }
        if pgno == Pgno::FIRST {
            page_one = page.to_vec();
        }
        if pgno.get() > comparable {
            changed.put(pgno);
            return Ok(());
        }
        lock.file().read_at(pgno.offset(page_size), &mut current)?;
        let is_same = if pgno == Pgno::FIRST { page_one::is_same(&current, page) } else { current == page };
        if !is_same {
            is_changed = true;
            changed.put(pgno);
            if pgno != Pgno::FIRST {
                journal.push(pgno, &current)?;
            }
        }
        Ok(())
    })?;
    let is_needed = |pgno: &Pgno| *pgno != page_size.lock_page();
    if (base + 1..=batch.commit).filter_map(Pgno::new).filter(is_needed).any(|pgno| !seen.has(pgno)) {
        return Err(incomplete(base, batch));
    }
    if !is_changed {
        return Ok(None);
    }
    // The change counter is on it, whether or not the source changed it.
    save(lock, old_size, 1, &mut current, journal)?;
    if page_one.is_empty() {
        page_one.clone_from(&current);
    }
    let kept = comparable.min(batch.commit).max(1);
    (kept + 1..=old.page_count).try_for_each(|number| save(lock, old_size, number, &mut current, journal))?;
    Ok(Some(Changes { changed, page_one }))
}

fn save(
    lock: &Exclusive<'_>,
    page_size: PageSize,
    number: u32,
    buffer: &mut [u8],
    journal: &mut Journal,
) -> Result<()> {
    match Pgno::new(number) {
        // SQLite never journals the page of its lock bytes; it holds nothing.
        Some(pgno) if pgno != page_size.lock_page() => {
            lock.file().read_at(pgno.offset(page_size), buffer)?;
            journal.push(pgno, buffer)
        }
        _ => Ok(()),
    }
}

fn incomplete(base: u32, batch: &Batch) -> Error {
    let problem = format!(
        "the database grows from {base} to {} pages, and not all of them are in the files up to {}",
        batch.commit, batch.to
    );
    Error::new(ErrorKind::Corrupt, problem)
}

/// One bit for each page of a database.
struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    fn new(page_count: u32) -> Self {
        Self { words: vec![0; page_count as usize / 64 + 1] }
    }

    /// Adds a page. False when it was there.
    fn put(&mut self, pgno: Pgno) -> bool {
        let (word, bit) = place(pgno);
        match self.words.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    /// Removes a page. False when it was not there.
    fn take(&mut self, pgno: Pgno) -> bool {
        let (word, bit) = place(pgno);
        match self.words.get_mut(word) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                true
            }
            _ => false,
        }
    }

    fn has(&self, pgno: Pgno) -> bool {
        let (word, bit) = place(pgno);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }
}

fn place(pgno: Pgno) -> (usize, u64) {
    (pgno.get() as usize / 64, 1 << (pgno.get() % 64))
}

#[cfg(test)]
mod tests;
