//! `restore`, from command line to file.

use litestream_testkit::image::Image;

use crate::{Sandbox, row_count};

#[test]
fn a_restore_is_silent_on_standard_output() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let outcome = sandbox.run(&["restore", "-o", "deep/er/out.db", &url]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "one line at the start and one at the end: {outcome:?}");
    assert!(lines[0].starts_with(&format!("restoring from {url}: ")), "{outcome:?}");
    assert!(lines[1].starts_with("restored deep/er/out.db at transaction 000000000000"), "{outcome:?}");
    assert_eq!(row_count(&sandbox.path("deep/er/out.db")), 100);
}

#[test]
fn a_restored_database_has_the_bytes_of_the_original() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let original = litestream_testkit::image::read_image(&sandbox.path("a.db")).unwrap();
    assert_eq!(sandbox.run(&["restore", "-o", "out.db", &url]).code, 0);
    original.assert_same(&Image::of_closed_file(&sandbox.path("out.db")).unwrap(), "restored database");
}

#[test]
fn json_is_all_there_is_on_standard_output() {
    let sandbox = Sandbox::new();
    sandbox.replica();
    let config = sandbox.write("c.yml", "dbs: [{path: a.db, unknown: 1, replica: {path: replica}}]");
    let arguments = ["restore", "-json", "-integrity-check", "full", "-config", &config, "-o", "out.db", "a.db"];
    let outcome = sandbox.run(&arguments);
    let summary: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(summary["db_path"], "out.db");
    assert_eq!(summary["replica"], "file");
    assert_eq!(summary["txid"].as_str().unwrap().len(), 16);
    assert_eq!(summary["integrity_check"], "full");
    assert!(summary["duration_ms"].is_u64());
    assert!(outcome.stderr.contains("msg=\"post-restore integrity check passed\""), "{outcome:?}");
    assert!(outcome.stderr.contains("unknown key"), "{outcome:?}");
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let text = sandbox.run(&["restore", "-dry-run", "-o", "out.db", &url]);
    assert_eq!((text.code, text.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert_eq!(lines[..4], ["Restore plan:", &format!("  source: {url}"), "  target: out.db", "  replica: file"]);
    assert!(lines[4].starts_with("  txid range: 0000000000000001 - "), "{text:?}");
    assert_eq!(lines[5..7], ["", "Files to fetch:"]);
    assert!(
        lines[7].starts_with("level  file                                   min_txid          max_txid"),
        "{text:?}"
    );

    let json = sandbox.run(&["restore", "-dry-run", "-json", "-o", "out.db", &url]);
    let plan: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((plan["source"].as_str(), plan["target_path"].as_str()), (Some(url.as_str()), Some("out.db")));
    assert_eq!(plan["files"].as_array().unwrap().len(), lines.len() - 8);
    assert!(plan["files"][0]["name"].as_str().unwrap().ends_with(".ltx"));
    assert!(!sandbox.path("out.db").exists());
}

#[test]
fn existing_output_is_kept_unless_forced() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    sandbox.write("o1.db", "precious");
    sandbox.run(&["restore", "-o", "o1.db", &url]).fails_with(&[
        "Error: cannot restore, output path already exists and is not empty: o1.db. Use -force to overwrite",
    ]);
    sandbox.write("o2.db-wal", "stale");
    sandbox
        .run(&["restore", "-o", "o2.db", &url])
        .fails_with(&["Error: cannot restore, SQLite sidecar path already exists: o2.db-wal. Use -force to overwrite"]);
    std::fs::create_dir(sandbox.path("dir")).unwrap();
    for arguments in [&["restore", "-o", "dir", &url][..], &["restore", "-force", "-o", "dir", &url]] {
        sandbox.run(arguments).fails_with(&["Error: cannot restore, output path is a directory: dir"]);
    }
    assert_eq!(sandbox.run(&["restore", "-force", "-o", "o1.db", &url]).code, 0);
    assert_eq!(row_count(&sandbox.path("o1.db")), 100);
}

/// The original unlinked the old database before it knew that a restore was
/// possible, and left its users with none.
#[test]
fn a_forced_restore_that_fails_leaves_the_old_database() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let nothing = format!("file://{}", sandbox.text("nothing"));
    sandbox.write("out.db", "precious");
    for arguments in [
        &["restore", "-force", "-o", "out.db", &nothing][..],
        &["restore", "-force", "-txid", "ffff", "-o", "out.db", &url],
        &["restore", "-force", "-if-replica-exists", "-o", "out.db", &nothing],
    ] {
        sandbox.run(arguments);
        assert_eq!(std::fs::read_to_string(sandbox.path("out.db")).unwrap(), "precious", "{arguments:?}");
    }
    assert!(!sandbox.path("out.db.tmp").exists());
}

#[test]
fn a_replica_without_backups_is_an_error_or_not_as_asked() {
    let sandbox = Sandbox::new();
    let url = format!("file://{}", sandbox.text("nothing"));
    let hint = format!("There is no backup at all at {url}; is the address right?");
    sandbox.run(&["restore", "-o", "out.db", &url]).fails_with(&["Error: no matching backup files available", &hint]);
    let outcome = sandbox.run(&["restore", "-if-replica-exists", "-o", "out.db", &url]);
    assert_eq!(outcome.code, 0);
    assert!(outcome.stdout.ends_with("level=INFO msg=\"no matching backups found\"\n"), "{outcome:?}");
    sandbox
        .run(&["restore", "-timestamp", "2020-01-01T00:00:00Z", "-o", "out.db", &url])
        .fails_with(&["Error: no backups found"]);
}

