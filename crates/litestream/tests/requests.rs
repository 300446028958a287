//! What a running daemon asks of the store: nothing while a database is idle, one
//! PUT for each sync and one for each compaction while it is not.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use litestream::StoreOptions;
use litestream_testkit::scenario;
use support::{Daemon, HOUR, MINUTE, PausedClock, SECOND, Setup, pass};

#[tokio::test(start_paused = true)]
async fn an_idle_database_makes_no_request_in_a_day() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 100).unwrap();
    let daemon = Daemon::start(&setup, StoreOptions::default(), PausedClock::at("2026-03-02T17:03:11Z"));
    daemon.settle().await;
    let after_start = daemon.requests();
    pass(24 * HOUR).await;
    assert_eq!(daemon.requests(), after_start, "{:?}", daemon.meter.snapshot());
    assert_eq!(setup.level(9), [(1, 1)], "no second image of the same state");
    daemon.close().await;
}

/// After the last commit its files go up through the levels and a snapshot is
/// made; then there is silence, and after a restart as well.
#[tokio::test(start_paused = true)]
async fn a_database_that_has_become_idle_makes_no_request() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 100).unwrap();
    let clock = PausedClock::new();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock.clone());
    daemon.settle().await;
    for _ in 0..20 {
        scenario::commit(&app, 3).unwrap();
        pass(10 * SECOND).await;
    }
    pass(73 * HOUR).await;
    let settled = daemon.requests();
    pass(24 * HOUR).await;
    assert_eq!(daemon.requests(), settled, "{:?}", daemon.meter.snapshot());
    assert_eq!(setup.level(0).len(), 1, "only the newest level-0 file is left");
    daemon.close().await;

    let daemon = Daemon::start(&setup, StoreOptions::default(), clock);
    daemon.settle().await;
    let counts = daemon.meter.snapshot();
    assert_eq!(counts.list.count, 10, "one listing at start");
    let started = daemon.requests();
    pass(24 * HOUR).await;
    assert_eq!(daemon.requests(), started, "{:?}", daemon.meter.snapshot());
    daemon.close().await;
}

/// Must hold 4.
#[tokio::test(start_paused = true)]
async fn an_active_database_costs_one_put_for_each_sync_and_compaction() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 100).unwrap();
    let daemon = Daemon::start(&setup, StoreOptions::default(), PausedClock::new());
    daemon.settle().await;
    let before = daemon.meter.snapshot();
    let txid = daemon.db.status().txid.unwrap().get();
    for _ in 0..40 {
        scenario::commit(&app, 2).unwrap();
        pass(15 * SECOND).await;
    }
    daemon.settle().await;
    let counts = daemon.meter.snapshot();
    let status = daemon.db.status();
    let synced = status.txid.unwrap().get() - txid;
    assert_eq!(synced, 40);
    assert!(status.compactions >= 20, "level 1 every half minute and level 2: {status:?}");
    assert_eq!(counts.put.count - before.put.count, synced + status.compactions);
    assert_eq!(counts.get, before.get, "the local copies are enough");
    assert_eq!(counts.list, before.list);
    setup.assert_restores("after ten minutes");
    pass(2 * MINUTE).await;
    daemon.close().await;
}
