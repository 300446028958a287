//! Stopping: whatever moment the signal comes, an exit code of 0 means that the
//! replica is complete, and nothing is left behind.
//!
//! Spec: docs/commands.md, "replicate".

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot be set up fails")]

mod site;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use litestream_testkit::s3_server::{Kind, S3Server};
use litestream_testkit::scenario;
use rustix::process::Signal;
use site::application::Application;
use site::{Site, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);

/// One or several SIGTERMs anywhere in the first half second, milliseconds apart.
#[test]
fn a_clean_exit_means_a_complete_replica_whenever_the_signals_come() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let (mut clean, mut early) = (0, 0);
    for round in 0..30 {
        let site = Site::new();
        site.config("");
        let application = Application::start(&site.db(), seed, 200, Duration::from_millis(1));
        let mut daemon = site.daemon(&ours());
        let delay = Duration::from_millis(rng.u64(0..500));
        thread::sleep(delay);
        application.pause();
        for _ in 0..rng.u8(1..4) {
            // Gone already is fine: that was the signal before.
            let _ = daemon.signal(Signal::TERM);
            thread::sleep(Duration::from_millis(rng.u64(0..5)));
        }
        let status = daemon.wait(LIMIT).unwrap();
        let what = format!("seed {seed}, round {round}, signalled after {delay:?}: {status}");
        if status.success() {
            clean += 1;
            site.assert_restores(&what);
        } else {
            // Before it listens, the signal itself ends it; during start-up it
            // says so.
            early += 1;
            let log = daemon.log();
            assert!(status.signal() == Some(15) || status.code() == Some(143), "{what}: {log}");
            assert!(!log.contains("replicating to"), "{what}: {log}");
        }
        site.assert_no_panic();
        assert_eq!(site.temporary_files(), Vec::<PathBuf>::new(), "{what}");
    }
    println!("seed {seed}: {clean} clean ends, {early} before anything had begun");
    assert!(clean > 10, "only {clean} clean ends");
}

/// The child is over at once, or right after the signal: all its rows are kept.
#[test]
fn what_a_child_wrote_is_replicated_however_it_ends() {
    let script = "import signal, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=10)
def write(n):
    for i in range(n):
        with db: db.execute('INSERT INTO event (body) VALUES (randomblob(300))')
def stop(*_):
    write(50)
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, stop)
write(50)
if sys.argv[3] == 'wait':
    print('child ready', flush=True)
    while True: time.sleep(0.01)
sys.exit(int(sys.argv[2]))
";
    for (code, waits) in [(0, false), (7, false), (0, true), (3, true)] {
        let site = Site::new();
        site.config("");
        let application = scenario::quiet_connection(&site.db()).unwrap();
        scenario::commit(&application, 10).unwrap();
        let child = site.path("child.py");
        fs::write(&child, script).unwrap();
        let mode = if waits { "wait" } else { "end" };
        let exec = format!("python3 {} {} {code} {mode}", child.display(), site.db().display());
        let config = site.path("litestream.yml");
        let args = ["replicate", "-exec", &exec, "-config", config.to_str().unwrap()];
        let mut daemon = ours().daemon(args, &site.log()).unwrap();
        if waits {
            daemon.wait_for_log("child ready", LIMIT).unwrap();
            daemon.signal(Signal::TERM).unwrap();
            daemon.signal(Signal::TERM).unwrap();
        }
        let status = daemon.wait(LIMIT).unwrap();
        assert_eq!(status.code(), Some(code), "{exec}: {}", daemon.log());
        let rows: u32 = application.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, if waits { 110 } else { 60 });
        site.assert_restores(&exec);
    }
}

