//! `restore -all`: many databases at once.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use litestream_testkit::s3_server::{Kind, fresh_bucket};
use serde_json::{Value, json};

use crate::{Outcome, Sandbox, row_count};

/// Two single databases and a directory of two, all replicated.
fn site() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("tenants/acme")).unwrap();
    sandbox.database("a.db", 11);
    sandbox.database("b.db", 22);
    sandbox.database("tenants/t.db", 33);
    sandbox.database("tenants/acme/t.db", 44);
    sandbox.write(
        "c.yml",
        "dbs:
  - {path: a.db, replica: {path: backups/a}}
  - {path: b.db, replica: {path: backups/tenants/b}}
  - {dir: tenants, pattern: '*.db', recursive: true, replica: {path: backups/tenants}}
",
    );
    let outcome = sandbox.run(&["replicate", "-once", "-config", "c.yml"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    sandbox
}

/// Everything but configuration and backups is gone.
fn lose(sandbox: &Sandbox) {
    std::fs::remove_dir_all(sandbox.path("tenants")).unwrap();
    for name in ["a.db", "b.db"] {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(sandbox.path(&format!("{name}{suffix}")));
        }
        std::fs::remove_dir_all(sandbox.path(&format!(".{name}-litestream"))).unwrap();
    }
}

fn rows(sandbox: &Sandbox, dir: &str, expected: &[(&str, u32)]) {
    for (name, count) in expected {
        assert_eq!(row_count(&sandbox.path(dir).join(name)), *count, "{name}");
    }
}

const ALL: [(&str, u32); 4] = [("a.db", 11), ("b.db", 22), ("tenants/t.db", 33), ("tenants/acme/t.db", 44)];

fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

