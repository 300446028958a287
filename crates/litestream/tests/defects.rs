//! The defects of upstream 0.5.17 that lose data or wedge, one test each, named
//! after the symptom. D-numbers are those of docs/hazards.md.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::time::Duration;

use litestream::{DbOptions, Store};
use litestream_testkit::scenario::{self, CheckpointMode};
use support::{Setup, close, count};

/// One run of the daemon: everything committed so far is captured and sent.
async fn run_once(setup: &Setup) {
    let store = setup.store();
    store.once(false).await.unwrap();
    close(&store).await;
}

fn images(setup: &Setup) -> usize {
    count(&setup.replica().join("ltx/9"))
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !done() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "timed out waiting until {what}");
}

fn daemon(setup: &Setup) -> (Store, std::sync::Arc<litestream::Database>) {
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    store.start();
    (store, db)
}

/// D1: the WAL was restarted while nobody watched, with fewer frames than before,
/// so the old position still looks plausible.
#[tokio::test(flavor = "multi_thread")]
async fn d1_commits_checkpointed_while_down_are_captured() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 300).unwrap();
    run_once(&setup).await;
    scenario::commit(&app, 20).unwrap();
    scenario::checkpoint(&app, CheckpointMode::Passive).unwrap();
    scenario::commit(&app, 2).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after one unwatched restart");
    assert_eq!(images(&setup), 1, "only the pages that differ are sent");
}

/// D1b: two restarts, the second overwriting the frames of the first.
#[tokio::test(flavor = "multi_thread")]
async fn d1b_two_restarts_while_down_lose_nothing() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 300).unwrap();
    run_once(&setup).await;
    for _ in 0..2 {
        scenario::commit(&app, 20).unwrap();
        scenario::checkpoint(&app, CheckpointMode::Passive).unwrap();
    }
    scenario::commit(&app, 2).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after two unwatched restarts");
}

/// D2: a local file is missing; recovery must not start counting at 1 again.
#[tokio::test(flavor = "multi_thread")]
async fn d2_recovery_from_a_lost_local_file_never_goes_back() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 10).unwrap();
    for _ in 0..4 {
        run_once(&setup).await;
        scenario::commit(&app, 3).unwrap();
    }
    let newest = litestream::local_txid(&setup.meta()).unwrap().unwrap();
    std::fs::remove_file(setup.meta().join(format!("ltx/0/{newest}-{newest}.ltx"))).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after the newest local file was lost");
    std::fs::remove_dir_all(setup.meta()).unwrap();
    scenario::commit(&app, 3).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after all local state was lost");
    assert!(litestream::local_txid(&setup.meta()).unwrap().unwrap() > newest);
}

/// D3: the database file is replaced by an older copy while the daemon runs.
#[tokio::test(flavor = "multi_thread")]
async fn d3_a_replaced_database_is_noticed_while_running() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 100).unwrap();
    let older = setup.dir.path().join("older.db");
    litestream_testkit::image::checkpointed_copy(&setup.db(), &older).unwrap();
    let (store, db) = daemon(&setup);
    scenario::commit(&app, 100).unwrap();
    db.sync().await.unwrap();
    app.close().unwrap();
    scenario::replace_by_rename(&setup.db(), &older).unwrap();
    let app = setup.application();
    scenario::commit(&app, 5).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after the replacement");
    scenario::commit(&app, 5).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after commits to the replacement");
    close(&store).await;
    run_once(&setup).await;
    setup.assert_restores("after a restart");
}

/// D3, second form: deleted, made anew, and checkpointed by the application.
#[tokio::test(flavor = "multi_thread")]
async fn d3b_a_recreated_database_is_noticed_while_running() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 100).unwrap();
    let (store, db) = daemon(&setup);
    db.sync().await.unwrap();
    app.close().unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mut path = setup.db().into_os_string();
        path.push(suffix);
        std::fs::remove_file(path).unwrap();
    }
    let app = setup.application();
    scenario::commit(&app, 30).unwrap();
    scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    scenario::commit(&app, 5).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after the database was made anew");
    close(&store).await;
    run_once(&setup).await;
    setup.assert_restores("after a restart");
}

