//! `points`: what can be restored, and what cannot.

use crate::{Sandbox, tree};

/// Five minutes of a transaction a second: the last minute at level 0, before it
/// steps of ten seconds.
fn minutes(sandbox: &Sandbox) -> String {
    tree::put(sandbox, "r", 9, 1, 60, 60_000);
    for n in 6..30 {
        tree::put(sandbox, "r", 1, n * 10 + 1, n * 10 + 10, (n * 10 + 10) * 1000);
    }
    for n in 241..=300 {
        tree::put(sandbox, "r", 0, n, n, n * 1000);
    }
    format!("file://{}", sandbox.text("r"))
}

fn json(sandbox: &Sandbox, arguments: &[&str]) -> serde_json::Value {
    let outcome = sandbox.run(arguments);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn the_window_is_said_in_words() {
    let sandbox = Sandbox::new();
    let url = minutes(&sandbox);
    let outcome = sandbox.run(&["points", &url]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], format!("{url} can be restored to 79 points (85 files, 17 kB)."));
    assert!(lines[3].starts_with("oldest  000000000000003c  2026-11-22T09:51:00.000Z  "), "{outcome:?}");
    assert!(lines[4].starts_with("newest  000000000000012c  2026-11-22T09:55:00.000Z  "), "{outcome:?}");
    assert_eq!(lines.last(), Some(&"No holes: the newest state can be restored."));
    assert!(lines.iter().all(|line| line.trim_end() == *line), "{outcome:?}");
}

#[test]
fn points_are_listed_as_asked() {
    let sandbox = Sandbox::new();
    let url = minutes(&sandbox);
    let outcome = sandbox.run(&["points", "-limit", "2", &url]);
    assert!(
        outcome.stdout.ends_with(
            "\n\ntxid              timestamp                 level\n\
             000000000000012b  2026-11-22T09:54:59.000Z  0\n\
             000000000000012c  2026-11-22T09:55:00.000Z  0\n"
        ),
        "{outcome:?}"
    );
    let window = json(&sandbox, &["points", "-json", "-all", &url]);
    assert_eq!(window["points"].as_array().unwrap().len(), 79);
    assert_eq!(window["point_count"], 79);
    assert_eq!(window["points"][1]["txid"], "0000000000000046");
    assert_eq!(window["points"][1]["level"], 1);
    assert_eq!(window["oldest"]["txid"], "000000000000003c");
    assert_eq!(window["last_txid"], "000000000000012c");
    assert_eq!(window["exact_times"], true);
    assert_eq!(window["holes"].as_array().unwrap().len(), 0);
    let counted: u64 = window["ages"].as_array().unwrap().iter().map(|age| age["points"].as_u64().unwrap()).sum();
    assert_eq!(counted, 79);
    assert_eq!(json(&sandbox, &["points", "-json", &url]).get("points"), None);
}

/// Each point that is listed plans, and nothing else does.
#[test]
fn what_is_listed_is_what_a_restore_accepts() {
    let sandbox = Sandbox::new();
    let url = minutes(&sandbox);
    let window = json(&sandbox, &["points", "-json", "-all", &url]);
    let points: Vec<&str> = window["points"].as_array().unwrap().iter().map(|p| p["txid"].as_str().unwrap()).collect();
    for txid in [1, 59, 60, 61, 70, 71, 239, 240, 241, 299, 300, 301] {
        let txid = format!("{txid:016x}");
        let outcome = sandbox.run(&["restore", "-dry-run", "-txid", &txid, "-o", "x", &url]);
        assert_eq!(outcome.code == 0, points.contains(&txid.as_str()), "{txid} {outcome:?}");
    }
}

