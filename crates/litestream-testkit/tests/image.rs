//! The oracle against SQLite's own reading of the same files.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::fs;

use litestream_testkit::image::{self, Image};
use rusqlite::Connection;

fn database(dir: &tempfile::TempDir, page_size: u32) -> (std::path::PathBuf, Connection) {
    let path = dir.path().join("db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);"
        ))
        .unwrap();
    (path, connection)
}

fn insert(connection: &Connection, rows: u32) {
    connection
        .execute(
            "INSERT INTO t (body) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             SELECT randomblob(700) FROM n",
            [rows],
        )
        .unwrap();
}

#[test]
fn image_equals_what_sqlite_checkpoints() {
    for page_size in [512, 4096, 65_536] {
        let dir = tempfile::tempdir().unwrap();
        let (path, connection) = database(&dir, page_size);
        insert(&connection, 200);
        connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        // Restarts the WAL: stale frames of the old generation follow the new ones.
        insert(&connection, 3);
        connection.execute("DELETE FROM t WHERE id % 3 = 0", []).unwrap();
        // Spilled and rolled back: frames without a commit.
        connection.execute_batch("PRAGMA cache_size = 2; BEGIN").unwrap();
        insert(&connection, 300);
        connection.execute_batch("ROLLBACK").unwrap();
        let image = image::read_image(&path).unwrap();

        let copy = dir.path().join("copy");
        image::checkpointed_copy(&path, &copy).unwrap();
        let expected = Image::of_closed_file(&copy).unwrap();
        expected.assert_same(&image, &format!("page size {page_size}"));
        assert_eq!(image.page_size(), page_size as usize);
        assert!(image.page_count() >= 4, "{image:?}");
    }
}

#[test]
fn image_shrinks_with_vacuum() {
    let dir = tempfile::tempdir().unwrap();
    let (path, connection) = database(&dir, 4096);
    insert(&connection, 500);
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let before = image::read_image(&path).unwrap();
    connection.execute_batch("DELETE FROM t WHERE id > 10; VACUUM").unwrap();
    let after = image::read_image(&path).unwrap();
    assert!(after.page_count() < before.page_count() / 10, "{before:?} {after:?}");

    let copy = dir.path().join("copy");
    image::checkpointed_copy(&path, &copy).unwrap();
    Image::of_closed_file(&copy).unwrap().assert_same(&after, "after VACUUM");
}

/// The reason for reading through children: closing a descriptor of the database
/// in this process would drop its shared lock, and the next process to close the
/// database would take itself for the last one and delete the WAL.
#[test]
fn reading_an_image_keeps_the_locks_of_this_process() {
    let dir = tempfile::tempdir().unwrap();
    let (path, connection) = database(&dir, 4096);
    insert(&connection, 10);
    image::read_image(&path).unwrap();

    let visit = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select * from t'); c.close()";
    let output = std::process::Command::new("python3").args(["-c", visit]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(dir.path().join("db-wal").exists());
}

#[test]
fn lock_page_counts_as_zeros() {
    let page_size = 65_536;
    let lock_page = 0x4000_0000 / page_size;
    let mut main = vec![0_u8; (lock_page + 2) * page_size];
    main[16..18].copy_from_slice(&[0, 1]);
    main[lock_page * page_size..(lock_page + 1) * page_size].fill(7);
    main[(lock_page + 1) * page_size] = 8;
    let image = Image::assemble(main, &[]).unwrap();
    assert!(image.bytes()[lock_page * page_size..(lock_page + 1) * page_size].iter().all(|byte| *byte == 0));
    assert_eq!(image.bytes()[(lock_page + 1) * page_size], 8);
}

#[test]
fn difference_names_the_first_page() {
    let dir = tempfile::tempdir().unwrap();
    let (path, connection) = database(&dir, 4096);
    insert(&connection, 50);
    drop(connection);
    let expected = Image::of_closed_file(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * 4096 + 17] ^= 1;
    bytes[5 * 4096] ^= 1;
    let difference = expected.difference(&Image::assemble(bytes, &[]).unwrap()).unwrap();
    assert_eq!((difference.first, difference.different_pages), (Some((3, 17)), 2));
    assert!(difference.to_string().ends_with("2 pages differ, first page 3 at its byte 17"), "{difference}");
    assert_eq!(expected.difference(&expected), None);
}