/// D4: a request that is given up does not take the protecting read transaction
/// with it.
#[tokio::test(flavor = "multi_thread")]
async fn d4_the_pin_outlives_an_abandoned_request() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 50).unwrap();
    let (store, db) = setup.store_with(DbOptions { min_checkpoint_page_count: 1, ..DbOptions::new(setup.db()) });
    for _ in 0..20 {
        // The future is dropped wherever it stands after one poll.
        let sync = db.sync();
        tokio::select! {
            biased;
            _ = sync => {}
            () = tokio::task::yield_now() => {}
        }
        scenario::commit(&app, 3).unwrap();
    }
    db.sync().await.unwrap();
    scenario::commit(&app, 20).unwrap();
    let outcome = scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    assert!(outcome.is_blocked, "the pin keeps the log: {outcome:?}");
    scenario::commit(&app, 3).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after abandoned requests");
    assert_eq!(images(&setup), 1);
    close(&store).await;
}

/// D5: stop, the application truncates the WAL and goes on, start again.
#[tokio::test(flavor = "multi_thread")]
async fn d5_nothing_remembered_from_before_a_stop_is_believed() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 50).unwrap();
    run_once(&setup).await;
    scenario::commit(&app, 20).unwrap();
    scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    scenario::commit(&app, 2).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after a truncation while stopped");
}

/// D6: the replica cannot be reached. Capture goes on, and everything is sent
/// when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn d6_capture_goes_on_while_the_replica_is_away() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 10).unwrap();
    run_once(&setup).await;
    let away = setup.dir.path().join("away");
    std::fs::rename(setup.replica(), &away).unwrap();
    std::fs::write(setup.replica(), "not a directory").unwrap();
    let (store, db) = daemon(&setup);
    let before = litestream::local_txid(&setup.meta()).unwrap().unwrap();
    scenario::commit(&app, 10).unwrap();
    wait_until("the commit is captured locally", || litestream::local_txid(&setup.meta()).unwrap().unwrap() > before)
        .await;
    wait_until("the failure is visible", || db.status().upload_error.is_some()).await;
    std::fs::remove_file(setup.replica()).unwrap();
    std::fs::rename(&away, setup.replica()).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after the replica came back");
    assert_eq!(images(&setup), 1);
    close(&store).await;
}

/// D7: the newest local file is damaged, before and after it was sent.
#[tokio::test(flavor = "multi_thread")]
async fn d7_a_damaged_local_file_does_not_wedge() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 10).unwrap();
    run_once(&setup).await;
    scenario::commit(&app, 10).unwrap();
    run_once(&setup).await;
    let damage = || {
        let newest = litestream::local_txid(&setup.meta()).unwrap().unwrap();
        scenario::flip_bit(&setup.meta().join(format!("ltx/0/{newest}-{newest}.ltx")), -4).unwrap();
    };
    damage();
    scenario::commit(&app, 5).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after a sent file was damaged");
    // Captured but not sent, then damaged.
    let away = setup.dir.path().join("away");
    std::fs::rename(setup.replica(), &away).unwrap();
    std::fs::write(setup.replica(), "not a directory").unwrap();
    scenario::commit(&app, 5).unwrap();
    let (store, _) = setup.store_with(DbOptions::new(setup.db()));
    assert!(store.once(false).await.is_err());
    drop(store);
    damage();
    std::fs::remove_file(setup.replica()).unwrap();
    std::fs::rename(&away, setup.replica()).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after an unsent file was damaged");
}

/// D8: the prefix was emptied while local state stayed.
#[tokio::test(flavor = "multi_thread")]
async fn d8_an_emptied_replica_gets_a_new_base() {
    let setup = Setup::new();
    let app = setup.application();
    for _ in 0..4 {
        scenario::commit(&app, 10).unwrap();
        run_once(&setup).await;
    }
    std::fs::remove_dir_all(setup.replica()).unwrap();
    scenario::commit(&app, 10).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after the replica was emptied");
    scenario::commit(&app, 10).unwrap();
    run_once(&setup).await;
    setup.assert_restores("and after the next commits");
}

