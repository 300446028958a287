//! Configuration files through the commands that read them.

use crate::Sandbox;

#[test]
fn databases_lists_entries_and_types() {
    let sandbox = Sandbox::new();
    let config = sandbox.write(
        "c.yml",
        "dbs:\n  - {path: /data/a.db, replica: {path: /r}}\n  - {path: /data/missing.db, replica: {url: 'file:///q'}}\n",
    );
    let outcome = sandbox.run(&["databases", "-config", &config]);
    assert_eq!(outcome.stdout, "path              replica\n/data/a.db        file\n/data/missing.db  file\n");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    let outcome = sandbox.run(&["databases", "-json", "-config", &config]);
    let rows: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(rows[1], serde_json::json!({"path": "/data/missing.db", "replica": "file"}));
    assert!(outcome.stdout.starts_with("[\n  {\n    \"path\": \"/data/a.db\",\n"), "{outcome:?}");
}

#[test]
fn an_empty_configuration_lists_nothing() {
    let sandbox = Sandbox::new();
    let config = sandbox.write("c.yml", "# nothing yet\n");
    assert_eq!(sandbox.run(&["databases", "-config", &config]).stdout, "path  replica\n");
    assert_eq!(sandbox.run(&["databases", "-json", "-config", &config]).stdout, "[]\n");
    let heading = sandbox.run(&["status", "-config", &config]).stdout;
    assert!(
        heading.starts_with("database  status  local txid  wal size  ") && heading.lines().count() == 1,
        "{heading}"
    );
    assert_eq!(sandbox.run(&["status", "-json", "-config", &config]).stdout, "[]\n");
}

#[test]
fn the_file_is_found_by_flag_then_variable() {
    let sandbox = Sandbox::new();
    let by_variable = sandbox.write("variable.yml", "dbs: [{path: /variable.db, replica: {path: /r}}]");
    let by_flag = sandbox.write("flag.yml", "dbs: [{path: /flag.db, replica: {path: /r}}]");
    let sandbox = sandbox.with("LITESTREAM_CONFIG", by_variable);
    assert!(sandbox.run(&["databases"]).stdout.contains("/variable.db"));
    assert!(sandbox.run(&["databases", "-config", &by_flag]).stdout.contains("/flag.db"));
    assert!(sandbox.run(&["databases", "-config=./flag.yml"]).stdout.contains("/flag.db"));
}

#[test]
fn variables_are_expanded_unless_told_otherwise() {
    let sandbox = Sandbox::new().with("DB", "/from/env.db");
    let config = sandbox.write("c.yml", "dbs: [{path: $DB, replica: {path: /r}}]");
    assert!(sandbox.run(&["databases", "-config", &config]).stdout.contains("/from/env.db  file\n"));
    let outcome = sandbox.run(&["databases", "-no-expand-env", "-config", &config]);
    assert!(outcome.stdout.contains("/$DB  file\n"), "{outcome:?}");
}

#[test]
fn doubtful_settings_are_warned_about_with_their_line() {
    let sandbox = Sandbox::new();
    let config = sandbox.write(
        "c.yml",
        "dbs:\n  - path: /a.db\n    monitor-intreval: 1s\n    checkpoint-interval: 60\n    replica: {path: /r$NOPE}\n",
    );
    let outcome = sandbox.run(&["databases", "-config", &config]);
    assert_eq!(outcome.code, 0);
    let warnings: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(warnings.len(), 3, "{outcome:?}");
    assert!(warnings[0].contains("did you mean \\\"monitor-interval\\\"?"), "{outcome:?}");
    assert!(warnings[0].ends_with(&format!("file={config}:3")), "{outcome:?}");
    assert!(warnings[1].contains("means nanoseconds") && warnings[1].ends_with(":4"), "{outcome:?}");
    assert!(warnings[2].contains("NOPE is not set") && warnings[2].ends_with(":5"), "{outcome:?}");
}

