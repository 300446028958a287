//! An application that does everything SQLite allows while being replicated: the
//! replica restores to the very image the database had, at the end and at every
//! transaction that was recorded on the way.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot be set up fails")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use litestream::{DbOptions, ReplicaOptions, Store, StoreOptions};
use litestream_replica::clock::SystemClock;
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::workload::{Options, Workload};
use ltx::Txid;
use support::{Setup, close};

/// Replicates a workload for a while and compares `points` recorded moments.
async fn torture(seed: u64, page_size: Option<u32>, duration: Duration, points: usize) {
    let setup = Setup::new();
    let options = Options { page_size, ..Options::default() };
    let workload = Workload::create(&setup.db(), seed, options).unwrap();
    // On a slow machine the run may outlast the default of five minutes, after
    // which level 0 goes and only boundaries of merged files can be restored.
    let options = StoreOptions { l0_retention: Duration::ZERO, ..StoreOptions::default() };
    let store = Store::new(options, Arc::new(SystemClock));
    let options = DbOptions { min_checkpoint_page_count: 200, ..DbOptions::new(setup.db()) };
    let db = store.add(options, setup.client(), ReplicaOptions::default()).unwrap();
    store.start();
    let running = workload.start();
    let started = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut moments: Vec<(Txid, Image)> = Vec::new();
    for _ in 0..points {
        let share = duration / u32::try_from(points).unwrap();
        running.go_on(share.mul_f64(0.5 + rng.f64()));
        running.pause();
        let txid = db.sync().await.unwrap();
        moments.push((txid, read_image(&setup.db()).unwrap()));
        running.resume();
    }
    let stats = running.stop().unwrap();
    let elapsed = started.elapsed();
    let txid = db.sync().await.unwrap();
    close(&store).await;
    let last = read_image(&setup.db()).unwrap();
    moments.push((txid, last));
    println!("seed {seed}: {stats:?} in {elapsed:?}, {} moments, last txid {txid}", moments.len());
    for (txid, image) in &moments {
        image.assert_same(&setup.restored_at(*txid).await, &format!("seed {seed} at {txid}"));
    }
    setup.assert_restores("upstream, at the end");
    assert_eq!(support::count(&setup.replica().join("ltx/9")), 1, "continuity was never lost");
}

#[allow(clippy::disallowed_methods, reason = "a failing seed is repeated from the environment")]
fn seed() -> u64 {
    std::env::var("LITESTREAM_TEST_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_size_restores_to_every_recorded_transaction() {
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        torture(seed(), Some(page_size), Duration::from_secs(5), 5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_everything_restores_to_twenty_recorded_transactions() {
    torture(seed(), None, Duration::from_secs(60), 20).await;
}