/// D9: another page size cannot continue the history, and the message says what
/// to do. Nothing that is in the replica is harmed.
#[tokio::test(flavor = "multi_thread")]
async fn d9_a_changed_page_size_is_refused_in_words() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 10).unwrap();
    run_once(&setup).await;
    let before = litestream_testkit::image::read_image(&setup.db()).unwrap();
    app.close().unwrap();
    scenario::change_page_size(&setup.db(), 8192).unwrap();
    let store = setup.store();
    let message = store.once(false).await.unwrap_err().to_string();
    assert!(message.contains("page size changed from 4096 to 8192"), "{message}");
    assert!(message.contains("new replica path"), "{message}");
    drop(store);
    before.assert_same(&setup.restored(), "the old history");
}

/// D10: a database whose capture fails is not healthy, whatever its uploads say.
#[tokio::test(flavor = "multi_thread")]
async fn d10_a_failing_capture_is_visible() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 10).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    store.once(false).await.unwrap();
    let healthy = db.status();
    assert_eq!(healthy.capture_error, None);
    // A file where the level-0 directory should be: no new file can be written.
    let l0 = setup.meta().join("ltx/0");
    std::fs::rename(&l0, setup.dir.path().join("l0")).unwrap();
    std::fs::write(&l0, "").unwrap();
    scenario::commit(&app, 1).unwrap();
    assert!(store.once(false).await.is_err());
    let failing = db.status();
    assert!(failing.capture_error.is_some());
    assert_eq!(failing.captured_at, healthy.captured_at, "the time of the last success stands still");
    std::fs::remove_file(&l0).unwrap();
    std::fs::rename(setup.dir.path().join("l0"), &l0).unwrap();
    store.once(false).await.unwrap();
    setup.assert_restores("after the disk came back");
    close(&store).await;
}

/// D12: a long reader and an idle application; nothing is written over and over.
#[tokio::test(flavor = "multi_thread")]
async fn d12_a_long_reader_causes_no_busywork() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 100).unwrap();
    let reader = setup.application();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    scenario::commit(&app, 100).unwrap();
    let options = DbOptions { checkpoint_interval: Duration::from_millis(1), ..DbOptions::new(setup.db()) };
    let (store, db) = setup.store_with(options);
    db.sync().await.unwrap();
    let (files, wal) = (setup.l0_count(), setup.wal_len());
    for _ in 0..50 {
        db.sync().await.unwrap();
    }
    assert_eq!((setup.l0_count(), setup.wal_len()), (files, wal));
    reader.execute_batch("COMMIT").unwrap();
    close(&store).await;
    setup.assert_restores("at the end");
}

/// D13: a reader holds the WAL far beyond every threshold; writers do not wait.
#[tokio::test(flavor = "multi_thread")]
async fn d13_writers_do_not_wait_behind_a_long_reader() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 10).unwrap();
    let reader = setup.application();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    let options = DbOptions { min_checkpoint_page_count: 10, truncate_page_n: 20, ..DbOptions::new(setup.db()) };
    let (store, db) = setup.store_with(options);
    // With no patience of its own, one held lock would make a commit fail.
    app.busy_timeout(Duration::ZERO).unwrap();
    for _ in 0..50 {
        scenario::commit(&app, 5).unwrap();
        let syncing = db.sync();
        tokio::pin!(syncing);
        loop {
            tokio::select! {
                biased;
                done = &mut syncing => { done.unwrap(); break; }
                () = tokio::task::yield_now() => scenario::commit(&app, 1).unwrap(),
            }
        }
    }
    reader.execute_batch("COMMIT").unwrap();
    db.sync().await.unwrap();
    close(&store).await;
    setup.assert_restores("at the end");
}

/// D16: level 0 was emptied by a lifecycle rule and local state was lost; level 1
/// still has the history.
#[tokio::test(flavor = "multi_thread")]
async fn d16_numbering_continues_above_every_level() {
    let setup = Setup::new();
    let app = setup.application();
    for _ in 0..3 {
        scenario::commit(&app, 10).unwrap();
        run_once(&setup).await;
    }
    let newest = litestream::local_txid(&setup.meta()).unwrap().unwrap();
    setup.merge_level_0_into_1();
    std::fs::remove_dir_all(setup.replica().join("ltx/0")).unwrap();
    std::fs::remove_dir_all(setup.meta()).unwrap();
    scenario::commit(&app, 10).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after level 0 and local state were lost");
    assert!(litestream::local_txid(&setup.meta()).unwrap().unwrap() > newest);
}
