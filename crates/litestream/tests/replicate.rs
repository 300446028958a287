//! The whole way: a live database, its capture, a file replica, and restores by
//! the released upstream binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litestream::{DbOptions, ReplicaOptions, Store, StoreOptions};
use litestream_replica::clock::SystemClock;
use litestream_replica::file::{FileClient, FileOptions};
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::{scenario, upstream};
use tokio_util::sync::CancellationToken;

struct Setup {
    dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn db(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn replica(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    fn url(&self) -> String {
        format!("file://{}", self.replica().display())
    }

    fn store(&self) -> Store {
        let client = FileClient::new(FileOptions::new(self.replica())).unwrap();
        let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
        store.add(DbOptions::new(self.db()), Arc::new(client), ReplicaOptions::default()).unwrap();
        store
    }

    fn application(&self) -> rusqlite::Connection {
        let db = rusqlite::Connection::open(self.db()).unwrap();
        db.busy_timeout(Duration::from_secs(10)).unwrap();
        db.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, x)")
            .unwrap();
        db
    }

    /// What upstream restores from the replica.
    fn restored(&self) -> Image {
        let output = self.dir.path().join("restored.db");
        if output.exists() {
            std::fs::remove_file(&output).unwrap();
        }
        upstream::litestream().restore(&self.url(), &output).unwrap().success().unwrap();
        Image::of_closed_file(&output).unwrap()
    }

    fn assert_restores(&self, what: &str) {
        read_image(&self.db()).unwrap().assert_same(&self.restored(), what);
    }

    fn l0_count(&self) -> usize {
        count(&self.replica().join("ltx/0"))
    }
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

async fn close(store: &Store) {
    let report = store.close(&CancellationToken::new()).await;
    assert!(report.unsent.is_empty(), "{:?}", report.unsent);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_restores_what_one_sync_wrote() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 50).unwrap();
    let store = setup.store();
    store.once(false).await.unwrap();
    setup.assert_restores("after the first sync");
    assert_eq!(count(&setup.replica().join("ltx/9")), 1, "the base image is stored once, at level 9");
    scenario::commit(&app, 3).unwrap();
    store.once(false).await.unwrap();
    setup.assert_restores("after a delta");
    store.once(true).await.unwrap();
    setup.assert_restores("after a forced snapshot");
    close(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_continues_without_another_image() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 20).unwrap();
    for round in 0..5 {
        let store = setup.store();
        store.once(false).await.unwrap();
        close(&store).await;
        setup.assert_restores(&format!("round {round}"));
        scenario::commit(&app, 5).unwrap();
    }
    assert_eq!(count(&setup.replica().join("ltx/9")), 1);
    assert_eq!(setup.l0_count(), 5, "one anchor behind the image and one delta a round");
}

/// D1: between two runs the application checkpoints and restarts the WAL.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_left_the_wal_while_nobody_looked_are_captured() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 200).unwrap();
    let store = setup.store();
    store.once(false).await.unwrap();
    close(&store).await;
    scenario::commit(&app, 20).unwrap();
    scenario::checkpoint(&app, scenario::CheckpointMode::Passive).unwrap();
    scenario::commit(&app, 2).unwrap();
    let store = setup.store();
    store.once(false).await.unwrap();
    close(&store).await;
    setup.assert_restores("after an unwatched restart");
    assert_eq!(count(&setup.replica().join("ltx/9")), 1, "no new image");
}
