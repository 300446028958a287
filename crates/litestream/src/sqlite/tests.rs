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
