//! More databases than can be open at once: idle ones are closed, nothing that is
//! committed meanwhile is lost, and nobody is told otherwise.
//!
//! Spec: docs/decisions/0007-parking.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod scrape;
mod site;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use litestream_testkit::daemon::Daemon;
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::program::Program;
use litestream_testkit::scenario::{self, CheckpointMode, checkpoint};
use rusqlite::Connection;
use scrape::{Page, address};
use site::ours;

const LIMIT: Duration = Duration::from_secs(60);

/// A watched directory, and a daemon that may not have enough files open for all.
struct Fleet {
    dir: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let fleet = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(fleet.path("data")).unwrap();
        let config = format!(
            "addr: \"127.0.0.1:0\"\nsocket:\n  enabled: true\n  path: {}\ndbs:\n  - dir: {}\n    pattern: '*.db'\n    watch: true\n    monitor-interval: 50ms\n    replica:\n      type: file\n      path: {}\n      sync-interval: 50ms\n",
            fleet.path("socket").display(),
            fleet.path("data").display(),
            fleet.path("replica").display()
        );
        fs::write(fleet.path("litestream.yml"), config).unwrap();
        fleet
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn db(&self, index: usize) -> PathBuf {
        self.path(&format!("data/{index}.db"))
    }

    /// Databases with their applications, which keep their connections.
    fn applications(&self, indices: std::ops::Range<usize>) -> Vec<Connection> {
        indices
            .map(|index| {
                let application = scenario::quiet_connection(&self.db(index)).unwrap();
                scenario::commit(&application, 3).unwrap();
                application
            })
            .collect()
    }

