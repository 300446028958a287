//! What a database tells about itself, without asking the store.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use litestream::{DbOptions, ErrorKind, ReplicaOptions, Store, StoreOptions};
use litestream_replica::clock::Clock;
use litestream_replica::metered::Metered;
use litestream_testkit::scenario;
use support::{Daemon, MINUTE, PausedClock, SECOND, Setup, close, pass};

/// A store that is not started, with its requests counted.
fn idle(setup: &Setup, clock: Arc<PausedClock>) -> Daemon {
    let meter = Arc::new(Metered::new(setup.client()));
    let store = Store::new(StoreOptions::default(), clock.clone());
    let db = store.add(DbOptions::new(setup.db()), meter.clone(), ReplicaOptions::default()).unwrap();
    Daemon { store, db, meter, clock }
}

/// The files of the replica and their bytes, as the file system has them.
fn stored(setup: &Setup) -> (u64, u64) {
    let files = [0, 9].into_iter().flat_map(|level| {
        setup.level(level).into_iter().map(move |file| std::fs::metadata(setup.path_of(level, file)).unwrap().len())
    });
    files.fold((0, 0), |(count, bytes), len| (count + 1, bytes + len))
}

#[tokio::test(start_paused = true)]
async fn what_can_be_restored_is_known_without_asking_the_store() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 5).unwrap();
    let clock = PausedClock::new();
    let start = clock.now();
    let daemon = idle(&setup, clock.clone());
    let db = &daemon.db;
    assert_eq!((db.window(), db.replica_size()), (None, None));
    assert!(db.recoverable().is_none());
    let first = db.sync().await.unwrap();
    let window = db.window().unwrap();
    assert_eq!((window.earliest, window.latest), (start, start));

    pass(10 * MINUTE).await;
    scenario::commit(&app, 1).unwrap();
    let newest = db.sync().await.unwrap();
    let window = db.window().unwrap();
    assert_eq!((window.earliest, window.latest), (start, start + 10 * MINUTE));
    let (oldest_point, newest_point) = db.recoverable().unwrap();
    assert!(oldest_point.txid <= first && newest_point.txid == newest, "{oldest_point:?} {newest_point:?}");
    assert_eq!(db.replica_size(), Some(stored(&setup)));

    pass(10 * MINUTE).await;
    assert_eq!(db.window(), Some(window), "an idle database's newest state is that of its last change");
    let snapshot = db.snapshot().await.unwrap();
    assert!(snapshot >= newest);
    assert_eq!(db.window().unwrap().snapshot, Some(start + 20 * MINUTE));
    assert_eq!(db.replica_size(), Some(stored(&setup)));

    let asked = daemon.requests();
    for _ in 0..100 {
        assert!(db.window().is_some() && db.recoverable().is_some() && db.replica_size().is_some());
    }
    assert_eq!(daemon.requests(), asked);
    assert_eq!(db.counts().upload_errors, 0);
    assert_eq!(db.sync_interval(), ReplicaOptions::default().sync_interval);
    daemon.close().await;
}

/// After an error nobody knows what the store holds, but what could be restored before
/// can most likely still be.
#[tokio::test(start_paused = true)]
async fn after_an_error_of_the_store_its_size_is_unknown_and_its_window_is_not() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 5).unwrap();
    let daemon = idle(&setup, PausedClock::new());
    let db = &daemon.db;
    db.sync().await.unwrap();
    let window = db.window();
    assert!(window.is_some() && db.replica_size().is_some());
    assert!(db.is_proven_current());

    let away = setup.dir.path().join("away");
    std::fs::rename(setup.replica(), &away).unwrap();
    std::fs::write(setup.replica(), "no directory").unwrap();
    scenario::commit(&app, 1).unwrap();
    assert!(!db.is_proven_current(), "there is something in the wal");
    db.sync().await.unwrap_err();
    assert_eq!((db.replica_size(), db.window()), (None, window));
    assert!(db.recoverable().is_none());
    assert!(!db.is_proven_current(), "the replica lacks what was captured");
    assert_eq!(db.counts().upload_errors, 1);
    pass(MINUTE).await;
    assert_eq!(db.lag(), MINUTE, "the age of the oldest change that the replica lacks");

    std::fs::remove_file(setup.replica()).unwrap();
    std::fs::rename(&away, setup.replica()).unwrap();
    db.sync().await.unwrap();
    assert!(db.is_proven_current());
    assert_eq!((db.replica_size(), db.lag()), (Some(stored(&setup)), Duration::ZERO));
    scenario::commit(&app, 1).unwrap();
    db.sync().await.unwrap();
    assert_eq!(db.window().unwrap().latest, window.unwrap().latest + MINUTE);
    setup.assert_restores("after an error");
    daemon.close().await;
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_known_of_the_replica_the_lag_counts_from_the_beginning() {
    let setup = Setup::new();
    let daemon = idle(&setup, PausedClock::new());
    let db = &daemon.db;
    pass(10 * SECOND).await;
    assert_eq!(db.lag(), 10 * SECOND);
    assert_eq!(db.sync().await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(db.lag(), Duration::ZERO, "there is nothing that could be missing");
    let app = setup.application();
    scenario::commit(&app, 1).unwrap();
    pass(10 * SECOND).await;
    db.sync().await.unwrap();
    assert_eq!(db.lag(), Duration::ZERO);
    let status = db.status();
    assert_eq!(db.local_txid().unwrap(), status.txid);
    close(&daemon.store).await;
    // Somebody who has not opened it reads it off the names of its files.
    let other = idle(&setup, PausedClock::new());
    assert_eq!(other.db.status().txid, None);
    assert_eq!(other.db.local_txid().unwrap(), status.txid);
}
