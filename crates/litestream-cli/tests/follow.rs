//! `restore -f` as a process of its own, with writers, readers and sudden ends.
//!
//! Spec: store-and-restore §14, §20 L61; decision 0006.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot be set up fails"
)]

mod site;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use litestream_testkit::daemon::Daemon;
use litestream_testkit::image::read_image;
use litestream_testkit::program::Program;
use litestream_testkit::upstream;
use rusqlite::{Connection, OpenFlags};
use site::application::Application;
use site::{Site, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);

fn copy(site: &Site) -> PathBuf {
    site.path("copy.db")
}

/// Starts following the site's replica, every 20 ms.
fn follow(site: &Site, program: &Program, flags: &[&str]) -> Daemon {
    let (copy, url) = (copy(site), site.url());
    let words = ["restore", "-f", "-follow-interval", "20ms", "-o", copy.to_str().unwrap()];
    program
        .daemon(words.into_iter().chain(flags.iter().copied()).chain([url.as_str()]), &site.path("follow.log"))
        .unwrap()
}

/// Waits until the copy equals the source, which nobody may write now.
#[track_caller]
fn wait_until_same(site: &Site, follower: &mut Daemon, what: &str) {
    let started = Instant::now();
    while let Some(difference) = difference(site) {
        assert!(follower.status().unwrap().is_none(), "{what}: the follower ended: {}", follower.log());
        assert!(started.elapsed() < LIMIT, "{what}: {difference}: {}", follower.log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// The first byte of the copy that is neither the source's nor the copy's own
/// business. Only for a copy that is opened by no connection of this process.
fn difference(site: &Site) -> Option<String> {
    let source = read_image(&site.db()).unwrap().bytes().to_vec();
    let Ok(copy) = fs::read(copy(site)) else { return Some("no copy".to_owned()) };
    if source.len() != copy.len() {
        return Some(format!("{} bytes, {} at the source", copy.len(), source.len()));
    }
    let own = |at: &usize| matches!(at, 18..20 | 24..28 | 92..96);
    let at = (0..source.len()).find(|at| source[*at] != copy[*at] && !own(at))?;
    Some(format!("byte {at} differs"))
}

/// Reads the bank in the copy over and over, by a connection that stays open and
/// by new ones: each read must see some transaction of the source as a whole,
/// and none older than the one before.
struct Auditor {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Auditor {
    fn start(db: &Path) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (db, stop, reads) = (db.to_owned(), Arc::clone(&stop), Arc::clone(&reads));
            move || {
                let open = || {
                    // May write, so that it can roll back what a killed follower left.
                    let db = Connection::open_with_flags(&db, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
                    db.busy_timeout(Duration::from_secs(20)).unwrap();
                    db
                };
                let (lasting, mut newest) = (open(), 0);
                while !stop.load(Ordering::SeqCst) {
                    let round = reads.fetch_add(1, Ordering::SeqCst);
                    let seen = audit(&lasting, round % 8 == 0);
                    assert!(seen >= newest, "went back from {newest} to {seen} transfers");
                    newest = seen;
                    if round % 4 == 0 {
                        let seen = audit(&open(), round % 16 == 0);
                        assert!(seen >= newest, "a new connection went back from {newest} to {seen} transfers");
                        newest = seen;
                    }
                }
            }
        });
        Self { stop, reads, thread: Some(thread) }
    }

    /// Ends it, and gives the number of reads. Fails as it failed.
    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.reads.load(Ordering::SeqCst)
    }
}

/// Number of transfers in a bank that adds up.
fn audit(db: &Connection, with_check: bool) -> i64 {
    db.execute_batch("BEGIN").unwrap();
    let number = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).unwrap() };
    let sum = number("SELECT sum(balance) FROM account");
    assert_eq!(sum, 500 * 1_000, "balances do not add up");
    let (count, last) = (number("SELECT count(*) FROM ledger"), number("SELECT coalesce(max(number), 0) FROM ledger"));
    assert_eq!(count, last, "the ledger has a gap");
    if with_check {
        let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
    db.execute_batch("COMMIT").unwrap();
    count
}

