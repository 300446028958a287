use std::sync::Arc;

use litestream::{DbOptions, ReplicaOptions, StoreOptions};
use litestream_replica::clock::ManualClock;
use litestream_replica::{ClientContext, ReplicaUrl};
use litestream_testkit::scenario;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::observe::pulse::Pulse;

#[tokio::test]
async fn readiness_follows_lasting_lag_and_not_a_single_failure() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now().as_millisecond()));
    let store = Arc::new(Store::new(StoreOptions::default(), clock.clone()));
    let replica = dir.path().join("replica");
    let url = format!("file://{}", replica.display());
    let client = ReplicaUrl::parse(&url).unwrap().into_client(&ClientContext::default()).unwrap();
    let path = dir.path().join("app.db");
    let db = store.add(DbOptions::new(&path), client, ReplicaOptions::default()).unwrap();
    let reason = |clock: &ManualClock| judge(&db, clock.now()).reason;

    assert_eq!(reason(&clock).as_deref(), Some("waiting for the first capture"));
    db.sync().await.unwrap_err();
    assert_eq!(reason(&clock).as_deref(), Some("database file not found"));
    let application = scenario::quiet_connection(&path).unwrap();
    scenario::commit(&application, 10).unwrap();
    std::fs::write(&replica, "no directory").unwrap();
    db.sync().await.unwrap_err();
    let waiting = reason(&clock).unwrap();
    assert!(waiting.starts_with("waiting for the first upload: "), "{waiting}");
    std::fs::remove_file(&replica).unwrap();
    db.sync().await.unwrap();
    assert_eq!(reason(&clock), None);
    clock.advance_millis(3_600_000);
    assert_eq!(reason(&clock), None, "idle for an hour");

    // The store goes away.
    let away = dir.path().join("away");
    std::fs::rename(&replica, &away).unwrap();
    std::fs::write(&replica, "no directory").unwrap();
    scenario::commit(&application, 1).unwrap();
    db.sync().await.unwrap_err();
    assert_eq!(reason(&clock), None, "a failure a moment ago");
    clock.advance_millis(40_000);
    let late = reason(&clock).unwrap();
    assert!(late.starts_with("replica lags 40s behind: ") && late.contains("Not a directory"), "{late}");
    std::fs::remove_file(&replica).unwrap();
    std::fs::rename(&away, &replica).unwrap();
    db.sync().await.unwrap();
    assert_eq!(reason(&clock), None);

    // A stop on request is nobody's concern; the end of the pulse is everybody's.
    let observer = Observer { store: store.clone(), pulse: Pulse::new() };
    assert_eq!(judge_all(&store).len(), 1);
    assert!(observer.is_alive());
    store.close(&CancellationToken::new()).await;
    assert_eq!(judge_all(&store).len(), 0);
    assert_eq!(ready(&observer).0, StatusCode::OK);
}

#[tokio::test]
async fn a_program_without_a_pulse_is_not_alive() {
    let store = Arc::new(Store::new(StoreOptions::default(), Arc::new(SystemClock)));
    let observer = Observer { store, pulse: Pulse::stopped() };
    let (status, _, body) = live(&observer);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("\"stuck\"") && body.contains("no task has run for"), "{body}");
}