#[test]
fn an_existing_database_is_skipped_when_asked() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    sandbox.write("out.db", "");
    let outcome = sandbox.run(&["restore", "-if-db-not-exists", "-o", "out.db", &url]);
    assert_eq!(outcome.code, 0);
    assert!(outcome.stdout.ends_with("level=INFO msg=\"database already exists, skipping\"\n"), "{outcome:?}");
    let outcome = sandbox.run(&["restore", "-json", "-if-db-not-exists", "-o", "out.db", &url]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "no JSON for what did not happen");
}

#[test]
fn a_transaction_out_of_reach_names_its_neighbours() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    for arguments in
        [&["restore", "-txid", "ffff", "-o", "x", &url][..], &["restore", "-dry-run", "-txid", "ffff", "-o", "x", &url]]
    {
        let outcome = sandbox.run(arguments);
        assert_eq!(outcome.code, 1);
        assert!(
            outcome.stderr.contains(
                "Error: no matching backup files available\nThe replica ends at transaction 0000000000000002.\n\
                 Nearest before it: 0000000000000002 (20"
            ),
            "{outcome:?}"
        );
    }
}

#[test]
fn short_transaction_ids_are_read_as_hex_and_said_back() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let outcome = sandbox.run(&["restore", "-txid", "1", "-o", "out.db", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.starts_with("restoring up to transaction 0000000000000001\n"), "{outcome:?}");
}

#[test]
fn times_before_the_replica_fail_and_times_after_it_mean_the_newest() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let outcome = sandbox.run(&["restore", "-timestamp", "2000-01-01T00:00:00+02:00", "-o", "out.db", &url]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.ends_with("\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("Error: timestamp does not exist\nThe replica covers 20"), "{outcome:?}");
    let arguments = ["restore", "-if-replica-exists", "-timestamp", "2000-01-01T00:00:00Z", "-o", "out.db", &url];
    assert_eq!(sandbox.run(&arguments).code, 1, "there is a replica, only not of that time");
    let outcome = sandbox.run(&["restore", "-dry-run", "-timestamp", "2000-01-01T00:00:00Z", "-o", "out.db", &url]);
    assert!(outcome.stderr.starts_with("Error: timestamp does not exist\nThe replica covers 20"), "{outcome:?}");

    let config = sandbox.write("c.yml", "dbs: [{path: a.db, replica: {path: replica}}]");
    let outcome =
        sandbox.run(&["restore", "-timestamp", "2000-01-01T00:00:00Z", "-config", &config, "-o", "x", "a.db"]);
    assert!(outcome.stderr.starts_with("Error: no matching backup files available\n"), "{outcome:?}");

    let outcome = sandbox.run(&["restore", "-timestamp", "2999-01-01T00:00:00.5Z", "-o", "out.db", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.starts_with("-timestamp is after the newest backup of "), "{outcome:?}");
    assert_eq!(row_count(&sandbox.path("out.db")), 100);
}

#[test]
fn damage_fails_the_restore_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    let snapshot = std::fs::read_dir(sandbox.path("replica/ltx/9")).unwrap().next().unwrap().unwrap().path();
    litestream_testkit::scenario::flip_bit(&snapshot, 300).unwrap();
    let outcome = sandbox.run(&["restore", "-o", "out.db", &url]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(!sandbox.path("out.db").exists() && !sandbox.path("out.db.tmp").exists());
}

#[test]
fn odd_parallelism_is_accepted() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    for count in ["0", "-5", "0x10", "1"] {
        let outcome = sandbox.run(&["restore", "-force", "-parallelism", count, "-o", "out.db", &url]);
        assert_eq!(outcome.code, 0, "{count} {outcome:?}");
    }
}

#[test]
fn moments_are_understood_as_people_type_them() {
    let sandbox = Sandbox::new().with("TZ", "XYZ-3");
    let url = sandbox.replica();
    for text in ["now", "tomorrow", "1 hour ago"] {
        let outcome = sandbox.run(&["restore", "-force", "-timestamp", text, "-o", "out.db", &url]);
        match text {
            "now" => assert_eq!(outcome.code, 0, "{outcome:?}"),
            "tomorrow" => assert!(outcome.stderr.starts_with("Error: invalid -timestamp"), "{outcome:?}"),
            _ => {
                let range = "Error: timestamp does not exist\nThe replica covers 20";
                assert!(outcome.stderr.contains(range), "what can be had is shown: {outcome:?}");
            }
        }
        let is_said_back = outcome.stderr.contains(&format!("-timestamp {text} means 20"));
        assert_eq!(is_said_back, text != "tomorrow", "{outcome:?}");
    }
    let outcome = sandbox.run(&["restore", "-timestamp", "2000-01-01 02:30", "-o", "out.db", &url]);
    let said = "-timestamp 2000-01-01 02:30 means 1999-12-31T23:30:00.000Z\n";
    assert!(outcome.stderr.starts_with(said), "a time without zone is local: {outcome:?}");
}
