//! `ltx` and `status`.

use crate::Sandbox;

#[test]
fn ltx_lists_the_replica() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let outcome = sandbox.run(&["ltx", "-level", "all", &url]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    let mut lines = outcome.stdout.lines();
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["level", "min_txid", "max_txid", "size", "created"]
    );
    assert!(lines.clone().count() > 0);
    for line in lines {
        let cells: Vec<&str> = line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        assert_eq!((cells[1].len(), cells[2].len()), (16, 16), "{line}");
        assert!(cells[4].ends_with('Z') && cells[4].len() == 20, "{line}");
    }
}

#[test]
fn ltx_in_json_has_the_known_keys() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let outcome = sandbox.run(&["ltx", "-json", "-level", "all", &url]);
    let rows: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let row = rows[0].as_object().unwrap();
    assert!(row["level"].is_u64() && row["size"].is_u64(), "{outcome:?}");
    assert!(row["min_txid"].is_string() && row["max_txid"].is_string() && row["timestamp"].is_string());
    let order: Vec<_> = ["level", "min_txid", "max_txid", "size", "timestamp"]
        .iter()
        .map(|key| outcome.stdout.find(&format!("\"{key}\"")).unwrap())
        .collect();
    assert!(order.is_sorted(), "{outcome:?}");
}

#[test]
fn a_replica_that_is_not_there_is_an_empty_list() {
    let sandbox = Sandbox::new();
    let url = format!("file://{}", sandbox.text("nothing"));
    assert_eq!(sandbox.run(&["ltx", &url]).stdout, "level  min_txid  max_txid  size  created\n");
    let outcome = sandbox.run(&["ltx", "-json", &url]);
    assert_eq!((outcome.stdout.as_str(), outcome.code), ("[]\n", 0));
}

#[test]
fn wal_is_ltx_with_a_warning() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let outcome = sandbox.run(&["wal", &url]);
    assert_eq!(outcome.stderr, "Warning: 'wal' command is deprecated, please use 'ltx' instead\n");
    assert_eq!(outcome.stdout, sandbox.run(&["ltx", &url]).stdout);
}

#[test]
fn configured_databases_are_found_by_any_spelling_of_their_path() {
    let sandbox = Sandbox::new();
    sandbox.replica();
    let config = sandbox.write("c.yml", "dbs: [{path: a.db, replica: {path: replica}}]");
    let absolute = sandbox.text("a.db");
    let sqlite_url = format!("sqlite://{absolute}");
    let expected = sandbox.run(&["ltx", "-config", &config, &absolute]).stdout;
    for path in ["a.db", "./a.db", "x/../a.db", &sqlite_url] {
        let outcome = sandbox.run(&["ltx", "-config", &config, path]);
        assert_eq!((outcome.stdout.as_str(), outcome.code), (expected.as_str(), 0), "{path} {outcome:?}");
    }
    for command in ["ltx", "restore", "status"] {
        let message = format!("Error: database not found in config: {}", sandbox.text("other.db"));
        let hint = format!("\"litestream databases -config {config}\" lists what it has.");
        sandbox.run(&[command, "-config", &config, "other.db"]).fails_with(&[&message, &hint]);
        let near = format!("Did you mean {absolute}?");
        let message = format!("Error: database not found in config: {}", sandbox.text("b.db"));
        sandbox.run(&[command, "-config", &config, "b.db"]).fails_with(&[&message, &near]);
    }
}

#[test]
fn status_shows_local_state_in_upstreams_fields() {
    let sandbox = Sandbox::new();
    sandbox.replica();
    sandbox.database("fresh.db", 1);
    sandbox.database("broken.db", 1);
    std::fs::create_dir_all(sandbox.path(".broken.db-litestream/ltx")).unwrap();
    std::fs::write(sandbox.path(".broken.db-litestream/ltx/0"), "a file where a directory belongs").unwrap();
    let config = sandbox.write(
        "c.yml",
        "dbs: [{path: a.db, replica: {path: gone}}, {path: fresh.db}, {path: broken.db}, {path: missing.db}]",
    );
    let outcome = sandbox.run(&["status", "-local", "-json", "-config", &config]);
    assert_eq!(outcome.code, 1, "local state that cannot be read is an error");
    let rows: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let field = |row: usize, key: &str| rows[row][key].as_str().unwrap().to_owned();
    assert_eq!(field(0, "status"), "ok");
    assert_eq!(field(0, "local_txid").len(), 16);
    assert_eq!((field(1, "status"), field(1, "local_txid")), ("not initialized".to_owned(), "-".to_owned()));
    assert_eq!((field(2, "status"), field(2, "local_txid")), ("error".to_owned(), "-".to_owned()));
    assert_eq!((field(3, "status"), field(3, "wal_size")), ("no database".to_owned(), "-".to_owned()));
    assert!(field(0, "wal_size").ends_with('B'));
    let one = sandbox.run(&["status", "-config", &config, "missing.db"]);
    let path = sandbox.text("missing.db");
    assert!(one.stdout.contains(&format!("\n{path}  no database  -           -         -")), "{one:?}");
    assert!(one.stdout.contains(&format!("\n{path}: database file not found\n")), "{one:?}");
    assert_eq!(one.code, 2, "not backed up");
    let all = sandbox.run(&["status", "-config", &config, ""]).stdout;
    let rows = all.lines().take_while(|line| !line.contains(": ")).count();
    assert_eq!(rows, 5, "no path is every path: {all}");
}

/// What the daemon found to be wrong with a replica stands behind the table until
/// it is healed.
#[test]
fn status_shows_what_is_wrong_with_a_replica() {
    let sandbox = Sandbox::new();
    sandbox.replica();
    let config = sandbox.write("c.yml", "dbs: [{path: a.db, replica: {path: gone}}]");
    let healthy = sandbox.run(&["status", "-config", &config]).stdout;
    std::fs::write(sandbox.path(".a.db-litestream/replica-problem"), "since 2026: the replica is empty\n").unwrap();
    let outcome = sandbox.run(&["status", "-config", &config]);
    let line = format!("{}: replica is being healed: since 2026: the replica is empty\n", sandbox.text("a.db"));
    assert!(outcome.stdout.contains(&line) && !healthy.contains(&line), "{outcome:?}");
    let outcome = sandbox.run(&["status", "-json", "-config", &config]);
    let rows: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(rows[0]["replica_problem"], "since 2026: the replica is empty");
}