    /// Starts a daemon with so many descriptors: 120 are enough for two open databases
    /// and a dozen parked ones.
    fn start(&self, files: u32) -> (Daemon, String) {
        let script = self.path("limited.sh");
        let text = format!("#!/bin/sh\nulimit -n {files}\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_litestream"));
        fs::write(&script, text).unwrap();
        let shell = Program::new("/bin/sh");
        let words = [script.display().to_string(), "replicate".into(), "-config".into()];
        let config = self.path("litestream.yml").display().to_string();
        let mut daemon = shell.daemon(words.into_iter().chain([config]), &self.path("log")).unwrap();
        let address = address(&mut daemon);
        (daemon, address)
    }

    fn restored(&self, index: usize) -> Option<Image> {
        let output = self.path(&format!("restored-{index}.db"));
        // Left over from the time before.
        let _ = fs::remove_file(&output);
        let url = format!("file://{}", self.path(&format!("replica/{index}.db")).display());
        ours().restore(&url, &output).ok()?.success().ok()?;
        Some(Image::of_closed_file(&output).unwrap())
    }

    /// Waits until the replica has the database as it is, which nobody may write.
    #[track_caller]
    fn wait_for(&self, index: usize, daemon: &Daemon) {
        let source = read_image(&self.db(index)).unwrap();
        let started = Instant::now();
        while self.restored(index).is_none_or(|restored| source.difference(&restored).is_some()) {
            assert!(started.elapsed() < LIMIT, "database {index} is not replicated:\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn wait_for_all(&self, indices: std::ops::Range<usize>, daemon: &Daemon) {
        indices.for_each(|index| self.wait_for(index, daemon));
    }

    fn is_open(&self, index: usize, daemon: &Daemon) -> bool {
        let db = self.db(index);
        let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().flatten();
        descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target == db)
    }

    /// Has others opened until this one is not open.
    #[track_caller]
    fn park(&self, index: usize, others: &[Connection], daemon: &Daemon) {
        let started = Instant::now();
        let mut turn = 0;
        while self.is_open(index, daemon) {
            assert!(started.elapsed() < LIMIT, "database {index} stays open:\n{}", daemon.log());
            scenario::commit(&others[turn % others.len()], 1).unwrap();
            turn += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[track_caller]
fn parked(address: &str) -> f64 {
    Page::of(address).sum("litestream_databases_parked", &[]).unwrap()
}

#[track_caller]
fn wait_until(what: &str, daemon: &Daemon, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "not {what} within {LIMIT:?}; log:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn parked_databases_wake_with_their_next_commit_and_are_healthy_meanwhile() {
    const COUNT: usize = 9;
    let fleet = Fleet::new();
    let applications = fleet.applications(0..COUNT);
    let (mut daemon, address) = fleet.start(120);
    let line = daemon.wait_for_log("not all databases can be open at once", LIMIT).unwrap();
    assert!(line.contains("databases=9 at_once=2 limit=120") && line.contains("LimitNOFILE"), "{line}");
    fleet.wait_for_all(0..COUNT, &daemon);
    wait_until("seven parked", &daemon, || parked(&address) >= 7.0);

    // Somebody who asks is not told of any trouble.
    let config = fleet.path("litestream.yml").display().to_string();
    let status = ours().run(["status", "-config", &config, "-json"]).unwrap().success().unwrap().stdout;
    assert!(!status.contains("failing") && !status.contains("waiting"), "{status}");
    let page = Page::of(&address);
    assert_eq!(page.sum("litestream_sync_error_count", &[]), Some(0.0));
    assert_eq!(page.sum("litestream_replica_lag_seconds", &[]), Some(0.0));
    assert_eq!(page.sum("litestream_databases", &[]), Some(9.0));

    for application in &applications {
        scenario::commit(application, 2).unwrap();
    }
    fleet.wait_for_all(0..COUNT, &daemon);
    // The applications kept their connections and their WAL: the log proves it all.
    assert!(!daemon.log().contains("continuity lost"), "{}", daemon.log());

    // More come while it runs.
    let more = fleet.applications(COUNT..COUNT + 4);
    fleet.wait_for_all(COUNT..COUNT + 4, &daemon);
    drop(more);
    assert!(!daemon.log().contains("Too many open files"), "{}", daemon.log());
    assert!(daemon.terminate(LIMIT).unwrap().success());
    fleet.wait_for_all(0..COUNT + 4, &fleet.start(120).0);
}

/// Nobody pins the WAL of a parked database: what others do to it must be noticed.
#[test]
fn whatever_happens_to_a_parked_database_is_captured_or_compared() {
    let fleet = Fleet::new();
    let applications = fleet.applications(0..9);
    let (mut daemon, _) = fleet.start(120);
    fleet.wait_for_all(0..9, &daemon);
    let others = &applications[6..];

    // The WAL is copied, cut off and begun anew.
    fleet.park(0, others, &daemon);
    scenario::commit(&applications[0], 4).unwrap();
    checkpoint(&applications[0], CheckpointMode::Truncate).unwrap();
    scenario::commit(&applications[0], 1).unwrap();
    fleet.wait_for(0, &daemon);

    // The last connection is closed, and takes the WAL with it; somebody else reads;
    // and then another writes and does the same.
    let mut applications = applications;
    fleet.park(1, &applications[6..], &daemon);
    let wal = fs::File::open(fleet.path("data/1.db-wal")).unwrap();
    applications[1] = Connection::open_in_memory().unwrap();
    // Not whether there is one: the copy that the last close made has the daemon look,
    // and looking makes a new one.
    assert_eq!(wal.metadata().unwrap().nlink(), 0, "{}", daemon.log());
    drop(scenario::quiet_connection(&fleet.db(1)).unwrap());
    fleet.wait_for(1, &daemon);
    fleet.park(1, &applications[6..], &daemon);
    scenario::commit(&scenario::quiet_connection(&fleet.db(1)).unwrap(), 5).unwrap();
    fleet.wait_for(1, &daemon);

    // Another file is put in its place.
    fleet.park(2, &applications[6..], &daemon);
    applications[2] = Connection::open_in_memory().unwrap();
    let other = fleet.path("other");
    scenario::commit(&scenario::quiet_connection(&other).unwrap(), 40).unwrap();
    fs::rename(&other, fleet.db(2)).unwrap();
    fleet.wait_for(2, &daemon);

    // It is deleted, and made anew.
    fleet.park(3, &applications[6..], &daemon);
    applications[3] = Connection::open_in_memory().unwrap();
    for suffix in ["", "-wal", "-shm"] {
        // The application's last close removes its own.
        let _ = fs::remove_file(format!("{}{suffix}", fleet.db(3).display()));
    }
    daemon.wait_for_log("removed database from replication", LIMIT).unwrap();
    applications[3] = scenario::quiet_connection(&fleet.db(3)).unwrap();
    scenario::commit(&applications[3], 7).unwrap();
    fleet.wait_for(3, &daemon);

    // A long WAL is begun anew after everything in it was copied: what is left behind
    // the new frames proves that nothing came in between.
    scenario::commit(&applications[4], 60).unwrap();
    fleet.wait_for(4, &daemon);
    fleet.park(4, &applications[6..], &daemon);
    checkpoint(&applications[4], CheckpointMode::Full).unwrap();
    scenario::commit(&applications[4], 1).unwrap();
    fleet.wait_for(4, &daemon);
    wait_until("copied", &daemon, || {
        let done = checkpoint(&applications[4], CheckpointMode::Passive).unwrap();
        done.copied == done.frames
    });
    fleet.park(4, &applications[6..], &daemon);
    let compared = daemon.log().matches("continuity lost").count();
    scenario::commit(&applications[4], 1).unwrap();
    fleet.wait_for(4, &daemon);
    assert_eq!(daemon.log().matches("continuity lost").count(), compared, "{}", daemon.log());

    // The daemon is killed, and everything moves on before it is back.
    fleet.park(5, &applications[6..], &daemon);
    daemon.kill9().unwrap();
    for application in applications.iter().filter(|application| application.path().is_some_and(|path| !path.is_empty()))
    {
        scenario::commit(application, 3).unwrap();
        checkpoint(application, CheckpointMode::Restart).unwrap();
        scenario::commit(application, 1).unwrap();
    }
    let (daemon, _) = fleet.start(120);
    fleet.wait_for_all(0..9, &daemon);
    assert!(daemon.terminate(LIMIT).unwrap().success());
    assert!(!fs::read_to_string(fleet.path("log")).unwrap().contains("panicked"));
}

/// All are written to at once, and only two can be open: they take turns.
#[test]
fn more_busy_databases_than_can_be_open_take_turns() {
    const COUNT: usize = 8;
    let fleet = Fleet::new();
    let applications = fleet.applications(0..COUNT);
    let (mut daemon, address) = fleet.start(120);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for application in applications {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    scenario::commit(&application, 5).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Some leave their WAL, and some take it with them.
                if application.path().unwrap().ends_with("0.db") {
                    std::mem::forget(application);
                }
            });
        }
        let told = daemon.wait_for_log("they take turns", LIMIT);
        let txids = || -> Vec<f64> {
            let page = Page::of(&address);
            page.families["litestream_replica_txid"].samples.iter().map(|(_, txid)| *txid).collect()
        };
        let before = txids();
        // Nobody is left out.
        let started = Instant::now();
        let all_moved = || {
            let now = txids();
            now.len() == COUNT
                && before.len() == COUNT
                && now.iter().zip(&before).all(|(now, before)| *now >= before + 3.0)
        };
        while !all_moved() && started.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(50));
        }
        let moved = all_moved();
        is_over.store(true, Ordering::Relaxed);
        told.unwrap();
        assert!(moved, "{before:?} {:?}\n{}", txids(), daemon.log());
    });
    fleet.wait_for_all(0..COUNT, &daemon);
    assert_eq!(Page::of(&address).sum("litestream_crashed_tasks_total", &[]), Some(0.0));
    assert!(daemon.terminate(LIMIT).unwrap().success());
}

