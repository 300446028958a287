//! Databases over 1 GiB: the page that holds SQLite's lock bytes is in no file,
//! and growing, shrinking and growing across it loses nothing beside it.
//!
//! Spec: ltx §3 (lock page); hazard L48.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot be set up fails")]

mod site;

use std::fs;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use litestream_testkit::program::Program;
use litestream_testkit::scenario::{self, CheckpointMode};
use litestream_testkit::upstream;
use site::{Site, ours};

const LIMIT: Duration = Duration::from_secs(120);
const LOCK_BYTE: u64 = 1 << 30;

/// One at a time: each needs three gigabytes of disk.
static ALONE: Mutex<()> = Mutex::new(());

fn crosses_the_lock_page(page_size: u32) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let started = Instant::now();
    let site = Site::new();
    site.config("");
    let application = scenario::quiet_connection(&site.db()).unwrap();
    application
        .execute_batch(&format!(
            "PRAGMA journal_mode = delete; PRAGMA auto_vacuum = full; PRAGMA page_size = {page_size}; VACUUM;
             PRAGMA journal_mode = off; PRAGMA synchronous = off;
             CREATE TABLE filler (body BLOB); CREATE TABLE grown (id INTEGER PRIMARY KEY, body BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 254)
             INSERT INTO filler SELECT zeroblob(4 << 20) FROM n;
             PRAGMA journal_mode = wal; PRAGMA synchronous = normal"
        ))
        .unwrap();
    let len = || -> u64 {
        let pages: u32 = application.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        u64::from(pages) * u64::from(page_size)
    };
    let grow = || {
        for body_len in [10, 1_000, 100_000, 1 << 20] {
            let count = (4 << 20) / body_len.max(20_000);
            let insert = format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
                 INSERT INTO grown (body) SELECT randomblob({body_len}) FROM n"
            );
            application.execute_batch(&insert).unwrap();
        }
    };
    assert!(len() < LOCK_BYTE, "{}", len());

    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    site.wait_for_level(9, LIMIT);
    while len() < LOCK_BYTE + (4 << 20) {
        grow();
    }
    assert!(daemon.terminate(LIMIT).unwrap().success());
    scenario::checkpoint(&application, CheckpointMode::Truncate).unwrap();
    assert_restores(&site, &ours(), &format!("page size {page_size}, grown"));

    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    application.execute_batch("DELETE FROM grown").unwrap();
    assert!(len() < LOCK_BYTE, "{}", len());
    assert!(daemon.terminate(LIMIT).unwrap().success());
    scenario::checkpoint(&application, CheckpointMode::Truncate).unwrap();
    assert_restores(&site, &ours(), &format!("page size {page_size}, shrunk"));

    // Half of the growth while nobody looks: found by comparison.
    while len() < LOCK_BYTE + (2 << 20) {
        grow();
    }
    scenario::checkpoint(&application, CheckpointMode::Truncate).unwrap();
    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    grow();
    assert!(daemon.terminate(LIMIT).unwrap().success());
    scenario::checkpoint(&application, CheckpointMode::Truncate).unwrap();
    for program in [ours(), upstream::litestream()] {
        assert_restores(&site, &program, &format!("page size {page_size}, grown again"));
    }
    assert_eq!(site.level(9).len(), 1);

    // An image that is made of a database beyond the page.
    fs::remove_dir_all(site.replica()).unwrap();
    fs::remove_dir_all(site.meta()).unwrap();
    site.once(&ours());
    scenario::checkpoint(&application, CheckpointMode::Truncate).unwrap();
    for program in [ours(), upstream::litestream()] {
        assert_restores(&site, &program, &format!("page size {page_size}, a new image"));
    }
    site.assert_no_panic();
    println!("page size {page_size}: {} bytes, {:?}", len(), started.elapsed());
}

/// The database has just been checkpointed and nobody writes.
#[track_caller]
fn assert_restores(site: &Site, program: &Program, what: &str) {
    let output = site.path("restored.db");
    let started = Instant::now();
    program.restore(&site.url(), &output).unwrap();
    println!("{what}: {} took {:?}", program.path().display(), started.elapsed());
    // By a child: this process must not open a database that it has open.
    let compared = Command::new("cmp").args([site.db(), output.clone()]).output().unwrap();
    fs::remove_file(&output).unwrap();
    assert!(compared.status.success(), "{what}: {}", String::from_utf8_lossy(&compared.stdout));
}

#[test]
fn pages_of_4096_bytes_cross_the_lock_page() {
    crosses_the_lock_page(4096);
}

#[test]
fn pages_of_65536_bytes_cross_the_lock_page() {
    crosses_the_lock_page(65536);
}