/// Writers, readers and a follower that is killed at random moments.
#[test]
fn a_follower_killed_at_any_moment_shows_readers_whole_transactions() {
    const ROUNDS: u32 = 30;
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let site = Site::new();
    site.config("");
    let application = Application::start(&site.db(), seed, 200, Duration::from_micros(300));
    let daemon = site.daemon(&ours());
    site.wait_for_level(0, LIMIT);
    let mut follower = follow(&site, &ours(), &[]);
    follower.wait_for_log("entering follow mode", LIMIT).unwrap();
    let auditor = Auditor::start(&copy(&site));
    let mut journals = 0;
    for _ in 0..ROUNDS {
        thread::sleep(Duration::from_millis(rng.u64(20..200)));
        follower.kill9().unwrap();
        journals += u32::from(site.path("copy.db-journal").exists());
        follower = follow(&site, &ours(), &[]);
    }
    follower.wait_for_log("follow: applied updates", LIMIT).unwrap();
    application.pause();
    let reads = auditor.finish();
    wait_until_same(&site, &mut follower, &format!("seed {seed}"));
    println!("seed {seed}: {reads} reads, {journals} journals left by {ROUNDS} kills, {:?}", application.stats());
    assert!(reads > 20, "only {reads} reads");
    let status = follower.terminate(LIMIT).unwrap();
    assert!(status.success(), "{status}");
    assert!(daemon.terminate(LIMIT).unwrap().success());
    let log = fs::read_to_string(site.path("follow.log")).unwrap();
    assert!(!log.contains("panicked") && !log.contains("Error:") && !log.contains("anew"), "{log}");
    assert!(log.contains("follow mode stopped"), "{log}");
}

/// All its levels, its snapshots and its expiry.
#[test]
fn what_upstream_writes_is_followed() {
    let seed = seed();
    let site = Site::new();
    site.config("levels: [{interval: 1s}, {interval: 2s}]\nsnapshot: {interval: 3s}\nl0-retention: 2s\nl0-retention-check-interval: 1s\n");
    let application = Application::start(&site.db(), seed, 300, Duration::from_millis(2));
    let _writer = site.daemon(&upstream::litestream());
    site.wait_for_level(9, LIMIT);
    let mut follower = follow(&site, &ours(), &["-json"]);
    follower.wait_for_log("\"event\":\"applied\"", LIMIT).unwrap();
    let auditor = Auditor::start(&copy(&site));
    thread::sleep(Duration::from_secs(5));
    application.pause();
    let reads = auditor.finish();
    wait_until_same(&site, &mut follower, &format!("seed {seed}, {reads} reads"));
    follower.signal(rustix::process::Signal::INT).unwrap();
    let line = follower.wait_for_log("\"txid\": \"\"", LIMIT).unwrap();
    assert_eq!(line.trim(), "\"txid\": \"\",");
    assert!(follower.wait(LIMIT).unwrap().success());
}

/// Either binary goes on with the other's copy.
#[test]
fn upstreams_copy_is_taken_over_and_given_back() {
    let seed = seed();
    let site = Site::new();
    site.config("");
    let application = Application::start(&site.db(), seed, 100, Duration::from_millis(1));
    application.pause();
    let _writer = site.daemon(&ours());
    site.wait_for_level(0, LIMIT);
    let mut theirs = follow(&site, &upstream::litestream(), &[]);
    theirs.wait_for_log("entering follow mode", LIMIT).unwrap();
    assert!(theirs.terminate(LIMIT).unwrap().success());
    assert_eq!(fs::read(copy(&site)).unwrap()[18..20], [2, 2], "upstream leaves WAL in the header");
    application.commit(20);
    let mut follower = follow(&site, &ours(), &[]);
    wait_until_same(&site, &mut follower, &format!("seed {seed}, taken over"));
    assert!(follower.terminate(LIMIT).unwrap().success());
    // Upstream resumes only at or below the newest snapshot.
    let config = site.path("litestream.yml");
    drop(_writer);
    ours()
        .run(["replicate", "-once", "-force-snapshot", "-config", config.to_str().unwrap()])
        .unwrap()
        .success()
        .unwrap();
    let mut follower = follow(&site, &ours(), &[]);
    follower.wait_for_log("entering follow mode", LIMIT).unwrap();
    assert!(follower.terminate(LIMIT).unwrap().success());
    let mut theirs = follow(&site, &upstream::litestream(), &[]);
    theirs.wait_for_log("entering follow mode", LIMIT).unwrap();
    application.commit(20);
    let mut writer = site.daemon(&ours());
    writer.wait_for_log("replicating to", LIMIT).unwrap();
    theirs.wait_for_log("follow: applied updates", LIMIT).unwrap();
}

