//! Continuity is not given up without need: nothing an application may do to its log
//! under our pins makes capture compare all pages.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::time::Duration;

use litestream::DbOptions;
use litestream_testkit::scenario::{self, CheckpointMode};
use support::{Setup, close, warnings};

/// Logs that start over with commits and without, by checkpoints of every kind, by
/// transactions that are rolled back after they spilled, and by connections that draw
/// new salts.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_starts_over_under_pins_costs_no_comparison() {
    let warnings = warnings();
    let setup = Setup::new();
    let app = setup.application();
    app.execute_batch("PRAGMA cache_size = 5; PRAGMA cache_spill = 5").unwrap();
    scenario::commit(&app, 20).unwrap();
    let options = DbOptions { min_checkpoint_page_count: 1, ..DbOptions::new(setup.db()) };
    let (store, db) = setup.store_with(options);
    store.once(false).await.unwrap();
    let mut truncated = 0;
    for round in 0..40 {
        if round % 2 == 0 {
            scenario::commit(&app, 1 + round % 5).unwrap();
            db.sync().await.unwrap();
        }
        if round % 3 == 0 {
            app.execute_batch("BEGIN; UPDATE event SET body = randomblob(3000); ROLLBACK").unwrap();
        }
        for _ in 0..2 {
            let fresh = setup.application();
            // Where the pin forbids it, there is nothing to wait for.
            fresh.busy_timeout(Duration::ZERO).unwrap();
            truncated += u32::from(!scenario::checkpoint(&fresh, CheckpointMode::Truncate).unwrap().is_blocked);
        }
        if round % 5 == 0 {
            scenario::commit(&setup.application(), 1).unwrap();
        }
    }
    db.sync().await.unwrap();
    setup.assert_restores("at the end");
    close(&store).await;
    assert!(truncated > 10, "only {truncated} checkpoints truncated the log");
    let warnings = warnings.lock().unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}
