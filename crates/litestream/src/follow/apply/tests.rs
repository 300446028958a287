use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use super::*;
use crate::sqlite::LiveFile;

/// A database in rollback mode with some tables, closed.
fn database(path: &Path, page_size: u32, rows: u32) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA journal_mode = delete; CREATE TABLE t (id INTEGER PRIMARY KEY, x)"
    ))
    .unwrap();
    db.execute(
        "INSERT INTO t (x) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         SELECT randomblob(300) FROM n",
        [rows],
    )
    .unwrap();
}

/// Every page of the file at `target` as a batch for the file at `old`; with
/// `only_changed`, those that differ.
fn batch(old: &Path, target: &Path, only_changed: bool) -> Batch {
    let (old, new) = (fs::read(old).unwrap(), fs::read(target).unwrap());
    let size = PageOne::parse(&new).unwrap().page_size;
    let mut pages = Spill::new(target, size);
    for (number, page) in (1..).zip(new.chunks_exact(size.len())) {
        let at = (number as usize - 1) * size.len();
        if !only_changed || old.get(at..at + size.len()) != Some(page) {
            pages.push(Pgno::new(number).unwrap(), page).unwrap();
        }
    }
    Batch {
        pages,
        commit: u32::try_from(new.len() / size.len()).unwrap(),
        to: Txid::new(2),
        timestamp: Timestamp::UNIX_EPOCH,
        file_count: 1,
        is_whole: !only_changed,
    }
}

/// What lies on the disk now, as a killed process leaves it. Copied by another
/// process: closing the files here would drop our locks.
fn crash_image(db: &Path, dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    for suffix in ["", "-journal"] {
        let from = format!("{}{suffix}", db.display());
        if Path::new(&from).exists() {
            assert!(Command::new("cp").args([&from, dir.to_str().unwrap()]).status().unwrap().success());
        }
    }
    dir.join(db.file_name().unwrap())
}

/// The database's content after SQLite has opened it, and checked.
fn content(db: &Path) -> Vec<u8> {
    let connection = Connection::open(db).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok", "{}", db.display());
    drop(connection);
    without_counter(fs::read(db).unwrap())
}

/// Whether a reader that may not write gets an error instead of pages.
fn is_refused_read_only(db: &Path) -> bool {
    let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let read = connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    read.is_err_and(|error| error.sqlite_error().is_some_and(|error| error.extended_code == READONLY_ROLLBACK))
}

/// `SQLITE_READONLY_ROLLBACK`.
const READONLY_ROLLBACK: i32 = 776;

fn without_counter(mut file: Vec<u8>) -> Vec<u8> {
    file[24..28].fill(0);
    file[92..96].fill(0);
    file
}

/// Applies, and looks at what a crash at each step leaves: SQLite itself must
/// make of it the old database or the new one.
fn survives_a_crash_at_every_step(page_sizes: (u32, u32), rows: (u32, u32), only_changed: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (db, target) = (dir.path().join("copy.db"), dir.path().join("target.db"));
    database(&db, page_sizes.0, rows.0);
    if only_changed {
        // The same database, some transactions later.
        fs::copy(&db, &target).unwrap();
        let later = Connection::open(&target).unwrap();
        let sql = if rows.1 >= rows.0 {
            format!(
                "INSERT INTO t (x) SELECT randomblob(300) FROM t LIMIT {}; UPDATE t SET x = 1 WHERE id < 9",
                rows.1 - rows.0
            )
        } else {
            format!("DELETE FROM t WHERE id > {}; VACUUM", rows.1)
        };
        later.execute_batch(&sql).unwrap();
    } else {
        database(&target, page_sizes.1, rows.1);
    }
    let (old, new) = (without_counter(fs::read(&db).unwrap()), without_counter(fs::read(&target).unwrap()));
    let batch = batch(&db, &target, only_changed);
    let images = RefCell::new(Vec::new());
    let count = Cell::new(0);
    let live = LiveFile::open(&db).unwrap();
    let lock = live.lock_exclusive(Duration::from_secs(5)).unwrap().unwrap();
    let written = apply(&lock, &db, &batch, &|step| {
        count.set(count.get() + 1);
        // Some of many equal steps.
        if step != Step::PageWritten || count.get() % 3 == 0 {
            let image = crash_image(&db, &dir.path().join(format!("crash-{}", count.get())));
            images.borrow_mut().push((step, image));
        }
    })
    .unwrap();
    drop(lock);
    assert!(written.page_count > 1);
    assert!(content(&db) == new, "the batch is not what was applied");
    let images = images.into_inner();
    assert!(images.len() > 4);
    for (step, image) in images {
        if !matches!(step, Step::JournalBegun | Step::Committed) {
            assert!(is_refused_read_only(&image), "a reader that cannot roll back read a half-written database");
        }
        let found = content(&image);
        let expected = if step == Step::Committed { &new } else { &old };
        assert!(found == *expected, "after a crash at {step:?}: {} bytes, expected {}", found.len(), expected.len());
        // One that has not even a header is none.
        let journal_len = fs::metadata(image.with_file_name("copy.db-journal")).map_or(0, |found| found.len());
        assert_eq!(journal_len, 0, "the journal was not rolled back after {step:?}");
    }
}

#[test]
fn a_crash_at_any_step_of_an_increment_leaves_old_or_new() {
    survives_a_crash_at_every_step((4096, 4096), (100, 160), true);
    survives_a_crash_at_every_step((512, 512), (100, 130), true);
}