/// L61: a reader in WAL mode keeps its lock for life. The follower says whom it
/// waits for and can be stopped.
#[test]
fn a_reader_in_the_way_is_named_and_does_not_keep_a_signal_out() {
    let site = Site::new();
    site.config("");
    let application = Application::start(&site.db(), 1, 50, Duration::from_millis(1));
    application.pause();
    let _writer = site.daemon(&ours());
    site.wait_for_level(0, LIMIT);
    let mut theirs = follow(&site, &upstream::litestream(), &[]);
    theirs.wait_for_log("entering follow mode", LIMIT).unwrap();
    assert!(theirs.terminate(LIMIT).unwrap().success());
    let reader = Connection::open(copy(&site)).unwrap();
    audit(&reader, true);
    let mut follower = follow(&site, &ours(), &[]);
    let line = follower.wait_for_log("follow: waiting for readers to finish", LIMIT).unwrap();
    assert!(line.contains(&format!("pid {}", std::process::id())), "{line}");
    let started = Instant::now();
    assert!(follower.terminate(LIMIT).unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(20), "stopped after {:?}", started.elapsed());
    let mut follower = follow(&site, &ours(), &[]);
    drop(reader);
    application.commit(5);
    wait_until_same(&site, &mut follower, "without the reader");
    assert!(follower.terminate(LIMIT).unwrap().success());
}

#[test]
fn a_long_read_delays_an_update_but_not_a_signal() {
    let site = Site::new();
    site.config("");
    let application = Application::start(&site.db(), 1, 50, Duration::from_millis(1));
    application.pause();
    let _writer = site.daemon(&ours());
    site.wait_for_level(0, LIMIT);
    let mut follower = follow(&site, &ours(), &[]);
    follower.wait_for_log("entering follow mode", LIMIT).unwrap();
    let reader = Connection::open_with_flags(copy(&site), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = || -> i64 { reader.query_row("SELECT count(*) FROM ledger", [], |row| row.get(0)).unwrap() };
    let before = count();
    application.commit(10);
    follower.wait_for_log("follow: waiting for readers to finish", LIMIT).unwrap();
    assert_eq!(count(), before, "a read transaction keeps its view");
    assert!(follower.terminate(LIMIT).unwrap().success());
    drop(reader);
    let mut follower = follow(&site, &ours(), &[]);
    wait_until_same(&site, &mut follower, "after the reader");
}

#[test]
fn an_existing_database_without_a_position_is_refused_or_skipped() {
    let site = Site::new();
    site.config("");
    drop(Application::start(&site.db(), 1, 5, Duration::from_millis(1)));
    site.once(&ours());
    let (copy, url) = (copy(&site), site.url());
    let run = |flags: &[&str]| {
        let words = ["restore", "-f", "-o", copy.to_str().unwrap()];
        ours().run(words.into_iter().chain(flags.iter().copied()).chain([url.as_str()])).unwrap()
    };
    fs::write(&copy, "mine").unwrap();
    for flags in [&[][..], &["-force"]] {
        let output = run(flags);
        assert_eq!(output.status.code(), Some(1));
        let refusal = format!(
            "Error: cannot resume follow mode: database exists but no -txid file found; delete the database to re-restore: {}\n",
            copy.display()
        );
        assert!(output.stderr.ends_with(&refusal), "{}", output.stderr);
        assert_eq!(fs::read(&copy).unwrap(), b"mine");
    }
    let output = run(&["-if-db-not-exists"]).success().unwrap();
    assert!(output.stdout.contains("database already exists, skipping"), "{}", output.stdout);
}
