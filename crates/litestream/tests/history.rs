//! Random histories of a database and its replica, with a manual clock: whatever
//! is merged, deleted, lost and healed, what was promised can be restored.
//!
//! One *case* is one question put to a replica: a target and the answer that an
//! exhaustive search gives, or a moment before and after a retention pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
#![allow(clippy::cast_possible_truncation, reason = "test data is small")]
#![allow(unreachable_pub, reason = "modules of one test program")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a failing case must be told")]

#[path = "history/facts.rs"]
mod facts;
#[path = "history/model.rs"]
mod model;
#[path = "history/reach.rs"]
mod reach;
#[path = "history/site.rs"]
mod site;

use jiff::SignedDuration;
use litestream_replica::Target;
use ltx::Txid;

use site::Site;

/// Histories of one run; each asks some dozens of questions.
const HISTORIES: u64 = 100_000;

#[test]
#[allow(clippy::disallowed_methods, reason = "the seed of a failure comes from the environment")]
fn whatever_happens_what_was_promised_can_be_restored() {
    if let Ok(seed) = std::env::var("LITESTREAM_TEST_SEED") {
        let mut site = Site::new(seed.parse().unwrap(), true);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&mut site)));
        println!("{}", site.trace.unwrap_or_default());
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        return;
    }
    let first = fastrand::u64(..);
    let mut checked = 0;
    for seed in (0..HISTORIES).map(|index| first.wrapping_add(index)) {
        let _told = TellSeed(seed);
        let mut site = Site::new(seed, false);
        live(&mut site);
        checked += site.checked;
    }
    println!("{HISTORIES} histories from seed {first}, {checked} questions");
    assert!(checked >= 100_000);
}

/// One history.
fn live(site: &mut Site) {
    for _ in 0..site.rng.u32(8..40) {
        step(site);
    }
    facts::every_moment_of_the_window_has_a_state(site);
    ask(site, Target::Latest);
    let newest = site.db.txid() + 1;
    for _ in 0..4 {
        let txid = Txid::new(site.rng.u64(1..=newest));
        ask(site, Target::Txid(txid));
        let index = site.rng.usize(0..site.captured.len());
        let moment = site.captured[index] + SignedDuration::from_millis(site.rng.i64(-1..=1));
        ask(site, Target::Timestamp(moment));
    }
}

fn ask(site: &mut Site, target: Target) {
    facts::target_is_restored_exactly_when_a_chain_exists(site, target);
}

fn step(site: &mut Site) {
    match site.rng.u32(0..100) {
        0..30 => {
            site.commit();
            if site.rng.u32(0..4) > 0 {
                site.upload();
            }
            site.advance(8_000);
        }
        30..40 => site.upload(),
        40..58 => {
            site.advance(15_000);
            if site.rng.u32(0..4) > 0 {
                site.heal();
            }
            site.compact();
        }
        58..68 => site.snapshot_pass(),
        68..76 => site.l0_pass(),
        76..80 => site.whole_retention_pass(),
        80..84 => site.prune_local(),
        84..92 => site.advance(120_000),
        92..94 => site.lose_remote(),
        94..96 => site.change_levels(),
        96..97 => site.jump(),
        97..98 => site.rebase(),
        _ => ask(site, Target::Latest),
    }
}

/// Prints how to repeat the case that fails.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with LITESTREAM_TEST_SEED={}", self.0);
        }
    }
}