/// A second daemon must not write to the same replica, whether the database is open or not.
#[test]
fn a_parked_database_stays_locked() {
    let fleet = Fleet::new();
    let applications = fleet.applications(0..6);
    let (daemon, _) = fleet.start(120);
    fleet.wait_for_all(0..6, &daemon);
    fleet.park(0, &applications[3..], &daemon);
    let url = format!("file://{}", fleet.path("replica/0.db").display());
    let second = ours().run(["replicate", "-once", fleet.db(0).to_str().unwrap(), &url]).unwrap();
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(second.stderr.contains("another litestream process already replicates"), "{second:?}");
}

/// Descriptors stay within the limit however many databases there are.
#[test]
fn no_more_descriptors_are_used_than_there_are() {
    const COUNT: usize = 30;
    let fleet = Fleet::new();
    drop(fleet.applications(0..COUNT));
    let (daemon, address) = fleet.start(140);
    let mut most = 0;
    wait_until("all replicated", &daemon, || {
        most = most.max(open_files(&daemon));
        let page = Page::of(&address);
        page.families["litestream_replica_txid"].samples.iter().filter(|(_, txid)| *txid > 0.0).count() == COUNT
    });
    assert!(most < 140, "{most}");
    fleet.wait_for_all(0..COUNT, &daemon);
    assert!(!daemon.log().contains("level=ERROR"), "{}", daemon.log());
    assert!(daemon.terminate(LIMIT).unwrap().success());
}

fn open_files(daemon: &Daemon) -> usize {
    fs::read_dir(Path::new("/proc").join(daemon.id().to_string()).join("fd")).map_or(0, Iterator::count)
}
