//! The daemon is killed at random moments, hundreds of times, while an
//! application writes: nothing is lost, nothing is stored twice, and nothing is
//! stored whole that need not be.
//!
//! Hazards: replication.md §18 L82, L84; D1.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot be set up fails")]

mod site;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use litestream_testkit::bank;
use ltx::FileName;
use site::application::{Application, MODES};
use site::{Site, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);

/// Level-0 files as they were when first seen.
#[derive(Default)]
struct Ledger {
    files: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Ledger {
    /// Notes new files; those known before must be what they were.
    fn observe(&mut self, site: &Site) {
        for (name, _) in site.level(0) {
            let bytes = fs::read(site.replica().join("ltx/0").join(name.to_string())).unwrap();
            let known = self.files.entry((name.min.get(), name.max.get())).or_insert_with(|| bytes.clone());
            assert!(*known == bytes, "level-0 file {name} changed after it was stored");
        }
    }

    /// Every TXID from the first to the newest was stored once.
    fn assert_dense(&self) {
        let mut expected = None;
        for (min, max) in self.files.keys() {
            assert_eq!(*min, expected.unwrap_or(*min), "level 0 has a hole or an overlap before {min:016x}");
            expected = Some(max + 1);
        }
    }
}

/// Starts a daemon, lets it live for `life`, kills it.
fn brief_life(site: &Site, life: Duration) {
    let daemon = ours().replicate(&site.path("litestream.yml"), &site.log()).unwrap();
    thread::sleep(life);
    daemon.kill9().unwrap();
}

/// A daemon's whole life up to a clean end.
fn graceful_life(site: &Site) {
    let mut daemon = ours().replicate(&site.path("litestream.yml"), &site.log()).unwrap();
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    let status = daemon.terminate(LIMIT).unwrap();
    assert!(status.success(), "{status}: {}", fs::read_to_string(site.log()).unwrap());
}

/// What happens to the WAL while nobody watches.
fn foreign_checkpoints(application: &Application, rng: &mut Rng) {
    for _ in 0..rng.u8(1..4) {
        application.checkpoint(rng.choice(MODES).unwrap());
        application.commit(rng.u32(0..10));
    }
}

#[test]
fn two_hundred_kills_lose_nothing_and_store_nothing_whole_again() {
    const ROUNDS: u32 = 200;
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let site = Site::new();
    site.config("");
    let application = Application::start(&site.db(), seed, 4_000, Duration::from_micros(500));
    graceful_life(&site);
    let whole = fs::metadata(site.db()).unwrap().len();

    let started = Instant::now();
    let mut ledger = Ledger::default();
    let (mut advanced, mut newest) = (0, None);
    for round in 1..=ROUNDS {
        let what = format!("seed {seed}, round {round}");
        brief_life(&site, Duration::from_millis(rng.u64(5..250)));
        ledger.observe(&site);
        let last = site.level(0).last().map(|(name, _)| name.max);
        advanced += u32::from(last != newest);
        newest = last;
        if rng.u8(0..4) == 0 {
            foreign_checkpoints(&application, &mut rng);
        }
        if round % 25 == 0 {
            application.pause();
            if round % 50 == 0 {
                graceful_life(&site);
            } else {
                let daemon = ours().replicate(&site.path("litestream.yml"), &site.log()).unwrap();
                site.wait_until_replicated(LIMIT, &what);
                daemon.kill9().unwrap();
            }
            site.assert_restores(&what);
            application.resume();
        }
    }
    application.pause();
    let stats = application.stats();
    graceful_life(&site);
    ledger.observe(&site);
    println!(
        "seed {seed}: {ROUNDS} kills in {:?}, {advanced} rounds stored something, {stats:?}, {} files at level 0",
        started.elapsed(),
        ledger.files.len()
    );
    site.assert_restores(&format!("seed {seed}, at the end"));
    ledger.assert_dense();
    assert_eq!(site.level(9).len(), 1, "images: {:?}", site.level(9));
    let largest = ledger.files.values().map(Vec::len).max().unwrap();
    println!("largest level-0 file {largest} of a database of {whole} bytes");
    // A file may still be large: on a busy machine many short lives in a row end before
    // they have captured anything, and by then most pages have changed.
    let log = fs::read_to_string(site.log()).unwrap();
    let images: Vec<&str> =
        log.lines().filter(|line| line.contains("whole image") && !line.contains("the replica is empty")).collect();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("level=WARN")).collect();
    assert_eq!(images, Vec::<&str>::new(), "seed {seed}: stored whole although nothing was unknown: {warnings:#?}");
    assert!(advanced > ROUNDS / 10, "only {advanced} rounds of {ROUNDS} stored anything");
    site.assert_no_panic();
}

