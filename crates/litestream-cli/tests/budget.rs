//! Small disks and stores that are away for long: what goes first, what is never
//! lost, and how it comes back by itself.
//!
//! Spec: docs/operations.md, "Budgets".

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod scrape;
mod site;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use litestream_testkit::scenario;
use rusqlite::Connection;
use scrape::{LIMIT, Page, address, wait_for};
use site::{Site, files_below, ours};

/// A file system of its own, as small as that. Needs root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> Self {
        fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "mount needs root: {output:?}");
        Self(path)
    }

    /// Takes all space that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        let written = io::copy(&mut io::repeat(7).take(1 << 30), &mut ballast);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    fn relieve(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }

    fn used(&self) -> u64 {
        files_below(&self.0).iter().map(|path| fs::metadata(path).map_or(0, |file| file.len())).sum()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A site whose local state lives on a small disk, and an application.
fn site_on_small_disk(size: &str, settings: &str) -> (Site, SmallDisk, Connection) {
    let site = Site::new();
    let disk = SmallDisk::mount(site.path("small"), size);
    let config = site.config("addr: \"127.0.0.1:0\"\nshutdown-sync-timeout: 1s\n");
    let meta = format!("    meta-path: {}\n    {settings}\n    replica:\n", disk.0.join("meta").display());
    let text = fs::read_to_string(&config).unwrap().replace("    replica:\n", &meta);
    fs::write(&config, text).unwrap();
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, 10).unwrap();
    (site, disk, application)
}

/// The store is away for long: local files stay within their budget, the daemon says
/// what it gave up, and the newest state is replicated when the store is back.
#[test]
fn local_files_stay_within_their_budget_while_the_store_is_away() {
    const BUDGET: u64 = 600_000;
    let (site, disk, application) = site_on_small_disk("4m", "max-local-bytes: 600kB");
    let mut daemon = site.daemon(&ours());
    let address = address(&mut daemon);
    wait_for(&address, "a first upload", |page| page.sum("litestream_replica_txid", &[]) > Some(1.0));
    let away = site.path("replica-away");
    fs::rename(site.replica(), &away).unwrap();
    fs::write(site.replica(), "no directory").unwrap();
    let started = Instant::now();
    let mut most = 0;
    loop {
        scenario::commit(&application, 20).unwrap();
        most = most.max(disk.used());
        let page = Page::of(&address);
        assert_eq!(page.sum("litestream_disk_full", &[]), Some(0.0), "{}", daemon.log());
        if page.sum("litestream_histories_given_up_total", &[]) > Some(0.0) {
            break;
        }
        assert!(started.elapsed() < LIMIT, "used {most}: {:#?}\n{}", page.non_zero(), daemon.log());
    }
    assert!(most < 2 * BUDGET, "{most}");
    let line = daemon.wait_for_log("local history given up", LIMIT).unwrap();
    assert!(line.contains("level=WARN") && line.contains("max-local-bytes"), "{line}");
    // It goes on like that, and neither disk nor WAL fills.
    for _ in 0..100 {
        scenario::commit(&application, 50).unwrap();
    }
    let page = Page::of(&address);
    assert_eq!(page.sum("litestream_replica_problem", &[]), Some(1.0));
    assert!(page.sum("litestream_replica_lag_seconds", &[]) > Some(0.0));
    assert!(disk.used() < 2 * BUDGET, "{}", disk.used());
    fs::remove_file(site.replica()).unwrap();
    fs::rename(&away, site.replica()).unwrap();
    wait_for(&address, "a healthy replica", |page| {
        page.sum("litestream_replica_problem", &[]) == Some(0.0)
            && page.sum("litestream_replica_lag_seconds", &[]) == Some(0.0)
    });
    scenario::commit(&application, 5).unwrap();
    site.wait_until_replicated(LIMIT, "after the store came back");
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores("after the store came back");
}