#[test]
fn a_target_is_answered_without_restoring() {
    let sandbox = Sandbox::new();
    let url = minutes(&sandbox);
    let moment = tree::moment(205_000);
    let outcome = sandbox.run(&["points", "-timestamp", &moment, &url]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    assert_eq!(
        outcome.stdout,
        "restore -timestamp 2026-11-22T09:53:25Z gives\n  \
         transaction  00000000000000c8 of 2026-11-22T09:53:20.000Z\n  \
         next point   00000000000000d2 of 2026-11-22T09:53:30.000Z\n  \
         to fetch     15 files, 3.0 kB\n"
    );
    let answer = json(&sandbox, &["points", "-json", "-txid", "c8", &url]);
    assert_eq!(answer["txid"], "00000000000000c8");
    assert_eq!(answer["next"]["txid"], "00000000000000d2");
    assert_eq!(answer["files"], 15);
    assert!(json(&sandbox, &["points", "-json", "-txid", "12c", &url])["next"].is_null());
}

#[test]
fn a_transaction_inside_a_compacted_file_names_the_file_and_its_neighbours() {
    let sandbox = Sandbox::new();
    let url = minutes(&sandbox);
    let expected = [
        "Error: no matching backup files available",
        "Transaction 00000000000000c9 lies inside 1/00000000000000c9-00000000000000d2.ltx, which holds its transactions as one step.",
        "Nearest before it: 00000000000000c8 (2026-11-22T09:53:20Z)",
        "Nearest after it: 00000000000000d2 (2026-11-22T09:53:30Z)",
        &format!("All restorable points: litestream points {url}"),
    ];
    sandbox.run(&["points", "-txid", "c9", &url]).fails_with(&expected);
    sandbox.run(&["restore", "-dry-run", "-txid", "c9", "-o", "x", &url]).fails_with(&expected);
}

/// The two forms of naming a replica say the same about a time out of range.
#[test]
fn a_time_before_all_backups_says_what_exists_in_both_forms() {
    let sandbox = Sandbox::new();
    let url = minutes(&sandbox);
    let config = sandbox.write("c.yml", "dbs: [{path: a.db, replica: {path: r}}]");
    let covers = "The replica covers 2026-11-22T09:51:00.000Z to 2026-11-22T09:55:00.000Z.";
    for command in [&["points"][..], &["restore", "-dry-run", "-o", "x"], &["restore", "-o", "x"]] {
        let by_url = [command, &["-timestamp", "2020-01-01T00:00:00Z", &url]].concat();
        let by_path = [command, &["-timestamp", "2020-01-01T00:00:00Z", "-config", &config, "a.db"]].concat();
        sandbox.run(&by_url).fails_with(&[
            "Error: timestamp does not exist",
            covers,
            &format!("All restorable points: litestream points {url}"),
        ]);
        sandbox.run(&by_path).fails_with(&[
            "Error: no matching backup files available",
            "The timestamp does not exist.",
            covers,
            "All restorable points: litestream points a.db",
        ]);
    }
}

#[test]
fn an_open_hole_is_shouted_and_a_bridged_one_explained() {
    let sandbox = Sandbox::new();
    for n in [1, 2, 3, 6, 7] {
        tree::put(&sandbox, "r", 0, n, n, n * 1000);
    }
    let url = format!("file://{}", sandbox.text("r"));
    let outcome = sandbox.run(&["points", &url]);
    assert!(
        outcome.stdout.ends_with(
            "OPEN HOLE: transactions 0000000000000004 to 0000000000000005 are missing, and no snapshot bridges it.\n  \
             last restorable point   0000000000000003 of 2026-11-22T09:50:03.000Z\n  \
             Nothing after it can be restored; \"restore\" fails without -txid 0000000000000003\n  \
             (or an earlier point). A new snapshot closes the hole for what comes after it.\n"
        ),
        "{outcome:?}"
    );
    let missing = [
        "Transactions 0000000000000004 to 0000000000000005 are missing, and no snapshot bridges them.",
        "Before them, -txid 0000000000000003 restores 0000000000000003 (2026-11-22T09:50:03Z).",
        &format!("All restorable points: litestream points {url}"),
    ];
    let outcome = sandbox.run(&["restore", "-o", "x", &url]);
    let stderr: Vec<&str> = outcome.stderr.lines().collect();
    assert!(
        stderr[0].starts_with("Error: cannot calc restore plan: non-contiguous ltx files: have up to "),
        "{outcome:?}"
    );
    assert_eq!(stderr[1..], missing);
    let window = json(&sandbox, &["points", "-json", &url]);
    assert_eq!(window["holes"][0]["before"]["txid"], "0000000000000003");
    assert!(window["holes"][0]["covered_by"].is_null() && window["holes"][0]["after"].is_null());

    tree::put(&sandbox, "r", 9, 1, 6, 6500);
    let outcome = sandbox.run(&["points", &url]);
    assert!(
        outcome.stdout.ends_with(
            "Hole: transactions 0000000000000004 to 0000000000000005 are missing. \
             Snapshot 9/0000000000000001-0000000000000006.ltx bridges it:\n  \
             restorable up to        0000000000000003 of 2026-11-22T09:50:03.000Z\n  \
             restorable again from   0000000000000006 of 2026-11-22T09:50:06.500Z\n"
        ),
        "{outcome:?}"
    );
    assert_eq!(sandbox.run(&["restore", "-dry-run", "-o", "x", &url]).code, 0);
}

/// The layout of a later upstream: an image goes to level 9 alone.
#[test]
fn a_transaction_that_only_a_snapshot_has_is_no_loss() {
    let sandbox = Sandbox::new();
    for n in [1, 2, 4, 5] {
        tree::put(&sandbox, "r", 0, n, n, n * 1000);
    }
    tree::put(&sandbox, "r", 9, 1, 3, 3000);
    let url = format!("file://{}", sandbox.text("r"));
    let outcome = sandbox.run(&["points", &url]);
    assert!(outcome.stdout.contains(" can be restored to 5 points "), "{outcome:?}");
    assert!(
        outcome.stdout.ends_with(
            "Hole without loss: transaction 0000000000000003 is missing at level 0, \
             snapshot 9/0000000000000001-0000000000000003.ltx has it.\n"
        ),
        "{outcome:?}"
    );
}

#[test]
fn nothing_to_restore_is_an_error() {
    let sandbox = Sandbox::new();
    let url = format!("file://{}", sandbox.text("r"));
    for arguments in [&["points", &url][..], &["points", "-json", &url]] {
        sandbox.run(arguments).fails_with(&["Error: no backups found"]);
    }
    tree::put(&sandbox, "r", 0, 2, 2, 2000);
    sandbox.run(&["points", &url]).fails_with(&[
        "Error: no matching backup files available",
        "Transactions 0000000000000001 to 0000000000000001 are missing, and no snapshot bridges them.",
        "Nothing before them can be restored.",
    ]);
}

#[test]
fn bad_input_is_refused_with_a_reason() {
    let sandbox = Sandbox::new();
    let cases: [(&[&str], &str); 6] = [
        (&["points", "a", "b"], "Error: too many arguments"),
        (&["points", "-limit", "0", "file:///r"], "Error: -limit must be greater than 0"),
        (&["points", "-all", "-limit", "3", "file:///r"], "Error: cannot specify -all and -limit"),
        (&["points", "-all", "-txid", "3", "file:///r"], "Error: cannot list points with -txid or -timestamp"),
        (
            &["points", "-timestamp", "2020-01-01T00:00:00Z", "-txid", "3", "file:///r"],
            "Error: cannot specify index & timestamp to restore",
        ),
        (&["points", "-config", "c.yml", "file:///r"], "Error: cannot specify a replica URL and the -config flag"),
    ];
    for (arguments, message) in cases {
        sandbox.run(arguments).fails_with(&[message]);
    }
    sandbox
        .run(&["points"])
        .fails_with(&["Error: database path or replica URL required", "Try: litestream points /path/to/db"]);
}
