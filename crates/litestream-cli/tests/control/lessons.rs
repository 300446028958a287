//! Lessons of upstream's history and of running it, by their numbers.

use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::{DeadStore, LIMIT, World, ours};

#[test]
fn lesson_7_repeated_requests_succeed_and_say_already() {
    let world = World::running(ours());
    let status = |line: &str| {
        let outcome = world.run(line);
        assert_eq!(outcome.code, 0, "{line} {outcome:?}");
        outcome.json()["status"].as_str().unwrap().to_owned()
    };
    let register = "register -json -replica file://DIR/replica/c c.db";
    for (line, first, then) in [
        ("start -json a.db", "already_running", "already_running"),
        ("stop -json a.db", "stopped", "already_stopped"),
        ("start -json a.db", "started", "already_running"),
        (register, "registered", "already_registered"),
        ("unregister -json c.db", "unregistered", "already_unregistered"),
    ] {
        assert_eq!((status(line), status(line)), (first.to_owned(), then.to_owned()), "{line}");
    }
}

#[test]
fn lesson_8_a_list_without_rows_is_an_empty_list() {
    let world = World::new(ours());
    world.configure(&format!("socket: {{enabled: true, path: {}}}\n", world.text("ls.sock")));
    let mut daemon = ours().replicate(&world.path("c.yml"), &world.path("log")).unwrap();
    daemon.wait_for_log("control socket listening", LIMIT).unwrap();
    assert_eq!(world.run("list -json").stdout, "{\n  \"databases\": []\n}\n");
    assert_eq!(world.run("list").stdout, "No databases configured\n");
    assert_eq!(world.ask("GET", "/list", "").body, "{\"databases\":[]}\n");
    assert_eq!(world.run("status -json").stdout, "[]\n");
}

