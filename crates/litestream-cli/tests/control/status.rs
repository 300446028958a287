//! Honest `status`: what it says is so, and what it cannot know it does not say.

use std::time::{Duration, Instant};

use crate::{DeadStore, LIMIT, Outcome, World, original, ours, wait_until};

fn config(world: &World, socket: bool, replica: &str) -> String {
    format!(
        "socket: {{enabled: {socket}, path: {}}}\ndbs: [{{path: {}, replica: {replica}}}]\n",
        world.text("ls.sock"),
        world.text("a.db")
    )
}

/// Healthy, and the replica has the very last transaction.
fn wait_healthy(world: &World) -> Outcome {
    wait_until("status is healthy", || {
        let outcome = world.run("status -json a.db");
        outcome.code == 0 && outcome.json()[0]["replica_txid"] == outcome.json()[0]["local_txid"]
    });
    world.run("status -json a.db")
}

#[test]
fn row_2_a_healthy_database_is_healthy_only_while_a_daemon_replicates_it() {
    let mut world = World::running(ours());
    let outcome = wait_healthy(&world);
    let row = outcome.json()[0].clone();
    assert_eq!((row["health"].as_str(), row["daemon"].as_str()), (Some("healthy"), Some("replicating")));
    assert_eq!(row["replica_txid"], row["local_txid"]);
    assert_eq!((&row["lag_bytes"], &row["reasons"]), (&0.into(), &serde_json::json!([])));
    for field in ["last_success", "earliest", "latest", "lag_seconds"] {
        assert!(!row[field].is_null(), "{field} {row}");
    }
    world.daemon.take().unwrap().terminate(LIMIT).unwrap();

    let outcome = world.run("status -json a.db");
    let stopped = outcome.json()[0].clone();
    assert_eq!((outcome.code, stopped["daemon"].as_str()), (2, Some("not running")));
    assert_eq!(stopped["replica_txid"], row["replica_txid"], "the replica itself was asked");
    assert_eq!(stopped["reasons"], serde_json::json!(["no running daemon was found for it"]));
    let local = world.run("status -local -json a.db").json();
    assert!(local[0]["replica_txid"].is_null(), "{local}");

    std::fs::remove_dir_all(world.path("replica/a")).unwrap();
    let outcome = world.run("status a.db");
    assert!(outcome.stdout.contains("the replica holds no backup that can be restored"), "{outcome:?}");
}

#[test]
fn row_2_a_daemon_without_a_socket_is_noticed_all_the_same() {
    let mut world = World::new(ours());
    world.configure(&config(&world, false, &format!("{{path: {}}}", world.text("replica/a"))));
    world.daemon = Some(ours().replicate(&world.path("c.yml"), &world.path("log")).unwrap());
    let row = wait_healthy(&world).json()[0].clone();
    assert_eq!(row["daemon"], "running");
    assert_eq!(row["replica_txid"], row["local_txid"]);
}

#[test]
fn row_2_a_store_that_does_not_answer_costs_a_limited_time() {
    let store = DeadStore::new();
    let world = World::new(ours());
    world.configure(&config(&world, false, &store.replica()));
    let started = Instant::now();
    let outcome = world.run("status -timeout 1");
    assert!(started.elapsed() < Duration::from_secs(8), "took {:?}", started.elapsed());
    assert_eq!(outcome.code, 2, "{outcome:?}");
    let line = format!("{}: replica cannot be looked at: no answer within 1s\n", world.text("a.db"));
    assert!(outcome.stdout.contains(&line), "{outcome:?}");
}

#[test]
fn row_2_a_failing_replica_is_shown_with_its_error_and_the_growing_lag() {
    let mut world = World::running(ours());
    wait_healthy(&world);
    // From here on a file stands where the replica's directory was.
    std::fs::rename(world.path("replica"), world.path("away")).unwrap();
    std::fs::write(world.path("replica"), "in the way").unwrap();
    world.commit("a.db");
    wait_until("it is degraded", || world.run("status -local a.db").code == 2);
    let row = world.run("status -local -json a.db").json()[0].clone();
    assert_eq!(row["daemon"], "failing");
    assert!(row["last_error"].is_string() && row["last_error_at"].is_string(), "{row}");
    assert!(row["lag_seconds"].as_f64() > Some(0.0) && row["lag_bytes"].as_u64() > Some(0), "{row}");
    world.daemon.take().unwrap().kill9().unwrap();
}

#[test]
fn row_3_relative_paths_are_resolved_and_unknown_ones_are_errors() {
    let world = World::new(ours());
    assert!(world.run("status -local x/../a.db").stdout.contains(&world.text("a.db")));
    let unknown = world.run("status nope.db");
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, ""));
    let words = format!("Error: database not found in config: {}\n", world.text("nope.db"));
    assert!(
        unknown.stderr.starts_with(&words) && unknown.stderr.contains("litestream databases -config"),
        "{unknown:?}"
    );
}

#[test]
fn row_4_a_directory_shows_the_databases_it_holds() {
    let world = World::new(ours());
    world.configure("dbs: [{dir: ., pattern: '*.db', replica: {path: replicas}}]\n");
    let rows = world.run("status -local -json").json();
    let names: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| world.neutral(row["database"].as_str().unwrap())).collect();
    assert_eq!(names, ["DIR/a.db", "DIR/b.db", "DIR/c.db"]);
}

#[test]
fn upstreams_columns_and_fields_come_first_with_upstreams_values() {
    let mut world = World::running(original());
    world.daemon.take().unwrap().terminate(LIMIT).unwrap();
    let theirs = world.run_of(&original(), "status -config DIR/c.yml");
    let ours_ = world.run("status -local");
    let columns = |text: &str, lines: usize| -> Vec<Vec<String>> {
        let cells = |line: &str| {
            let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
            cells.take(4).map(str::to_owned).collect()
        };
        text.lines().take(lines).map(cells).collect()
    };
    let lines = theirs.stdout.lines().count();
    assert_eq!(columns(&ours_.stdout, lines), columns(&theirs.stdout, lines));
    let theirs = world.run_of(&original(), "status -json -config DIR/c.yml").json();
    let ours_ = world.run("status -local -json").json();
    for (our, their) in ours_.as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
        for (name, value) in their.as_object().unwrap() {
            assert_eq!(&our[name], value, "{name}");
        }
    }
}

#[test]
fn a_live_view_needs_a_terminal() {
    let world = World::new(ours());
    let outcome = world.run("status -watch");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert!(outcome.stderr.starts_with("Error: -watch needs a terminal"), "{outcome:?}");
}
