//! The whole way: a live database, its capture, a file replica, and restores by
//! the released upstream binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use litestream_testkit::scenario;
use support::{Setup, close, count};

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