/// The retries and the upload that hangs are given up together, and what is lacking
/// is said.
#[test]
fn lesson_9_a_second_signal_ends_an_upload_that_hangs() {
    let store = DeadStore::new();
    let world = World::new(ours());
    world.configure(&format!(
        "shutdown-sync-timeout: 10m\ndbs: [{{path: {}, replica: {}}}]\n",
        world.text("a.db"),
        store.replica()
    ));
    let mut daemon = ours().replicate(&world.path("c.yml"), &world.path("log")).unwrap();
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    daemon.signal(Signal::TERM).unwrap();
    daemon.wait_for_log("signal received", LIMIT).unwrap();
    // Repetitions within a second are the same request, so a person presses again.
    let started = Instant::now();
    let status = loop {
        if let Some(status) = daemon.status().unwrap() {
            break status;
        }
        assert!(started.elapsed() < LIMIT, "{}", daemon.log());
        daemon.signal(Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(started.elapsed() > Duration::from_millis(500), "the first signal alone leaves it time");
    assert_eq!(status.code(), Some(1), "{}", daemon.log());
    assert!(daemon.log().contains("a.db: not replicated: "), "{}", daemon.log());
}

#[test]
fn lesson_14_a_sync_keeps_its_deadline_while_an_upload_hangs() {
    let store = DeadStore::new();
    let world = World::new(ours());
    world.configure(&format!(
        "socket: {{enabled: true, path: {}}}\nshutdown-sync-timeout: 0s\ndbs: [{{path: {}, replica: {}}}]\n",
        world.text("ls.sock"),
        world.text("a.db"),
        store.replica()
    ));
    let mut daemon = ours().replicate(&world.path("c.yml"), &world.path("log")).unwrap();
    daemon.wait_for_log("control socket listening", LIMIT).unwrap();
    let started = Instant::now();
    let outcome = world.run("sync -wait -timeout 1 a.db");
    assert!(started.elapsed() < Duration::from_secs(8), "took {:?}", started.elapsed());
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.starts_with("Error: sync failed: sync database: timed out after 1s"), "{outcome:?}");
    let started = Instant::now();
    assert_eq!(world.run("list").code, 0, "others are answered meanwhile");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn lesson_15_a_sync_returns_what_the_replica_has() {
    let world = World::running(ours());
    let before = world.post("/sync", r#"{"path":"DIR/a.db","wait":true}"#);
    assert_eq!(before["txid"], before["replicated_txid"]);
    world.commit("a.db");
    let after = world.post("/sync", r#"{"path":"DIR/a.db","wait":true}"#);
    assert!(after["txid"].as_u64() >= before["txid"].as_u64(), "{after}");
    assert_eq!(after["txid"], after["replicated_txid"], "all of it is in the replica");
    let newest = world.ask("GET", "/txid?path=DIR/a.db", "").json();
    assert_eq!(newest, json!({"txid": after["txid"], "replicated_txid": after["replicated_txid"]}));
}

/// Requests that a shutdown cuts off are no errors, and neither is what they did.
#[test]
fn lesson_16_a_shutdown_amid_requests_logs_no_error() {
    let mut world = World::running(ours());
    let daemon = world.daemon.take().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| while world.try_ask("POST", "/sync", r#"{"path":"DIR/a.db","wait":true}"#).is_some() {});
        }
        for _ in 0..50 {
            world.ask("GET", "/list", "");
        }
        assert!(daemon.terminate(LIMIT).unwrap().success());
    });
    let log = world.log();
    assert!(log.contains("litestream shut down") && !log.contains("level=ERROR"), "{log}");
    assert!(!world.path("ls.sock").exists());
}

#[test]
fn lesson_27_a_second_daemon_is_refused_and_takes_nothing_away() {
    let mut world = World::running(ours());
    let pid = world.daemon.as_ref().unwrap().id();
    for _ in 0..2 {
        let second = world.run("replicate");
        assert_eq!(second.code, 1, "{second:?}");
        let message = format!(
            "Error: litestream 0.5.17 (pid {pid}) is listening on control socket {} already\n",
            world.text("ls.sock")
        );
        assert!(second.stderr.starts_with(&message), "{second:?}");
        assert!(!second.stdout.contains("initialized db"), "no database was touched: {second:?}");
    }
    assert_eq!(world.run("info -json").json()["pid"], pid, "the first one answers as before");

    // Killed, it leaves a socket nobody listens on; the next daemon replaces it.
    world.daemon.take().unwrap().kill9().unwrap();
    assert!(world.path("ls.sock").exists());
    world.start();
    let log = world.log();
    assert!(world.daemon.take().unwrap().terminate(LIMIT).unwrap().success(), "{log}");
    assert!(!world.path("ls.sock").exists(), "the end of a daemon removes its socket");
}

/// Two that start at the same moment: one gets the socket, the other is refused.
#[test]
fn lesson_27_of_two_daemons_that_start_together_one_survives() {
    let world = World::new(ours());
    // A stale socket is what both would like to replace.
    drop(std::os::unix::net::UnixListener::bind(world.path("ls.sock")).unwrap());
    let mut daemons: Vec<_> = (0..4)
        .map(|index| ours().replicate(&world.path("c.yml"), &world.path(&format!("log{index}"))).unwrap())
        .collect();
    crate::wait_until("all but one have ended", || {
        daemons.retain_mut(|daemon| daemon.status().unwrap().is_none());
        daemons.len() <= 1
    });
    let [survivor] = daemons.as_mut_slice() else { panic!("none survived") };
    survivor.wait_for_log("control socket listening", LIMIT).unwrap();
    assert_eq!(world.run("info -json").json()["pid"], survivor.id());
    survivor.signal(Signal::TERM).unwrap();
    assert!(survivor.wait(LIMIT).unwrap().success());
}

#[test]
fn lesson_28_the_socket_has_the_configured_mode() {
    let world = World::running(ours());
    let mode = std::fs::metadata(world.path("ls.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Without a socket the lock of the state directory keeps two daemons apart.
#[test]
fn one_database_is_never_replicated_by_two_daemons() {
    let mut world = World::running(ours());
    std::fs::remove_file(world.path("ls.sock")).unwrap();
    let other = world.run_of(&ours(), "replicate -once DIR/a.db file://DIR/replica/a");
    assert_eq!(other.code, 1, "{other:?}");
    assert!(other.stderr.contains("another litestream process already replicates"), "{other:?}");
    assert!(world.daemon.as_mut().unwrap().status().unwrap().is_none());
}

/// Of two daemons the second keeps its database back, says so, and takes over when
/// the first is gone: a replacement may start before what it replaces has ended.
#[test]
fn a_second_daemon_waits_for_the_first_and_takes_over() {
    let world = World::new(ours());
    let config = format!("dbs: [{{path: {}, replica: {{path: {}}}}}]\n", world.text("a.db"), world.text("replica/a"));
    world.configure(&config);
    let mut first = ours().replicate(&world.path("c.yml"), &world.path("first")).unwrap();
    first.wait_for_log("image of the database stored", LIMIT).unwrap();
    let mut second = ours().replicate(&world.path("c.yml"), &world.path("second")).unwrap();
    second.wait_for_log("another litestream process already replicates", LIMIT).unwrap();
    assert!(first.terminate(LIMIT).unwrap().success());
    world.commit("a.db");
    second.wait_for_log("sync recovered", LIMIT).unwrap();
    assert!(second.terminate(LIMIT).unwrap().success());
    let restored = world.run_of(&ours(), "restore -o DIR/out.db file://DIR/replica/a");
    assert_eq!(restored.code, 0, "{restored:?}");
    let rows = |name: &str| -> u32 {
        let db = rusqlite::Connection::open(world.path(name)).unwrap();
        db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows("out.db"), rows("a.db"));
}

#[test]
fn a_socket_that_cannot_be_had_does_not_keep_databases_from_being_replicated() {
    let world = World::new(ours());
    std::fs::write(world.path("ls.sock"), "a file").unwrap();
    let mut daemon = ours().replicate(&world.path("c.yml"), &world.path("log")).unwrap();
    let line = daemon.wait_for_log("failed to start control server", LIMIT).unwrap();
    assert!(line.contains("level=WARN") && line.contains("socket path exists but is not a socket: "), "{line}");
    daemon.wait_for_log("image of the database stored", LIMIT).unwrap();
    assert!(daemon.terminate(LIMIT).unwrap().success());
    assert!(world.path("ls.sock").exists(), "what is not ours stays");
}
