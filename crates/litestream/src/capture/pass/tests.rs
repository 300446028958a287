//! Decisions of a pass that need no database.

use std::sync::Arc;

use litestream_replica::clock::SystemClock;
use ltx::PageSize;

use super::*;
use crate::options::DbOptions;
use crate::wal::{Chain, Salts, WalPosition};

fn threshold(truncate_page_n: i64, page_size: u32) -> u32 {
    let options = DbOptions { truncate_page_n, min_checkpoint_page_count: 10, ..DbOptions::new("/nowhere/db") };
    let now = Instant::now();
    let capture = Capture::new(options, Arc::new(SystemClock), Arc::default(), now);
    let end = WalPosition { salts: Salts(1, 2), frame: u32::MAX, chain: Chain(3, 4) };
    let index = WalIndex { end, commit: 1, changes: 1, backfilled: 0, page_size: PageSize::new(page_size) };
    capture.lock_threshold(&index, now)
}

/// L46, L47: zero and negative lengths leave the bound of 8 MiB in force at every
/// page size; a configured one only lowers it.
#[test]
fn the_log_is_bounded_whatever_length_is_configured() {
    for page_size in [512, 4096, 65536] {
        let budget = (8 << 20) / page_size;
        for configured in [0, -1, i64::MAX, 121_359_000] {
            assert_eq!(threshold(configured, page_size), budget, "{configured} pages of {page_size}");
        }
    }
    assert_eq!(threshold(100, 4096), 100);
    assert_eq!(threshold(1, 4096), 20, "never below two checkpoints");
}