/// L34: the original said nothing about settings of 0.3, and deleted by other rules
/// than the file seemed to set.
#[test]
fn retention_settings_of_0_3_are_warned_about() {
    let sandbox = Sandbox::new();
    let config = sandbox.write(
        "c.yml",
        "dbs:\n  - path: /a.db\n    replicas:\n      - path: /r\n        retention: 72h\n        snapshot-interval: 4h\n",
    );
    let outcome = sandbox.run(&["databases", "-config", &config]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for (key, line) in [("retention", 5), ("snapshot-interval", 6)] {
        let is_about = |text: &str| {
            text.contains(&format!("unknown key \\\"{key}\\\" in dbs[0].replicas[0] is ignored"))
                && text.ends_with(&format!("file={config}:{line}"))
        };
        assert!(outcome.stderr.lines().any(is_about), "{key}: {outcome:?}");
    }
}

#[test]
fn mistakes_in_a_replica_name_the_database() {
    let sandbox = Sandbox::new();
    for (replica, message) in [
        ("", "must specify replica for database"),
        ("replica: {type: file}", "file replica path required"),
        ("replica: {type: gcp, path: x}", "unknown replica type in config: \"gcp\""),
        ("replica: {url: 'http://x/y'}", "unknown replica type in config: \"http\""),
        ("replica: {url: 'mybucket/path'}", "replica url scheme required: mybucket/path"),
        ("replica: {url: 'file:///r', path: /r}", "cannot specify url & path for file replica"),
        ("replica: {path: 's3://b/p'}", "replica path cannot be a url, please use the 'url' field instead: s3://b/p"),
        (
            "replica: {path: /r, age: {recipients: [x]}}",
            "age encryption is not currently supported, if you need encryption please revert back to Litestream v0.3.x",
        ),
        ("replicas: [{path: /r}, {path: /q}]", "multiple replicas on a single database are no longer supported"),
        ("replica: {path: /r}\n    replicas: [{path: /q}]", "cannot specify 'replica' and 'replicas' on a database"),
    ] {
        let config = sandbox.write("c.yml", &format!("dbs:\n  - path: /data/a.db\n    {replica}\n"));
        let message = format!("Error: {message} (/data/a.db, line 2)");
        sandbox.run(&["databases", "-config", &config]).fails_with(&[&message]);
    }
}

#[test]
fn sftp_settings_that_are_missing_or_unreadable_are_named() {
    let sandbox = Sandbox::new();
    for (settings, message) in [
        ("type: sftp", "host required for sftp replica"),
        ("type: sftp, host: h", "user required for sftp replica"),
        ("url: 'sftp://h/x'", "user required for sftp replica"),
        ("url: 'sftp://u@h/x', host: h", "cannot specify url & host for sftp replica"),
        ("type: sftp, host: h, user: u, host-key: x", "cannot parse sftp host key: ssh: no key found"),
    ] {
        let config = sandbox.write("c.yml", &format!("dbs:\n  - path: /a.db\n    replica: {{{settings}}}\n"));
        let message = format!("Error: {message} (/a.db, line 2)");
        sandbox.run(&["databases", "-config", &config]).fails_with(&[&message]);
    }
}

#[test]
fn directories_are_listed_by_what_they_hold() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("tenants/acme")).unwrap();
    sandbox.database("tenants/b.db", 1);
    sandbox.database("tenants/acme/a.db", 1);
    let config = sandbox.write(
        "c.yml",
        "dbs: [{dir: tenants, pattern: '*.db', recursive: true, meta-dir: meta, replica: {path: replicas}}]",
    );
    let outcome = sandbox.run(&["status", "-json", "-config", &config]);
    let rows: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(rows[0]["database"], sandbox.text("tenants/acme/a.db"));
    assert_eq!(rows[1]["database"], sandbox.text("tenants/b.db"));

    let outcome = sandbox.run(&["replicate", "-once", "-config", &config]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains("msg=\"found databases in directory\" dir="), "{outcome:?}");
    for place in
        ["replicas/acme/a.db/ltx", "replicas/b.db/ltx", "meta/acme/a.db-litestream/ltx", "meta/b.db-litestream/ltx"]
    {
        assert!(sandbox.path(place).is_dir(), "{place}");
    }
    let outcome = sandbox.run(&["restore", "-config", &config, "-o", "copy.db", "tenants/acme/a.db"]);
    assert_eq!(outcome.code, 0, "a directory answers for its databases: {outcome:?}");
    assert_eq!(crate::row_count(&sandbox.path("copy.db")), 1);
}

#[test]
fn settings_without_effect_are_announced_once() {
    let sandbox = Sandbox::new();
    let config = sandbox.write("c.yml", "mcp-addr: ':9090'\nsnapshot: {interval: 1h}\ndbs: []\n");
    let outcome = sandbox.run(&["replicate", "-once", "-config", &config]);
    let lines: Vec<&str> = outcome.stdout.lines().filter(|line| line.contains("not in effect")).collect();
    assert_eq!(lines.len(), 1, "{outcome:?}");
    assert!(lines[0].ends_with(" keys=mcp-addr"), "{outcome:?}");
    assert_eq!(outcome.code, 0);
}

/// Two databases in one replica destroy each other's backups; the original let
/// them.
#[test]
fn databases_that_share_a_place_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 1);
    std::os::unix::fs::symlink("a.db", sandbox.path("link.db")).unwrap();
    let hint = "Each database needs a file, a meta-path and a replica of its own.";
    for (dbs, message) in [
        (
            "{path: /x, replica: {path: r}}, {path: /y, replica: {path: ./r}}",
            format!("/x and /y share one replica, {}", sandbox.text("r")),
        ),
        (
            "{path: /x, meta-path: /m, replica: {path: r}}, {path: /y, meta-path: /m, replica: {path: q}}",
            "/x and /y share one meta-path, /m".to_owned(),
        ),
        (
            "{path: a.db, replica: {path: r}}, {path: link.db, replica: {path: q}}",
            format!("{0}/a.db and {0}/link.db share one file, {0}/a.db", sandbox.text("").trim_end_matches('/')),
        ),
        (
            "{path: a.db, replica: {path: q}}, {dir: ., pattern: 'a*', replica: {path: r}}",
            format!("{0}/a.db and {0}/a.db share one file, {0}/a.db", sandbox.text("").trim_end_matches('/')),
        ),
    ] {
        let config = sandbox.write("c.yml", &format!("dbs: [{dbs}]"));
        let outcome = sandbox.run(&["replicate", "-once", "-config", &config]);
        assert_eq!(outcome.stderr, format!("Error: {message}\n{hint}\n"));
        assert_eq!(outcome.code, 1);
    }
}
