//! Giving up at any moment is prompt and leaves nothing.

use std::fs;
use std::sync::Arc;

use litestream_replica::restore::NoProgress;
use litestream_replica::{ErrorKind, OutputPolicy, RestoreOptions, restore};

use crate::world::{World, names};

/// One file read in ranges, several small ones.
fn world() -> World {
    let mut world = World::new(4096, 51);
    world.commit(900, []);
    for txid in 2..=6 {
        world.commit(900, [txid]);
    }
    world
}

const FILES: [(u8, u64, u64); 6] = [(9, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4), (0, 5, 5), (0, 6, 6)];

/// The store stops answering after each number of requests there is.
#[tokio::test(flavor = "multi_thread")]
async fn cancelling_mid_way_leaves_nothing() {
    let world = world();
    for answered in [0, 1, 3, 6, 7] {
        for by_token in [true, false] {
            let store = world.store(&FILES);
            let gate = store.gate();
            gate.add_permits(answered);
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("db"), b"old").unwrap();
            let mut options = RestoreOptions::new(dir.path().join("db"));
            options.policy = OutputPolicy::Force;
            options.parallelism = 1;
            let cancel = options.cancel.clone();
            let restoring = tokio::spawn(restore(store.clone(), options, Arc::new(NoProgress)));
            while gate.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            store.until_waiting(1).await;
            assert_eq!(names(dir.path()), ["db", "db.tmp"]);
            if by_token {
                cancel.cancel();
                assert_eq!(restoring.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
            } else {
                restoring.abort();
                assert!(restoring.await.unwrap_err().is_cancelled());
            }
            assert_eq!(names(dir.path()), ["db"], "after {answered} answers");
            assert_eq!(fs::read(dir.path().join("db")).unwrap(), b"old");
        }
    }
}

#[tokio::test]
async fn a_restore_cancelled_beforehand_does_nothing() {
    let store = world().store(&FILES);
    let dir = tempfile::tempdir().unwrap();
    let options = RestoreOptions::new(dir.path().join("a/db"));
    options.cancel.cancel();
    let error = restore(store, options, Arc::new(NoProgress)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(names(dir.path()).is_empty());
}

/// The check takes minutes on a large database; giving up during it must not
/// publish what it has not approved.
#[tokio::test(flavor = "multi_thread")]
async fn cancelling_during_the_check_publishes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = RestoreOptions::new(dir.path().join("db"));
    let cancel = options.cancel.clone();
    options.verify = Some(Box::new(move |_| {
        cancel.cancel();
        Ok(())
    }));
    let error = restore(world().store(&FILES), options, Arc::new(NoProgress)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(names(dir.path()).is_empty());
}