/// The state directory's disk is full for long, and an application that leaves all
/// checkpoints to us writes on as fast as it can: the WAL stays short all the same, the
/// daemon says what that costs, and the newest state is replicated when there is space.
#[test]
fn the_wal_stays_within_its_budget_while_nothing_can_be_captured() {
    const BUDGET: u64 = 4_000_000;
    /// What a writer of 100 MB/s adds in a third of a second: between two looks, while the
    /// lock is waited for and the log is copied.
    const OVERSHOOT: u64 = 32_000_000;
    let (site, disk, application) = site_on_small_disk("8m", "max-wal-bytes: 4MB");
    application
        .execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE big (id INTEGER PRIMARY KEY, body BLOB)")
        .unwrap();
    let mut daemon = site.daemon(&ours());
    let address = address(&mut daemon);
    wait_for(&address, "a first upload", |page| page.sum("litestream_replica_txid", &[]) > Some(1.0));
    disk.fill();
    let (mut written, mut most) = (0, 0);
    let started = Instant::now();
    let given_up = || Page::of(&address).sum("litestream_wals_given_up_total", &[]) > Some(0.0);
    while written < 30 * BUDGET || !given_up() {
        for row in 0..40 {
            application.execute("INSERT OR REPLACE INTO big VALUES (?, randomblob(50000))", [row]).unwrap();
            written += 50_000;
            most = most.max(fs::metadata(site.path("app.db-wal")).unwrap().len());
        }
        assert!(started.elapsed() < LIMIT, "{written} {most}\n{}", daemon.log());
    }
    eprintln!("written {written} in {:?}, longest wal {most}", started.elapsed());
    assert!(most < BUDGET + OVERSHOOT, "{most} of {written}");
    let line = daemon.wait_for_log("wal given up", LIMIT).unwrap();
    assert!(line.contains("level=WARN") && line.contains("max-wal-bytes") && line.contains("limit=4000000"), "{line}");
    let page = Page::of(&address);
    assert_eq!(page.sum("litestream_disk_full", &[]), Some(1.0));
    assert!(page.sum("litestream_replica_lag_seconds", &[]) > Some(0.0));
    disk.relieve();
    wait_for(&address, "space again", |page| {
        page.sum("litestream_disk_full", &[]) == Some(0.0)
            && page.sum("litestream_unsent_transactions", &[]) == Some(0.0)
            && page.sum("litestream_replica_lag_seconds", &[]) == Some(0.0)
    });
    assert!(daemon.log().contains("continuity lost, captured the pages that differ"), "{}", daemon.log());
    scenario::commit(&application, 5).unwrap();
    site.wait_until_replicated(LIMIT, "after the wal was given up");
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores("after the wal was given up");
}

/// For a while the state directory's disk is full: the metrics say so, the application
/// goes on, and afterwards everything is replicated without a new image.
#[test]
fn a_full_disk_shows_in_metrics_and_passes() {
    let (site, disk, application) = site_on_small_disk("3m", "max-local-bytes: 0");
    let mut daemon = site.daemon(&ours());
    let address = address(&mut daemon);
    wait_for(&address, "a first upload", |page| page.sum("litestream_replica_txid", &[]) > Some(1.0));
    disk.fill();
    let page = wait_for(&address, "a full disk", |page| {
        scenario::commit(&application, 20).unwrap();
        page.sum("litestream_disk_full", &[]) == Some(1.0)
    });
    assert!(page.sum("litestream_sync_error_count", &[]) > Some(0.0));
    assert!(page.sum("litestream_backoff_seconds", &["task=\"capture\""]) > Some(0.0));
    disk.relieve();
    let page = wait_for(&address, "space again", |page| {
        page.sum("litestream_disk_full", &[]) == Some(0.0)
            && page.sum("litestream_unsent_transactions", &[]) == Some(0.0)
            && page.sum("litestream_replica_lag_seconds", &[]) == Some(0.0)
    });
    assert_eq!(page.sum("litestream_histories_given_up_total", &[]), Some(0.0));
    site.wait_until_replicated(LIMIT, "after the disk was full");
}
