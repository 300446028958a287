//! Where our commands do better than upstream's; rows of its rough edges.

use std::time::{Duration, Instant};

use crate::{DeadStore, World, ours, wait_until};

#[test]
fn row_5_the_socket_is_found_in_the_configuration_and_its_absence_explained() {
    let world = World::running(ours());
    assert_eq!(world.run("list").code, 0, "no -socket is needed");
    let other = World::new(ours());
    let outcome = other.run("list");
    assert_eq!(outcome.code, 1);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    let expected =
        format!("Error: failed to connect to control socket: {}: no such file or directory", other.text("ls.sock"));
    assert_eq!(lines[0], expected);
    assert!(lines[1].contains("enable socket in its configuration"), "{outcome:?}");
}

#[test]
fn row_5_an_answer_that_takes_too_long_is_called_a_timeout() {
    let world = World::new(ours());
    // Accepts into its backlog and says nothing.
    let _listener = std::os::unix::net::UnixListener::bind(world.path("ls.sock")).unwrap();
    let started = Instant::now();
    let outcome = world.run("list -timeout 1");
    assert!(started.elapsed() < Duration::from_secs(10));
    let expected = format!("Error: list timed out after 1s: the daemon at {} gave no answer\n", world.text("ls.sock"));
    assert_eq!((outcome.code, outcome.stderr), (1, expected));
}

#[test]
fn row_6_relative_paths_are_those_of_the_user() {
    let world = World::running(ours());
    let outcome = world.run("register -replica file://DIR/replica/c ./x/../c.db");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains(&format!("db_path: {}\n", world.text("c.db"))), "{outcome:?}");
    assert_eq!(world.run("sync -wait c.db").code, 0);
    assert!(world.path("replica/c/ltx").is_dir());
}

#[test]
fn row_7_waiting_and_failing_are_told_apart_with_the_error() {
    let mut world = World::new(ours());
    // A file where the replica's directory belongs.
    std::fs::create_dir(world.path("replica")).unwrap();
    let config = std::fs::read_to_string(world.path("c.yml")).unwrap();
    world.configure(
        &(config + &format!("- {{path: {}, replica: {{path: {}}}}}\n", world.text("c.db"), world.text("bad"))),
    );
    std::fs::write(world.path("bad"), "in the way").unwrap();
    world.start();
    wait_until("the failure shows", || world.run("list").stdout.contains("c.db [failing]"));
    let text = world.run("list").stdout;
    let line = |name: &str| text.lines().find(|line| line.starts_with(&world.text(name))).unwrap().to_owned();
    assert!(line("a.db").contains(" [replicating] (last sync: 20"), "{text}");
    assert!(line("missing.db").ends_with(" [waiting] (last sync: never)"), "{text}");
    assert!(line("c.db").contains(" [failing] (last sync: never) error: "), "{text}");
    let list = world.run("list -json").json();
    assert_eq!(list["databases"][3]["status"], "replicating", "upstream's word stays in upstream's field");
    assert_eq!(list["databases"][3]["state"], "failing");
    assert!(list["databases"][3]["last_error"].is_string());
}

#[test]
fn row_8_a_missing_file_is_mentioned_at_once() {
    let world = World::running(ours());
    assert!(world.log().contains("msg=\"database file not found, waiting for it\""), "{}", world.log());
}

#[test]
fn row_17_reset_is_refused_while_a_daemon_has_the_database() {
    let mut world = World::running(ours());
    let state = world.path(".a.db-litestream/ltx/0");
    let refused = |world: &World| {
        let outcome = world.run("reset a.db");
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.stderr.contains(&format!("Try: litestream stop {}", world.text("a.db"))), "{outcome:?}");
        assert!(state.exists());
    };
    refused(&world);
    // The lock tells, too, when the socket does not.
    std::fs::remove_file(world.path("ls.sock")).unwrap();
    refused(&world);
    world.daemon.take().unwrap().terminate(crate::LIMIT).unwrap();

    let preview = world.run("reset -dry-run a.db");
    assert!(preview.stdout.starts_with(&format!(
        "Dry run: local Litestream state would be reset for: {}\nWould remove: {}\n",
        world.text("a.db"),
        world.text(".a.db-litestream/ltx")
    )));
    assert!(preview.stdout.ends_with("No files were removed.\n") && state.exists(), "{preview:?}");
    let outcome = world.run("reset a.db");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.ends_with("Reset complete. Next replication sync will create a fresh snapshot.\n"));
    assert!(!state.exists());
    assert_eq!(world.run("reset a.db").stdout, format!("No local state to reset for {}\n", world.text("a.db")));
    let never = world.run("reset c.db").stdout;
    assert!(never.contains("Meta directory does not exist: "), "{never}");
    let absent = world.run("reset nope.db");
    assert_eq!(absent.stderr, format!("Error: database does not exist: {}\n", world.text("nope.db")));

    world.commit("a.db");
    world.start();
    assert_eq!(world.run("sync -wait a.db").code, 0, "it begins anew");
}

#[test]
fn row_21_a_dry_run_of_unregister_asks_the_daemon_and_changes_nothing() {
    let world = World::running(ours());
    let outcome = world.run("unregister -dry-run a.db");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for part in ["  state: replicating\n", "replica/a\n", "(txid ", "No unregister request was sent.\n"] {
        assert!(outcome.stdout.contains(part), "{part} {outcome:?}");
    }
    assert!(world.run("unregister -dry-run c.db").stdout.contains("does not know this database"));
    assert_eq!(world.run("unregister -dry-run -json a.db").json()["status"], "would_unregister");
    assert!(world.run("list").stdout.contains("a.db [replicating]"));
}

#[test]
fn row_24_stop_and_unregister_say_what_the_replica_has() {
    let world = World::running(ours());
    world.commit("a.db");
    for command in ["stop", "unregister"] {
        let result = world.run(&format!("{command} -json a.db")).json();
        let txid = result.get("txid").or(result.get("final_txid")).unwrap();
        assert_eq!(result["replica_txid"], *txid, "{result}");
    }
}

#[test]
fn row_24_a_stop_that_could_not_send_everything_fails_and_says_so() {
    let store = DeadStore::new();
    let world = World::running(ours());
    let url = format!("s3://bkt/c?endpoint=http://127.0.0.1:{}&region=us-east-1&forcePathStyle=true", store.port());
    let outcome = world.run(&format!("register -replica {url} c.db"));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let outcome = world.run("stop -timeout 1 c.db");
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.starts_with("Error: stop failed: close database: "), "{outcome:?}");
    assert!(world.run("list").stdout.contains("c.db [stopped]"), "it is stopped all the same");
}

/// Two databases on one replica, or one file under two names, destroy each other's
/// backups.
#[test]
fn registering_what_would_share_a_replica_is_refused() {
    let world = World::running(ours());
    let outcome = world.run("register -replica file://DIR/replica/a c.db");
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("register failed: failed to register database: "), "{outcome:?}");
    std::os::unix::fs::symlink(world.path("a.db"), world.path("link.db")).unwrap();
    let outcome = world.run("register -replica file://DIR/replica/link link.db");
    assert!(outcome.stderr.contains("share one file"), "{outcome:?}");
    let outcome = world.run("register -replica file://DIR/replica/other a.db");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("another replica, which stays in force"), "{outcome:?}");
}
