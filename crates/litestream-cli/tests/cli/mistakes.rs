//! Command lines that cannot be meant, and the words that say so.

use crate::Sandbox;

#[test]
fn unknown_commands_are_named_with_a_neighbour() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&["bogus"])
        .fails_with(&["Error: litestream bogus: unknown command", "Run \"litestream help\" for the list of commands."]);
    sandbox
        .run(&["Restore"])
        .fails_with(&["Error: litestream Restore: unknown command", "Did you mean \"litestream restore\"?"]);
    sandbox.run(&["snapshots"]).fails_with(&[
        "Error: litestream snapshots: unknown command",
        "Run \"litestream help\" for the list of commands.",
    ]);
}

#[test]
fn flag_errors_are_said_once_with_a_hint() {
    let sandbox = Sandbox::new();
    for (arguments, message) in [
        (&["restore", "-x"][..], "flag provided but not defined: -x"),
        (&["restore", "-o"], "flag needs an argument: -o"),
        (&["restore", "-=x"], "bad flag syntax: -=x"),
        (&["restore", "---x"], "bad flag syntax: ---x"),
        (&["restore", "-txid", "zz"], "invalid value \"zz\" for flag -txid: invalid txid format"),
        (&["restore", "-parallelism", "1.5"], "invalid value \"1.5\" for flag -parallelism: parse error"),
        (&["restore", "-force=maybe"], "invalid boolean value \"maybe\" for -force: parse error"),
        (&["restore", "-follow-interval", "5"], "invalid value \"5\" for flag -follow-interval: parse error"),
    ] {
        let message = format!("Error: {message}");
        sandbox.run(arguments).fails_with(&[&message, "Run \"litestream restore -h\" for usage."]);
    }
    sandbox.run(&["ltx", "-level", "12", "file:///r"]).fails_with(&[
        "Error: invalid value \"12\" for flag -level: level must be between 0 and 9",
        "Run \"litestream ltx -h\" for usage.",
    ]);
    sandbox.run(&["replicate", "-onec"]).fails_with(&[
        "Error: flag provided but not defined: -onec",
        "Did you mean -once?",
        "Run \"litestream replicate -h\" for usage.",
    ]);
}

#[test]
fn what_is_missing_is_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.run(&["restore"]).fails_with(&[
        "Error: database path or replica URL required",
        "Try: litestream restore -o /path/to/db s3://bucket/prefix",
    ]);
    sandbox.run(&["restore", "file:///r"]).fails_with(&[
        "Error: -o is required when restoring from a replica URL",
        "Try: litestream restore -o /path/to/db file:///r",
    ]);
    sandbox
        .run(&["ltx"])
        .fails_with(&["Error: database path or replica URL required", "Try: litestream ltx /path/to/db"]);
    sandbox.run(&["wal"]).fails_with(&[
        "Warning: 'wal' command is deprecated, please use 'ltx' instead",
        "Error: database path or replica URL required",
        "Try: litestream ltx /path/to/db",
    ]);
}

#[test]
fn what_is_too_much_is_refused() {
    let sandbox = Sandbox::new();
    let config = sandbox.write("c.yml", "dbs: []");
    for arguments in [
        &["restore", "-o", "x", "file:///r", "more"][..],
        &["ltx", "file:///r", "more"],
        &["databases", "-config", &config, "more"],
    ] {
        sandbox.run(arguments).fails_with(&["Error: too many arguments"]);
    }
    for arguments in
        [&["ltx", "-config", &config, "file:///r"][..], &["restore", "-config", &config, "-o", "x", "file:///r"]]
    {
        sandbox.run(arguments).fails_with(&["Error: cannot specify a replica URL and the -config flag"]);
    }
}

