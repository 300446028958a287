//! A writer that never pauses: large deltas become files on the side, and the tail
//! of the WAL is copied under the write lock and captured afterwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use litestream::{DbOptions, ReplicaOptions, Store, StoreOptions};
use litestream_replica::clock::SystemClock;
use support::{Setup, close};

/// Commits without a pause until stopped; returns how often.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Writer {
    fn start(setup: &Setup) -> Self {
        let app = setup.application();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            app.execute_batch("PRAGMA synchronous = normal").unwrap();
            let mut commits = 0;
            while !stopped.load(Ordering::Relaxed) {
                app.execute("INSERT INTO t (x) VALUES (randomblob(20000))", []).unwrap();
                app.execute("DELETE FROM t WHERE id < (SELECT max(id) FROM t) - 500", []).unwrap();
                commits += 2;
            }
            commits
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn meta(setup: &Setup) -> PathBuf {
    setup.dir.path().join(".app.db-litestream")
}

fn start(setup: &Setup) -> Store {
    let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
    let replica = ReplicaOptions { sync_interval: Duration::from_millis(200), ..ReplicaOptions::default() };
    store.add(DbOptions::new(setup.db()), setup.client(), replica).unwrap();
    store.start();
    store
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_under_the_lock_and_sealed_on_the_side_is_restored() {
    let setup = Setup::new();
    let store = start(&setup);
    let writer = Writer::start(&setup);
    let used = |name: &'static str| {
        let path = meta(&setup).join(name);
        move || path.exists()
    };
    until("the write lock was never taken", used("held-tail")).await;
    until("no two deltas were ever open", used("sealed-delta")).await;
    let commits = writer.stop();
    close(&store).await;
    assert!(commits > 100, "{commits} commits");
    setup.assert_restores("after a writer at full speed");
    setup.assert_level_0_is_dense();
}

/// The file of a sealed delta cannot be written for a while. Nothing captured so far
/// may be lost, and no TXID may be skipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_delta_that_cannot_be_written_is_tried_again() {
    let setup = Setup::new();
    let store = start(&setup);
    let writer = Writer::start(&setup);
    until("no delta was sealed", || meta(&setup).join("sealed-delta").exists()).await;

    let (dir, aside) = (meta(&setup).join("ltx/0"), meta(&setup).join("aside"));
    fs::rename(&dir, &aside).unwrap();
    fs::write(&dir, "in the way").unwrap();
    let db = store.databases().into_iter().next().unwrap();
    until("no failure was noticed", || db.status().capture_error.is_some()).await;
    fs::remove_file(&dir).unwrap();
    fs::rename(&aside, &dir).unwrap();

    writer.stop();
    until("never recovered", || db.status().capture_error.is_none()).await;
    close(&store).await;
    setup.assert_restores("after the directory came back");
    setup.assert_level_0_is_dense();
}
