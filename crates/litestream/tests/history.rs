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
#[path = "history/files.rs"]
mod files;
#[path = "history/model.rs"]
mod model;
#[path = "history/reach.rs"]
mod reach;
#[path = "history/site.rs"]
mod site;

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use litestream::levels::Levels;
use litestream::retention::Policy;
use litestream_replica::restore::NoProgress;
use litestream_replica::{ClientContext, Level, ReplicaUrl, RestoreOptions, Target};
use ltx::Txid;

use site::{Site, Tally};

/// Histories of one run, unless `LITESTREAM_TEST_HISTORIES` says otherwise; each
/// asks some sixteen questions.
const HISTORIES: u64 = 30_000;

/// Histories with real files.
const REAL_HISTORIES: u64 = 16;

#[test]
#[allow(clippy::disallowed_methods, reason = "a seed to repeat, and how much to try, come from the environment")]
fn whatever_happens_what_was_promised_can_be_restored() {
    if let Ok(seed) = std::env::var("LITESTREAM_TEST_SEED") {
        let mut site = Site::new(seed.parse().unwrap(), true, false);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&mut site)));
        println!("{}", site.trace.unwrap_or_default());
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        return;
    }
    let count = std::env::var("LITESTREAM_TEST_HISTORIES").map_or(HISTORIES, |count| count.parse().unwrap());
    let first = fastrand::u64(..);
    let mut checked = 0;
    let mut tally = Tally::default();
    for seed in (0..count).map(|index| first.wrapping_add(index)) {
        let _told = TellSeed(seed);
        let mut site = Site::new(seed, false, false);
        live(&mut site);
        checked += site.checked;
        tally.add(&site.tally);
    }
    println!("{count} histories from seed {first}, {checked} questions");
    println!("{tally:?}");
    assert!(checked >= 100_000);
    assert!(tally.all().iter().all(|count| *count >= 50), "something was hardly tried: {tally:?}");
}

/// The same with real files, merged by `ltx::merge` and restored by the real
/// restore; of some replicas the newest state by the released upstream binary.
#[tokio::test(flavor = "multi_thread")]
async fn real_files_of_a_random_history_restore_to_what_was_recorded() {
    let first = fastrand::u64(..);
    let upstream = litestream_testkit::upstream::litestream();
    for seed in (0..REAL_HISTORIES).map(|index| first.wrapping_add(index)) {
        let _told = TellSeed(seed);
        let mut site = Site::new(seed, false, true);
        live(&mut site);
        let directory = tempfile::tempdir().unwrap();
        files::write_replica(&site, directory.path());
        let url = format!("file://{}", directory.path().display());
        let client = ReplicaUrl::parse(&url).unwrap().into_client(&ClientContext::default()).unwrap();
        let ends = reach::reachable(site.remote.files(), |_| true);
        let targets = (1..ends.len()).filter(|txid| ends[*txid]).map(|txid| txid as u64).step_by(3);
        for txid in targets {
            let output = directory.path().join(format!("restored-{txid}"));
            let options = RestoreOptions { target: Target::Txid(Txid::new(txid)), ..RestoreOptions::new(&output) };
            let restored = litestream_replica::restore(client.clone(), options, Arc::new(NoProgress)).await;
            assert_eq!(restored.map(|restored| restored.txid.get()).map_err(|err| err.to_string()), Ok(txid));
            assert!(std::fs::read(&output).unwrap() == files::database(site.db.at(txid)), "TXID {txid} differs");
        }
        if seed % 4 == 0 && site.is_whole() {
            let output = directory.path().join("restored-by-upstream");
            let run = upstream.run(["restore".as_ref(), "-o".as_ref(), output.as_os_str(), url.as_ref()]).unwrap();
            run.success().unwrap();
            let txid = site.remote.newest_txid().get();
            assert!(std::fs::read(&output).unwrap() == files::database(site.db.at(txid)), "upstream differs");
        }
    }
}

/// A day in small: one commit a second for an hour, levels of 10, 30 and 90 s, a
/// window of ten minutes.
#[test]
fn the_number_of_files_stays_bounded() {
    let seconds = Duration::from_secs;
    let mut site = Site::new(1, false, false);
    site.levels = Levels::new([10, 30, 90].map(seconds).to_vec()).unwrap();
    site.snapshot_interval = seconds(300);
    site.policy = Policy {
        l0_retention: seconds(20),
        snapshot_retention: seconds(600),
        snapshot_interval: seconds(300),
        enabled: true,
    };
    let mut most = [0; 10];
    let mut most_local = 0;
    for second in 0..3600 {
        site.clock.advance_millis(1000);
        site.commit();
        site.upload();
        if second % 5 == 0 {
            site.compact();
            site.keep_house();
        }
        for (level, most) in Level::all().zip(&mut most) {
            *most = site.remote.level(level).len().max(*most);
        }
        most_local = site.local.len().max(most_local);
    }
    // The window, its grace and one interval are 1200 s.
    let bounds = [40, 122, 42, 16, 0, 0, 0, 0, 0, 5];
    assert!(most.iter().zip(bounds).all(|(most, bound)| *most <= bound), "{most:?} of {bounds:?}");
    assert!(most_local <= 40, "{most_local} local files");
    ask(&mut site, Target::Latest);
    facts::every_moment_of_the_window_has_a_state(&mut site);

    // Nothing happens for a long time: what is left is the newest state.
    for _ in 0..50 {
        site.clock.advance_millis(100_000);
        site.compact();
        site.keep_house();
    }
    let idle = site.remote.clone();
    assert!(idle.files().len() <= 16, "{} files of an idle database", idle.files().len());
    site.clock.advance_millis(10_000_000);
    site.compact();
    site.keep_house();
    assert_eq!(site.remote, idle, "an idle database costs nothing");
    ask(&mut site, Target::Latest);
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
