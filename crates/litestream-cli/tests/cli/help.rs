//! Help, version, and what is printed when nothing is asked for.

use crate::Sandbox;

#[test]
fn help_is_printed_on_request_with_success() {
    let sandbox = Sandbox::new();
    for arguments in [&["help"][..], &["-h"], &["-help"], &["--help"], &["help", "restore"]] {
        let outcome = sandbox.run(arguments);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(outcome.stdout.starts_with("litestream is a tool for replicating SQLite databases.\n"), "{outcome:?}");
        assert!(outcome.stdout.contains("\n\treplicate "), "{outcome:?}");
    }
}

#[test]
fn no_command_prints_the_same_and_fails() {
    let sandbox = Sandbox::new();
    for arguments in [&[][..], &[""], &["-bogus"]] {
        let outcome = sandbox.run(arguments);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (1, ""), "{arguments:?}");
        assert!(outcome.stdout.contains("The commands are:"), "{outcome:?}");
    }
}

#[test]
fn every_command_explains_itself() {
    let sandbox = Sandbox::new();
    let commands = [
        "check",
        "databases",
        "info",
        "list",
        "ltx",
        "register",
        "replicate",
        "reset",
        "restore",
        "start",
        "status",
        "stop",
        "sync",
        "unregister",
        "version",
        "wal",
    ];
    for command in commands {
        for word in ["-h", "-help", "--help"] {
            let outcome = sandbox.run(&[command, word]);
            assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{command} {word}");
            assert!(outcome.stdout.contains(&format!("\n\tlitestream {command}")), "{outcome:?}");
        }
    }
}

#[test]
fn help_shows_the_configuration_that_would_be_read() {
    assert!(Sandbox::new().run(&["restore", "-h"]).stdout.contains("Defaults to /etc/litestream.yml\n"));
    let sandbox = Sandbox::new().with("LITESTREAM_CONFIG", "/x/y.yml");
    assert!(sandbox.run(&["restore", "-h"]).stdout.contains("Defaults to /x/y.yml\n"));
}

#[test]
fn the_version_is_one_line() {
    let sandbox = Sandbox::new();
    for arguments in [&["version"][..], &["version", "and", "more"]] {
        let outcome = sandbox.run(arguments);
        assert_eq!(outcome.stdout, format!("{}\n", env!("CARGO_PKG_VERSION")));
        assert_eq!(outcome.code, 0);
    }
}

#[test]
fn the_long_version_has_labels() {
    let stdout = Sandbox::new().run(&["version", "-verbose"]).stdout;
    assert!(
        stdout.starts_with(&format!("Version:     {}\nRust Version: rustc ", env!("CARGO_PKG_VERSION"))),
        "{stdout}"
    );
    assert!(stdout.contains("\nOS/Arch:     "), "{stdout}");
}

#[test]
fn a_reader_that_leaves_early_does_no_harm() {
    use std::process::Stdio;
    let sandbox = Sandbox::new();
    let mut child = sandbox.command(&["help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.status.success());
}