/// The store dies under a running daemon: the stop takes no longer than it may,
/// is no success, and names the database. What was not sent is sent later.
#[test]
fn a_final_sync_that_fails_is_told_and_made_up_for() {
    let site = Site::new();
    site.config("shutdown-sync-timeout: 1s");
    let application = Application::start(&site.db(), 1, 100, Duration::from_millis(1));
    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    site.wait_for_level(9, LIMIT);
    let away = site.path("replica-away");
    fs::rename(site.replica(), &away).unwrap();
    fs::write(site.replica(), "no directory").unwrap();
    application.commit(50);
    application.pause();
    let started = Instant::now();
    daemon.signal(Signal::TERM).unwrap();
    let status = daemon.wait(LIMIT).unwrap();
    println!("gave up after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(status.code(), Some(1), "{}", daemon.log());
    let error = daemon.log().lines().find(|line| line.starts_with("Error: ")).map(str::to_owned).unwrap();
    println!("{error}");
    assert!(error.contains(site.db().to_str().unwrap()) && error.contains("not replicated"), "{error}");

    fs::remove_file(site.replica()).unwrap();
    fs::rename(&away, site.replica()).unwrap();
    site.once(&ours());
    site.assert_restores("after the store came back");
}

/// A restore before replication that waits for a store which does not answer
/// ends at once when told to, and leaves no file.
#[test]
fn a_signal_during_the_restore_at_start_ends_it_at_once() {
    let server = S3Server::start(Kind::Moto).unwrap();
    let site = Site::on_server(&server);
    let config = site.config("");
    let content = fs::read_to_string(&config).unwrap();
    fs::write(&config, content.replace("    replica:\n", "    restore-if-db-not-exists: true\n    replica:\n"))
        .unwrap();
    let application = Application::start(&site.db(), 1, 500, Duration::from_millis(10));
    application.pause();
    site.once(&ours());
    drop(application);
    fs::remove_dir_all(site.meta()).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(site.path(&format!("app.db{suffix}")));
    }
    server.stall().unwrap();
    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("attempting restore before replication", LIMIT).unwrap();
    thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    daemon.signal(Signal::TERM).unwrap();
    let status = daemon.wait(LIMIT).unwrap();
    println!("ended {:?} after the signal", started.elapsed());
    server.resume().unwrap();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(status.code(), Some(143), "{}", daemon.log());
    assert_eq!(site.temporary_files(), Vec::<PathBuf>::new());
    assert!(!site.db().exists());
}

/// The same against a store that does answer, at random moments: either the
/// database is there and complete, or there is nothing.
#[test]
fn a_restore_at_start_that_is_cut_short_leaves_all_or_nothing() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let site = Site::new();
    let config = site.config("");
    let content = fs::read_to_string(&config).unwrap();
    fs::write(&config, content.replace("    replica:\n", "    restore-if-db-not-exists: true\n    replica:\n"))
        .unwrap();
    let application = Application::start(&site.db(), seed, 12_000, Duration::from_millis(10));
    application.pause();
    site.once(&ours());
    drop(application);
    let (mut complete, mut nothing) = (0, 0);
    for round in 0..20 {
        let _ = fs::remove_dir_all(site.meta());
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(site.path(&format!("app.db{suffix}")));
        }
        let mut daemon = site.daemon(&ours());
        thread::sleep(Duration::from_millis(rng.u64(10..200)));
        daemon.signal(Signal::TERM).unwrap();
        let status = daemon.wait(LIMIT).unwrap();
        let what = format!("seed {seed}, round {round}: {status}");
        // One that does not listen yet is killed by the signal, and has not begun.
        assert_eq!(site.temporary_files(), Vec::<PathBuf>::new(), "{what}");
        if site.db().exists() {
            complete += 1;
            site.assert_restores(&what);
        } else {
            nothing += 1;
            assert!(!status.success(), "{what}");
        }
    }
    println!("seed {seed}: {complete} complete, {nothing} without a database");
}

/// `-force` removes nothing before the new database is proven.
#[test]
fn a_forced_restore_that_fails_keeps_the_old_database_byte_for_byte() {
    let site = Site::new();
    site.config("");
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, 50).unwrap();
    site.once(&ours());
    let out = site.path("out");
    fs::create_dir(&out).unwrap();
    for name in ["old.db", "old.db-wal", "old.db-shm"] {
        fs::write(out.join(name), format!("precious {name}")).unwrap();
    }
    let old = out.join("old.db");
    let old = old.to_str().unwrap();
    let (url, missing) = (site.url(), format!("file://{}", site.path("nowhere").display()));
    let assert_kept = |what: &str| {
        assert_eq!(site::files_below(&out).len(), 3, "{what}");
        for name in ["old.db", "old.db-wal", "old.db-shm"] {
            assert_eq!(fs::read_to_string(out.join(name)).unwrap(), format!("precious {name}"), "{what}");
        }
    };
    for args in [
        vec!["restore", "-force", "-o", old, &missing],
        vec!["restore", "-force", "-if-replica-exists", "-o", old, &missing],
        vec!["restore", "-force", "-txid", "00000000000000ff", "-o", old, &url],
        vec!["restore", "-force", "-timestamp", "2001-01-01T00:00:00Z", "-o", old, &url],
    ] {
        let output = ours().run(&args).unwrap();
        assert_eq!(output.status.success(), args.contains(&"-if-replica-exists"), "{output:?}");
        assert_kept(&format!("{args:?}"));
    }
    let image = site::files_below(&site.replica().join("ltx/9")).pop().unwrap();
    scenario::flip_bit(&image, -40).unwrap();
    let output = ours().run(["restore", "-force", "-o", old, &url]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_kept("a corrupt file");
    scenario::flip_bit(&image, -40).unwrap();
    ours().run(["restore", "-force", "-o", old, &url]).unwrap().success().unwrap();
    assert_eq!(site::files_below(&out).len(), 1, "the old side files are gone with the old database");
}
