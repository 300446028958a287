//! The workload itself: same seed, same database; pauses are quiet; what it
//! leaves is sound.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use litestream_testkit::bank::{self, Bank};
use litestream_testkit::image::{self, Image};
use litestream_testkit::scenario::{self, CheckpointMode};
use litestream_testkit::workload::{Options, Workload};
use rusqlite::Connection;

fn schema_text(db: &Path) -> String {
    let connection = Connection::open(db).unwrap();
    let sql = "SELECT group_concat(sql, ';'), (SELECT page_size FROM pragma_page_size) FROM sqlite_schema";
    connection.query_row(sql, [], |row| Ok(format!("{} {}", row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap()
}

#[test]
fn seed_determines_the_database_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = HashSet::new();
    for seed in 0..10 {
        let (first, second) = (dir.path().join(format!("a{seed}")), dir.path().join(format!("b{seed}")));
        Workload::create(&first, seed, Options::default()).unwrap();
        Workload::create(&second, seed, Options::default()).unwrap();
        assert_eq!(schema_text(&first), schema_text(&second));
        let expected = image::read_image(&first).unwrap();
        expected.assert_same(&image::read_image(&second).unwrap(), "two databases of one seed");
        seen.insert(schema_text(&first));
    }
    assert!(seen.len() > 8, "{seen:?}");
}

#[test]
fn database_is_quiet_while_paused_and_sound_after() {
    for seed in [fastrand::u64(..), fastrand::u64(..), 1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("db");
        let workload = Workload::create(&db, seed, Options::default()).unwrap();
        let running = workload.start();
        let mut digests = HashSet::new();
        for _ in 0..4 {
            running.go_on(Duration::from_millis(60));
            running.pause();
            let image = image::read_image(&db).unwrap();
            let copy = dir.path().join("copy");
            image::checkpointed_copy(&db, &copy).unwrap();
            running.resume();
            Image::of_closed_file(&copy).unwrap().assert_same(&image, "image and SQLite's checkpoint in one pause");
            digests.insert(image.sha256());
        }
        let stats = running.stop().unwrap();
        assert!(digests.len() > 1 && stats.operations > 10, "{stats:?}");

        let copy = dir.path().join("copy");
        image::checkpointed_copy(&db, &copy).unwrap();
        let integrity: String =
            Connection::open(&copy).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(integrity, "ok");
    }
}

#[test]
fn bank_audit_counts_transfers_and_finds_a_torn_one() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let mut bank = Bank::open(&db, 1).unwrap();
    for number in 1..=50 {
        assert_eq!(bank.transfer().unwrap(), number);
    }
    drop(bank);
    assert_eq!(bank::audit(&db).unwrap(), 50);
    assert_eq!(Bank::open(&db, 2).unwrap().transfer().unwrap(), 51);

    let connection = Connection::open(&db).unwrap();
    connection.execute("DELETE FROM ledger WHERE number = 7", []).unwrap();
    assert!(bank::audit(&db).unwrap_err().to_string().contains("ends at 51 and has 50 rows"));
    connection.execute("UPDATE account SET balance = balance + 1 WHERE id = 3", []).unwrap();
    assert!(bank::audit(&db).unwrap_err().to_string().contains("add up to 500001"));
}

#[test]
fn scenario_steps_do_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let (db, other) = (dir.path().join("db"), dir.path().join("other"));
    let connection = scenario::quiet_connection(&db).unwrap();
    scenario::commit(&connection, 5).unwrap();
    let reader = scenario::quiet_connection(&db).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    scenario::commit(&connection, 1).unwrap();
    let blocked = scenario::checkpoint(&connection, CheckpointMode::Truncate).unwrap();
    assert!(blocked.is_blocked && blocked.copied < blocked.frames, "{blocked:?}");
    drop(reader);
    let done = scenario::checkpoint(&connection, CheckpointMode::Passive).unwrap();
    assert!(!done.is_blocked && done.copied == done.frames && done.frames > 0, "{done:?}");
    drop(connection);

    scenario::change_page_size(&db, 8192).unwrap();
    assert_eq!(image::read_image(&db).unwrap().page_size(), 8192);
    drop(Bank::open(&other, 1).unwrap());
    scenario::replace_by_rename(&db, &other).unwrap();
    assert_eq!(bank::audit(&db).unwrap(), 0);
}