/// The databases of a directory exist only in the store, and come back.
#[test]
fn every_database_of_the_configuration_comes_back() {
    let sandbox = site();
    lose(&sandbox);
    let outcome = sandbox.run(&["restore", "-all", "-config", "c.yml"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().filter(|line| line.starts_with("restored /")).count(), 4, "{outcome:?}");
    assert!(outcome.stderr.contains("\nrestored 4 of 4 databases, 0 skipped, 0 failed, in "), "{outcome:?}");
    rows(&sandbox, "", &ALL);
}

#[test]
fn what_exists_is_skipped_when_asked_and_kept_otherwise() {
    let sandbox = site();
    std::fs::remove_dir_all(sandbox.path("tenants/acme")).unwrap();
    let outcome = sandbox.run(&["restore", "-all", "-json", "-if-db-not-exists", "-config", "c.yml"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let report = report(&outcome);
    assert_eq!((&report["restored"], &report["skipped"], &report["failed"]), (&json!(1), &json!(3), &json!(0)));
    rows(&sandbox, "", &ALL);
    let outcome = sandbox.run(&["restore", "-all", "-config", "c.yml"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("\nError: 4 of 4 databases could not be restored\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("output path already exists and is not empty"), "{outcome:?}");
}

#[test]
fn one_that_fails_does_not_stop_the_others() {
    let sandbox = site();
    lose(&sandbox);
    std::fs::remove_dir_all(sandbox.path("backups/a")).unwrap();
    let snapshots = sandbox.path("backups/tenants/acme/t.db/ltx/9");
    let snapshot = std::fs::read_dir(snapshots).unwrap().next().unwrap().unwrap().path();
    litestream_testkit::scenario::flip_bit(&snapshot, 300).unwrap();
    let outcome = sandbox.run(&["restore", "-all", "-json", "-config", "c.yml"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let report = report(&outcome);
    assert_eq!((&report["restored"], &report["failed"]), (&json!(2), &json!(2)));
    let of = |index: usize, key: &str| report["databases"][index][key].clone();
    assert_eq!(of(0, "db_path"), sandbox.text("a.db"));
    assert_eq!((of(0, "status"), of(0, "message")), (json!("failed"), json!("no matching backup files available")));
    assert_eq!((of(1, "status"), of(1, "message"), of(1, "replica")), (json!("restored"), json!(""), json!("file")));
    assert_eq!(of(1, "txid").as_str().unwrap().len(), 16);
    assert!(outcome.stderr.contains("Error: 2 of 4 databases could not be restored\n  /"), "{outcome:?}");
    rows(&sandbox, "", &[("b.db", 22), ("tenants/t.db", 33)]);
    assert!(!sandbox.path("a.db").exists() && !sandbox.path("tenants/acme").exists(), "nothing is left of a failure");

    let outcome = sandbox.run(&["restore", "-all", "-force", "-if-replica-exists", "-config", "c.yml"]);
    assert!(outcome.stderr.contains("\nrestored 2 of 4 databases, 1 skipped, 1 failed"), "{outcome:?}");
}

#[test]
fn a_target_directory_keeps_databases_apart() {
    let sandbox = site();
    let outcome = sandbox.run(&["restore", "-all", "-config", "c.yml", "-o", "copy"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    rows(&sandbox, &format!("copy{}", sandbox.path("").display()), &ALL);
    let outcome = sandbox.run(&["restore", "-all", "-config", "c.yml", "-o", "part", "tenants"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    rows(&sandbox, "part", &[("t.db", 33), ("acme/t.db", 44)]);
    assert!(outcome.stderr.contains("restored 2 of 2 databases"), "only those below the directory: {outcome:?}");
    let outcome = sandbox.run(&["restore", "-all", "-config", "c.yml", "-o", "deep", "tenants/acme"]);
    rows(&sandbox, "deep", &[("t.db", 44)]);
    assert_eq!(outcome.code, 0);
}

#[test]
fn every_database_below_a_url_is_found() {
    let sandbox = site();
    let url = format!("file://{}", sandbox.text("backups"));
    let outcome = sandbox.run(&["restore", "-all", "-o", "copy", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    rows(&sandbox, "copy", &[("a", 11), ("tenants/b", 22), ("tenants/t.db", 33), ("tenants/acme/t.db", 44)]);
    let one = sandbox.run(&["restore", "-all", "-o", "one", &format!("{url}/a")]);
    assert_eq!(one.code, 0, "a URL may name one replica itself: {one:?}");
    rows(&sandbox, "one", &[("a", 11)]);
    let nothing = format!("{url}/nothing");
    sandbox
        .run(&["restore", "-all", "-o", "x", &nothing])
        .fails_with(&[&format!("Error: no backups found below {nothing}")]);
    assert_eq!(sandbox.run(&["restore", "-all", "-if-replica-exists", "-o", "x", &nothing]).code, 0);
}

#[test]
fn a_bucket_is_searched_below_a_prefix() {
    let bucket = fresh_bucket(Kind::SeaweedFs).unwrap();
    let sandbox =
        Sandbox::new().with("AWS_ACCESS_KEY_ID", &bucket.access_key).with("AWS_SECRET_ACCESS_KEY", &bucket.secret_key);
    std::fs::create_dir_all(sandbox.path("tenants/acme")).unwrap();
    sandbox.database("tenants/t.db", 3);
    sandbox.database("tenants/acme/t.db", 4);
    let url = format!("s3://{}/all/tenants?endpoint={}&region={}", bucket.bucket, bucket.endpoint, bucket.region);
    sandbox.write(
        "c.yml",
        &format!("dbs: [{{dir: tenants, pattern: '*.db', recursive: true, replica: {{url: '{url}'}}}}]"),
    );
    let outcome = sandbox.run(&["replicate", "-once", "-config", "c.yml"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let prefix = url.replace("all/tenants", "all");
    let outcome = sandbox.run(&["restore", "-all", "-o", "copy", &prefix]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    rows(&sandbox, "copy/tenants", &[("t.db", 3), ("acme/t.db", 4)]);
    std::fs::remove_dir_all(sandbox.path("tenants")).unwrap();
    let outcome = sandbox.run(&["restore", "-all", "-config", "c.yml"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    rows(&sandbox, "tenants", &[("t.db", 3), ("acme/t.db", 4)]);
}

#[test]
fn a_dry_run_lists_what_would_be_restored() {
    let sandbox = site();
    lose(&sandbox);
    let outcome = sandbox.run(&["restore", "-all", "-dry-run", "-config", "c.yml"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines.len() == 5 && lines[0].starts_with("database "), "{outcome:?}");
    assert!(lines[1].contains("a.db  ") && lines[1].contains("  planned  0000"), "{outcome:?}");
    assert!(!sandbox.path("a.db").exists() && !sandbox.path("tenants").exists());
}

#[test]
fn one_moment_applies_to_all() {
    let sandbox = site();
    let url = format!("file://{}", sandbox.text("backups"));
    let outcome = sandbox.run(&["restore", "-all", "-timestamp", "now", "-o", "copy", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let outcome = sandbox.run(&["restore", "-all", "-timestamp", "2000-01-01T00:00:00Z", "-o", "old", &url]);
    assert!(outcome.stderr.contains("Error: 4 of 4 databases could not be restored"), "{outcome:?}");
    assert!(outcome.stderr.contains("The replica covers 20"), "what can be had is shown: {outcome:?}");
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    let sandbox = site();
    sandbox.write("file", "x");
    for (arguments, message) in [
        (&["-txid", "1"][..], "cannot use -all with -txid"),
        (&["-f"], "cannot use -all with -f"),
        (&["-config", "c.yml", "-o", "file"], "cannot restore, output path is not a directory: file"),
        (&["-config", "c.yml", "-o", "x", "file:///r"], "cannot specify a replica URL and the -config flag"),
        (&["-config", "c.yml", "a", "b"], "too many arguments"),
        (&["-mode", "rw"], "invalid -mode, must be octal permissions of a file (e.g. 0640): rw"),
        (&["-owner", "no-such-user"], "invalid -owner, no such user: no-such-user"),
    ] {
        let message = format!("Error: {message}");
        let arguments: Vec<&str> = ["restore", "-all"].iter().chain(arguments).copied().collect();
        sandbox.run(&arguments).fails_with(&[&message]);
    }
    sandbox.run(&["restore", "-all", "file:///r"]).fails_with(&[
        "Error: -o is required when restoring from a replica URL",
        "Try: litestream restore -all -o /path/to/dir file:///r",
    ]);
    let elsewhere = sandbox.text("elsewhere");
    sandbox
        .run(&["restore", "-all", "-config", "c.yml", "elsewhere"])
        .fails_with(&[&format!("Error: no databases in config below {elsewhere}")]);
}

#[test]
fn the_mode_of_a_restored_database_can_be_chosen() {
    let sandbox = site();
    let url = format!("file://{}", sandbox.text("backups/a"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(sandbox.run(&["restore", "-mode", "0640", "-o", "one.db", &url]).code, 0);
    assert_eq!(mode(&sandbox.path("one.db")), 0o640);
    assert_eq!(sandbox.run(&["restore", "-force", "-o", "one.db", &url]).code, 0);
    assert_eq!(mode(&sandbox.path("one.db")), 0o640, "a replacement keeps the mode");
    assert_eq!(sandbox.run(&["restore", "-all", "-mode", "600", "-config", "c.yml", "-o", "copy", "tenants"]).code, 0);
    assert_eq!(mode(&sandbox.path("copy/acme/t.db")), 0o600);
}
