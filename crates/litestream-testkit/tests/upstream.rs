//! The harness around a real binary: round trip, logs, signals.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::path::Path;
use std::time::Duration;

use litestream_testkit::image::{self, Image};
use litestream_testkit::upstream;
use rusqlite::Connection;

const LIMIT: Duration = Duration::from_secs(60);

fn database(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    connection
}

#[test]
fn upstream_restores_what_it_replicated() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let _open = database(&db);
    let replica = format!("file://{}", dir.path().join("replica").display());
    let litestream = upstream::litestream();
    litestream.replicate_once(&db, &replica).unwrap();
    let restored = dir.path().join("restored");
    litestream.restore(&replica, &restored).unwrap();
    let expected = image::read_image(&db).unwrap();
    expected.assert_same(&Image::of_closed_file(&restored).unwrap(), "restored by upstream");
}

#[test]
fn daemon_logs_and_ends_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let _open = database(&db);
    let config = dir.path().join("litestream.yml");
    let replica = dir.path().join("replica");
    std::fs::write(
        &config,
        format!("dbs:\n  - path: {}\n    replica:\n      path: {}\n", db.display(), replica.display()),
    )
    .unwrap();
    let mut daemon = upstream::litestream().replicate(&config, &dir.path().join("log")).unwrap();
    let line = daemon.wait_for_log("replicating to", LIMIT).unwrap();
    assert!(line.contains("level=INFO"), "{line}");
    assert_eq!(daemon.status().unwrap(), None);
    assert!(daemon.terminate(LIMIT).unwrap().success());
}

#[test]
fn daemon_that_ends_early_shows_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["replicate", "-config", "/nonexistent/litestream.yml"];
    let mut daemon = upstream::litestream().daemon(args, &dir.path().join("log")).unwrap();
    let error = daemon.wait_for_log("replicating to", LIMIT).unwrap_err().to_string();
    assert!(error.contains("daemon ended") && error.contains("litestream.yml"), "{error}");
}

#[test]
fn run_that_fails_names_command_and_output() {
    let output = upstream::litestream().run(["restore", "file:///nonexistent"]).unwrap();
    let error = output.success().unwrap_err().to_string();
    assert!(error.contains("restore") && error.contains("exit status: 1"), "{error}");
}
