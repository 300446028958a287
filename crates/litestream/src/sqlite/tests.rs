//! What every connection promises, on real databases.

use super::*;

fn database(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let path = dir.path().join("db");
    let app = rusqlite::Connection::open(&path).unwrap();
    app.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    path
}

/// L30: one connection of a pool that checkpoints on its own, or does not wait, is enough.
#[test]
fn no_connection_checkpoints_on_its_own_or_forgets_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir);
    for _ in 0..3 {
        let connection = Connection::open(&path, Duration::from_millis(1234)).unwrap();
        let pragma = |name: &str| -> i64 {
            connection.inner.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
        };
        assert_eq!((pragma("wal_autocheckpoint"), pragma("busy_timeout")), (0, 1234));
    }
}

/// L14: a pin may be released by whoever comes first, and again.
#[test]
fn a_transaction_may_be_ended_twice() {
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::open(&database(&dir), Duration::ZERO).unwrap();
    connection.begin_read().unwrap();
    assert!(connection.is_reading());
    for _ in 0..2 {
        connection.end().unwrap();
        assert!(!connection.is_reading());
    }
    connection.begin_read().unwrap();
    assert!(connection.is_reading());
}

/// Only a file has a WAL that can be kept.
#[test]
fn a_database_that_is_no_file_is_refused() {
    let refused = Connection::open(Path::new(":memory:"), Duration::ZERO).err().unwrap();
    assert!(refused.to_string().contains("configure connection: unknown operation"), "{refused}");
}

/// A closed database with an index, whose name means something in a URI.
fn closed_database(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let path = dir.path().join("50% of ü?mode=rw#.db");
    let app = rusqlite::Connection::open(&path).unwrap();
    app.execute_batch(
        "PRAGMA journal_mode = wal; CREATE TABLE t (x TEXT NOT NULL); CREATE INDEX i ON t (x);
         INSERT INTO t VALUES ('one'), ('two'), ('three')",
    )
    .unwrap();
    path
}

#[test]
fn an_integrity_check_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed_database(&dir);
    let before = std::fs::read(&path).unwrap();
    for check in [IntegrityCheck::None, IntegrityCheck::Quick, IntegrityCheck::Full] {
        integrity_check(&path, check).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a side file is left");
}

/// What the index says and what the table says are two things: only the full check
/// compares them.
#[test]
fn each_integrity_check_finds_what_it_is_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed_database(&dir);
    let whole = std::fs::read(&path).unwrap();
    let at = whole.windows(5).rposition(|bytes| bytes == b"three").unwrap();
    let mut damaged = whole.clone();
    damaged.get_mut(at..at + 5).unwrap().copy_from_slice(b"THREE");
    std::fs::write(&path, &damaged).unwrap();
    integrity_check(&path, IntegrityCheck::Quick).unwrap();
    let found = integrity_check(&path, IntegrityCheck::Full).unwrap_err();
    assert_eq!(found.kind(), ErrorKind::Corrupt);
    assert!(found.to_string().contains("integrity check failed: "), "{found}");

    std::fs::write(&path, b"this is no database, and never was one".repeat(100)).unwrap();
    for check in [IntegrityCheck::Quick, IntegrityCheck::Full] {
        let found = integrity_check(&path, check).unwrap_err();
        assert_eq!(found.kind(), ErrorKind::Corrupt);
        assert!(found.to_string().contains("file is not a database (26)"), "{found}");
    }
    integrity_check(&path, IntegrityCheck::None).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(integrity_check(&path, IntegrityCheck::Quick).unwrap_err().kind(), ErrorKind::Setup);
}

/// Errors of SQLite say what the caller does next, and give its words and its number.
#[test]
fn errors_tell_a_lock_from_damage_and_from_a_wrong_setup() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Connection::open(&dir.path().join("none"), Duration::ZERO).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::Setup, "{missing}");
    let path = database(&dir);
    let app = rusqlite::Connection::open(&path).unwrap();
    app.execute_batch("PRAGMA locking_mode = exclusive; BEGIN IMMEDIATE; INSERT INTO t VALUES (2)").unwrap();
    let connection = Connection::open(&path, Duration::ZERO).unwrap();
    let locked = connection.begin_read().unwrap_err();
    assert_eq!(locked.kind(), ErrorKind::Busy);
    assert!(locked.to_string().contains("database is locked (5)"), "{locked}");
    assert!(!connection.is_reading());
    assert!(!connection.lock_writers(Duration::ZERO).unwrap());
    let failure = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
    let full = sqlite("copy", failure(ffi::SQLITE_FULL));
    assert_eq!(full.kind(), ErrorKind::DiskFull);
    assert!(full.to_string().contains("(13)"), "{full}");
    assert_eq!(sqlite("copy", failure(ffi::SQLITE_READONLY)).kind(), ErrorKind::Setup);
    let other = sqlite("copy", rusqlite::Error::QueryReturnedNoRows);
    assert_eq!(other.kind(), ErrorKind::Transient);
    assert!(other.to_string().contains("no rows"), "{other}");
}