#[test]
fn a_crash_at_any_step_of_a_shrinking_increment_leaves_old_or_new() {
    survives_a_crash_at_every_step((1024, 1024), (400, 100), true);
}

#[test]
fn a_crash_at_any_step_of_a_rebuild_leaves_old_or_new() {
    survives_a_crash_at_every_step((4096, 4096), (300, 60), false);
    survives_a_crash_at_every_step((65536, 65536), (300, 900), false);
}

#[test]
fn a_crash_at_any_step_of_a_change_of_page_size_leaves_old_or_new() {
    survives_a_crash_at_every_step((4096, 512), (200, 90), false);
    survives_a_crash_at_every_step((512, 8192), (90, 300), false);
}

/// L56–L61: a connection opened before must see the new pages, though the file
/// did not hold page 1.
#[test]
fn a_reader_that_stays_open_sees_pages_without_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (db, target) = (dir.path().join("copy.db"), dir.path().join("target.db"));
    database(&db, 4096, 50);
    fs::copy(&db, &target).unwrap();
    Connection::open(&target).unwrap().execute_batch("UPDATE t SET x = 'new'").unwrap();
    let reader = Connection::open_with_flags(&db, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let news = |reader: &Connection| -> u32 {
        reader.query_row("SELECT count(*) FROM t WHERE x = 'new'", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(news(&reader), 0);
    let full = batch(&db, &target, true);
    let mut without_first = Batch { pages: Spill::new(&target, full.pages.page_size()), ..batch(&db, &target, true) };
    full.pages
        .for_each_newest_first(
            |pgno, page| if pgno == Pgno::FIRST { Ok(()) } else { without_first.pages.push(pgno, page) },
        )
        .unwrap();
    let live = LiveFile::open(&db).unwrap();
    let written = {
        let lock = live.lock_exclusive(Duration::from_secs(5)).unwrap().unwrap();
        apply(&lock, &db, &without_first, &|_| ()).unwrap()
    };
    assert_eq!(news(&reader), 50);
    let header = fs::read(&db).unwrap();
    assert_eq!(header[24..28], written.counter.to_be_bytes());
    assert_eq!(header[92..96], written.counter.to_be_bytes());
}

#[test]
fn of_several_versions_of_a_page_the_last_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (db, target) = (dir.path().join("copy.db"), dir.path().join("target.db"));
    database(&db, 4096, 50);
    fs::copy(&db, &target).unwrap();
    Connection::open(&target).unwrap().execute_batch("UPDATE t SET x = 'new'").unwrap();
    let (there, back) = (batch(&db, &target, true), batch(&target, &db, true));
    let mut both = Batch { pages: Spill::new(&target, there.pages.page_size()), ..batch(&target, &db, true) };
    for half in [&there, &back] {
        half.pages.for_each_newest_first(|pgno, page| both.pages.push(pgno, page)).unwrap();
    }
    let live = LiveFile::open(&db).unwrap();
    let lock = live.lock_exclusive(Duration::from_secs(5)).unwrap().unwrap();
    assert_eq!(apply(&lock, &db, &both, &|_| ()).unwrap().page_count, 0, "there and back is nowhere");
    assert!(apply(&lock, &db, &there, &|_| ()).unwrap().page_count > 1);
    drop(lock);
    drop(live);
    assert!(content(&db) == without_counter(fs::read(&target).unwrap()));
}

#[test]
fn a_batch_that_changes_nothing_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("copy.db");
    database(&db, 4096, 50);
    let before = fs::read(&db).unwrap();
    let same = batch(&db, &db, false);
    let live = LiveFile::open(&db).unwrap();
    let lock = live.lock_exclusive(Duration::from_secs(5)).unwrap().unwrap();
    assert_eq!(apply(&lock, &db, &same, &|_| ()).unwrap().page_count, 0);
    drop(lock);
    drop(live);
    assert!(fs::read(&db).unwrap() == before);
    assert!(!dir.path().join("copy.db-journal").exists());
}

#[test]
fn growth_without_all_of_its_pages_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let (db, target) = (dir.path().join("copy.db"), dir.path().join("target.db"));
    database(&db, 4096, 50);
    fs::copy(&db, &target).unwrap();
    Connection::open(&target).unwrap().execute_batch("INSERT INTO t (x) SELECT x FROM t").unwrap();
    let full = batch(&db, &target, true);
    let mut holey = Batch { pages: Spill::new(&target, full.pages.page_size()), ..batch(&db, &target, true) };
    full.pages
        .for_each_newest_first(
            |pgno, page| if pgno.get() == full.commit { Ok(()) } else { holey.pages.push(pgno, page) },
        )
        .unwrap();
    let before = fs::read(&db).unwrap();
    let live = LiveFile::open(&db).unwrap();
    let lock = live.lock_exclusive(Duration::from_secs(5)).unwrap().unwrap();
    let error = apply(&lock, &db, &holey, &|_| ()).unwrap_err();
    drop(lock);
    drop(live);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(fs::read(&db).unwrap() == before);
    assert!(!dir.path().join("copy.db-journal").exists());
}

#[test]
fn no_lock_is_given_while_somebody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("copy.db");
    database(&db, 4096, 5);
    let reader = Connection::open(&db).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    let live = LiveFile::open(&db).unwrap();
    assert!(live.lock_exclusive(Duration::from_millis(10)).unwrap().is_none());
    reader.execute_batch("COMMIT").unwrap();
    assert!(live.lock_exclusive(Duration::from_millis(10)).unwrap().is_some());
}