#[test]
fn replicate_checks_its_arguments_before_it_starts() {
    let sandbox = Sandbox::new();
    let config = sandbox.write("c.yml", "exec: sleep 1\ndbs: []");
    let plain = sandbox.write("d.yml", "dbs: []");
    for (arguments, message) in [
        (&["a.db"][..], "must specify at least one replica URL for a.db"),
        (&["-config", &config, "a.db", "file:///r"], "cannot specify a replica URL and the -config flag"),
        (&["a.db", "file:///r", "-once"], "flag \"-once\" must be positioned before DB_PATH and REPLICA_URL arguments"),
        (&["-once", "-exec", "true", "a.db", "file:///r"], "cannot specify -once flag with -exec"),
        (&["-once", "-config", &config], "cannot specify -once flag with -exec"),
        (&["-force-snapshot", "-config", &plain], "cannot specify -force-snapshot flag without -once"),
        (&["-enforce-retention", "-config", &plain], "cannot specify -enforce-retention flag without -once"),
        (
            &["-enforce-retention", "-dry-run", "-config", &plain],
            "cannot specify -enforce-retention flag without -once",
        ),
        (&["-once", "-dry-run", "-config", &plain], "cannot specify -dry-run flag without -enforce-retention"),
        (&["-once", "-json", "-config", &plain], "cannot specify -json flag without -dry-run"),
        (&["a.db", "file:///r", "file:///q"], "multiple replicas on a single database are no longer supported"),
        (&["a.db", "/some/path"], "replica url scheme required: /some/path"),
        (&["-exec", "  ", "a.db", "file:///r"], "cannot parse exec command: the command is empty"),
        (&["-exec", "a 'b", "a.db", "file:///r"], "cannot parse exec command: invalid command line string"),
    ] {
        let message = format!("Error: {message}");
        let arguments: Vec<&str> = ["replicate"].iter().chain(arguments).copied().collect();
        sandbox.run(&arguments).fails_with(&[&message]);
    }
    let outcome = sandbox.run(&["replicate", "a.db", "foo://x"]);
    assert!(outcome.stderr.starts_with("Error: unknown replica type in config: \"foo\""), "{outcome:?}");
    assert_eq!(outcome.code, 1);
}

#[test]
fn shell_syntax_in_exec_is_refused_with_a_way_out() {
    Sandbox::new().run(&["replicate", "-exec", "a && b", "a.db", "file:///r"]).fails_with(&[
        "Error: cannot parse exec command: '&' is shell syntax, and no shell runs the command",
        "Try: litestream replicate -exec 'sh -c \"a && b\"'",
    ]);
}

#[test]
fn restore_checks_its_arguments_in_the_known_order() {
    let sandbox = Sandbox::new();
    for (arguments, message) in [
        (&["-integrity-check", "foo", "-timestamp", "bar", "x"][..], "invalid -integrity-check value: foo"),
        (
            &["-timestamp", "2000-01-01T00:00:00Z", "-txid", "1", "-o", "x", "file:///r"],
            "cannot specify index & timestamp to restore",
        ),
        (&["-f", "-txid", "1", "-o", "x", "file:///r"], "cannot use follow mode with -txid"),
        (
            &["-f", "-timestamp", "2000-01-01T00:00:00Z", "-o", "x", "file:///r"],
            "cannot use follow mode with -timestamp",
        ),
        (&["-f", "-dry-run", "-o", "x", "file:///r"], "cannot use -dry-run with -f"),
    ] {
        let message = format!("Error: {message}");
        let arguments: Vec<&str> = ["restore"].iter().chain(arguments).copied().collect();
        sandbox.run(&arguments).fails_with(&[&message]);
    }
}

#[test]
fn times_that_are_not_understood_are_refused_with_examples() {
    for command in ["restore", "points"] {
        Sandbox::new().run(&[command, "-timestamp", "last tuesday", "file:///r"]).fails_with(&[
            "Error: invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z)",
            "Also understood: \"2000-01-01 14:00\" (local time), \"14:00\", \"yesterday 14:00\", \"5 minutes ago\", \"now\".",
        ]);
    }
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let sandbox = Sandbox::new().with("LITESTREAM_CONFIG", "/nope.yml");
    for arguments in [&["databases"][..], &["status"], &["ltx", "a.db"], &["restore", "a.db"], &["replicate"]] {
        sandbox.run(arguments).fails_with(&[
            "Error: config file not found: /nope.yml",
            "Name another with -config PATH or in LITESTREAM_CONFIG.",
        ]);
    }
    sandbox.run(&["databases", "-config", "/other.yml"]).fails_with(&[
        "Error: config file not found: /other.yml",
        "Name another with -config PATH or in LITESTREAM_CONFIG.",
    ]);
}

#[test]
fn arguments_must_be_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    let outcome = crate::Outcome::of(sandbox.command(&["status"]).arg(OsStr::from_bytes(b"a\xff.db")));
    assert!(outcome.stderr.starts_with("Error: argument is not valid UTF-8: "), "{outcome:?}");
    assert_eq!(outcome.code, 1);
}