#[test]
fn a_kill_during_the_first_image_is_mended_by_the_next_start() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    for round in 1..=10 {
        let site = Site::new();
        site.config("");
        let rows = rng.u32(5_000..12_000);
        let application = Application::start(&site.db(), seed, rows, Duration::from_millis(1));
        let mut lives = Vec::new();
        for _ in 0..rng.u8(1..4) {
            let life = Duration::from_millis(rng.u64(20..500));
            brief_life(&site, life);
            lives.push((life.as_millis(), site.level(9).len()));
            if rng.bool() {
                foreign_checkpoints(&application, &mut rng);
            }
        }
        let starts = || fs::read_to_string(site.log()).unwrap_or_default().matches("initialized db").count();
        let before = starts();
        let daemon = ours().replicate(&site.path("litestream.yml"), &site.log()).unwrap();
        // A signal before it listens would end it like any other program.
        while starts() == before {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(rng.u64(0..300)));
        application.pause();
        let status = daemon.terminate(LIMIT).unwrap();
        println!("seed {seed}, round {round}: {rows} rows, killed after (ms, images then) {lives:?}");
        assert!(status.success(), "{status}: {}", fs::read_to_string(site.log()).unwrap());
        site.assert_restores(&format!("seed {seed}, round {round}"));
        site.assert_no_panic();
        let left = site.temporary_files();
        assert_eq!(left, Vec::<PathBuf>::new(), "seed {seed}, round {round}: left by killed daemons");
        let images: Vec<FileName> = site.level(9).into_iter().map(|(name, _)| name).collect();
        assert!(!images.is_empty(), "seed {seed}, round {round}: no image");
    }
}

/// The bank in a replica whose writer was killed balances at every moment.
#[test]
fn a_killed_daemon_leaves_a_replica_whose_bank_balances() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let site = Site::new();
    site.config("");
    let application = Application::start(&site.db(), seed, 100, Duration::from_micros(200));
    graceful_life(&site);
    let mut transfers = 0;
    for round in 1..=15 {
        brief_life(&site, Duration::from_millis(rng.u64(20..300)));
        let output = site.path(&format!("restored-{round}.db"));
        ours().restore(&site.url(), &output).unwrap();
        let kept = bank::audit(&output).unwrap();
        assert!(kept >= transfers, "seed {seed}, round {round}: went back from {transfers} to {kept} transfers");
        transfers = kept;
    }
    println!("seed {seed}: {transfers} transfers kept, {:?}", application.stats());
}

/// What a killed daemon had begun to write is removed by the next; what somebody
/// is still writing, and upstream's own, is not.
#[test]
fn unfinished_files_of_killed_writers_are_removed() {
    let site = Site::new();
    site.config("");
    let application = Application::start(&site.db(), 1, 10, Duration::from_millis(10));
    application.pause();
    let dir = site.replica().join("ltx/9");
    fs::create_dir_all(&dir).unwrap();
    let name = "0000000000000001-0000000000000001.ltx";
    let [stale, used, upstream] =
        ["7-0-0000abcd.tmp", "8-0-0000abcd.tmp", "tmp"].map(|end| dir.join(format!("{name}.{end}")));
    for path in [&stale, &used, &upstream] {
        fs::write(path, "begun").unwrap();
    }
    let writer = fs::File::open(&used).unwrap();
    writer.lock().unwrap();
    site.once(&ours());
    assert!(!stale.exists());
    assert!(used.exists() && upstream.exists());
    site.assert_restores("beside unfinished files");
}
