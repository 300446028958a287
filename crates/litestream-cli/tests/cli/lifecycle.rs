//! `replicate` from start to exit: one-shot runs, children, signals.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use crate::{Outcome, Sandbox, row_count};

/// A running `replicate`, its log read line by line.
struct Running {
    child: Child,
    log: BufReader<ChildStdout>,
    seen: String,
}

impl Running {
    fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let arguments: Vec<&str> = ["replicate"].iter().chain(arguments).copied().collect();
        Self::of(&mut sandbox.command(&arguments))
    }

    fn of(command: &mut std::process::Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        Self { child, log, seen: String::new() }
    }

    /// Blocks until a line with this text appears.
    fn wait_for(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "ended before {text:?}:\n{}", self.seen);
            self.seen.push_str(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    fn finish(mut self) -> Outcome {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            self.seen.push_str(&line);
            line.clear();
        }
        let output = self.child.wait_with_output().unwrap();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: self.seen,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn restored_rows(sandbox: &Sandbox, url: &str) -> u32 {
    let outcome = sandbox.run(&["restore", "-force", "-o", "restored.db", url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    row_count(&sandbox.path("restored.db"))
}

fn messages(log: &str) -> Vec<String> {
    log.lines()
        .filter_map(|line| line.split_once(" msg="))
        .map(|(_, rest)| match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap().to_owned(),
            None => rest.split(' ').next().unwrap().to_owned(),
        })
        .collect()
}

#[test]
fn a_one_shot_run_syncs_and_exits() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    let outcome = sandbox.run(&["replicate", "-once", "-force-snapshot", "a.db", &url]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    let messages = messages(&outcome.stdout);
    assert_eq!(messages[..4], ["litestream", "initialized db", "replicating to", "syncing database"]);
    assert_eq!(
        messages[messages.len() - 3..],
        ["one-shot replication complete", "replication complete, litestream shutting down", "litestream shut down"]
    );
    let line = outcome.stdout.lines().nth(2).unwrap();
    assert!(
        line.ends_with(&format!(" msg=\"replicating to\" type=file sync-interval=1s path={}", sandbox.text("r"))),
        "{line}"
    );
    assert_eq!(restored_rows(&sandbox, &url), 10);
}

#[test]
fn a_one_shot_run_without_its_database_fails() {
    let sandbox = Sandbox::new();
    let url = format!("file://{}", sandbox.text("r"));
    let outcome = sandbox.run(&["replicate", "-once", "nope.db", &url]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains(&sandbox.text("nope.db")), "{outcome:?}");
    assert!(!sandbox.path("nope.db").exists(), "a database is never made up");
}

#[test]
fn a_one_shot_run_that_cannot_upload_fails_and_names_the_database() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    sandbox.write("file", "no directory");
    let config = sandbox.write("c.yml", "shutdown-sync-timeout: 0\ndbs: [{path: a.db, replica: {path: file/r}}]");
    let outcome = sandbox.run(&["replicate", "-once", "-config", &config]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.starts_with("Error: ") && outcome.stderr.contains(&sandbox.text("a.db")), "{outcome:?}");
}

/// The original, asked to stop within its first second, had replicated nothing
/// and reported success.
#[test]
fn stopping_at_once_still_replicates() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    let mut running = Running::start(&sandbox, &["a.db", &url]);
    running.wait_for("msg=litestream");
    running.wait_for("replicating to");
    running.signal("-TERM");
    let outcome = running.finish();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    assert!(outcome.stdout.contains("msg=\"signal received, litestream shutting down\" signal=terminated\n"));
    assert!(outcome.stdout.ends_with("msg=\"litestream shut down\"\n"));
    assert_eq!(restored_rows(&sandbox, &url), 10);
}

/// `timeout(1)` signals a process and its group within milliseconds; the
/// original took that for impatience and skipped the final sync.
#[test]
fn a_doubled_signal_is_one_request() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    let mut running = Running::start(&sandbox, &["a.db", &url]);
    running.wait_for("replicating to");
    running.signal("-INT");
    running.signal("-TERM");
    let outcome = running.finish();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(restored_rows(&sandbox, &url), 10);
}

#[test]
fn changes_that_did_not_reach_the_replica_are_an_error_at_exit() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    sandbox.write("file", "no directory");
    let config = sandbox.write("c.yml", "shutdown-sync-timeout: 0\ndbs: [{path: a.db, replica: {path: file/r}}]");
    let mut running = Running::start(&sandbox, &["-config", &config]);
    running.wait_for("replicating to");
    running.signal("-TERM");
    let outcome = running.finish();
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.starts_with(&format!("Error: {}: not replicated: ", sandbox.text("a.db"))), "{outcome:?}");
}

#[test]
fn a_child_that_ends_ends_replication_after_a_sync() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    let outcome = sandbox.run(&["replicate", "-exec", "true", "a.db", &url]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    assert!(outcome.stdout.contains("msg=\"subprocess exited, litestream shutting down\"\n"), "{outcome:?}");
    assert_eq!(restored_rows(&sandbox, &url), 10);
}

#[test]
fn a_child_that_fails_is_reported_after_a_sync() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    // The exit code of a child that a signal ended is what a shell would report.
    for (exec, code, message) in
        [("sh -c 'exit 7'", 7, "Error: exit status 7\n"), ("sh -c 'kill -9 $$'", 137, "Error: signal: killed\n")]
    {
        let outcome = sandbox.run(&["replicate", "-exec", exec, "a.db", &url]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (code, message), "{outcome:?}");
        assert_eq!(restored_rows(&sandbox, &url), 10);
    }
}

#[test]
fn a_child_that_cannot_start_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    let outcome = sandbox.run(&["replicate", "-exec", "/nope/program x", "a.db", &url]);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.stderr, "Error: cannot start exec command: exec /nope/program: no such file or directory\n");
}

#[test]
fn a_signal_is_passed_to_the_child_and_what_it_wrote_last_is_replicated() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    for (name, exit, code, stderr) in [
        ("-TERM", "exit 0", 0, ""),
        ("-INT", "trap - INT; kill -INT $$", 0, ""),
        ("-TERM", "exit 3", 3, "Error: cannot wait for exec process: exit status 3\n"),
    ] {
        let signal = name.trim_start_matches('-');
        let script = format!("trap '{exit}' {signal}; echo child ready; while :; do sleep 0.01; done");
        let script_path = sandbox.write("child.sh", &script);
        let mut running = Running::start(&sandbox, &["-exec", &format!("sh {script_path}"), "a.db", &url]);
        running.wait_for("child ready");
        running.signal(name);
        let outcome = running.finish();
        assert_eq!((outcome.code, outcome.stderr.as_str()), (code, stderr), "{outcome:?}");
        let messages = messages(&outcome.stdout);
        let start = messages.iter().position(|message| message.starts_with("signal received")).unwrap();
        assert_eq!(
            messages[start..start + 3],
            [
                "signal received, litestream shutting down",
                "sending signal to exec process",
                "waiting for exec process to close"
            ]
        );
        assert_eq!(restored_rows(&sandbox, &url), 10);
    }
}

#[test]
fn a_child_gets_the_copied_credentials_and_the_log_level() {
    let sandbox = Sandbox::new().with("LITESTREAM_ACCESS_KEY_ID", "id").with("LITESTREAM_SECRET_ACCESS_KEY", "key");
    sandbox.database("a.db", 1);
    let url = format!("file://{}", sandbox.text("r"));
    let script = sandbox.write("child.sh", "echo \"$AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY $LOG_LEVEL\" > seen");
    let outcome = sandbox.run(&["replicate", "-log-level", "warn", "-exec", &format!("sh {script}"), "a.db", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(std::fs::read_to_string(sandbox.path("seen")).unwrap(), "id key warn\n");
}

#[test]
fn missing_databases_are_restored_before_replication() {
    let sandbox = Sandbox::new();
    let url = sandbox.replica();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(sandbox.path(&format!("a.db{suffix}")));
    }
    let outcome = sandbox.run(&["replicate", "-once", "-restore-if-db-not-exists", "a.db", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let found = messages(&outcome.stdout);
    assert_eq!(found[1..3], ["attempting restore before replication", "restore completed"], "{outcome:?}");
    assert_eq!(row_count(&sandbox.path("a.db")), 100);

    let outcome = sandbox.run(&["replicate", "-once", "-restore-if-db-not-exists", "a.db", &url]);
    assert_eq!(messages(&outcome.stdout)[1], "database exists, skipping restore");
    let empty = format!("file://{}", sandbox.text("empty"));
    let outcome = sandbox.run(&["replicate", "-once", "-restore-if-db-not-exists", "b.db", &empty]);
    assert_eq!(messages(&outcome.stdout)[2], "no backup found, starting fresh");
}

#[test]
fn the_readers_of_the_log_may_leave() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    let arguments = ["replicate", "-exec", "sh -c 'exit 0'", "a.db", &url];
    let mut child = sandbox.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(restored_rows(&sandbox, &url), 10);
}

/// The schedule that a daemon announces, and what it warns about in it.
fn schedule(sandbox: &Sandbox, arguments: &[&str]) -> Vec<String> {
    let mut running = Running::start(sandbox, arguments);
    running.wait_for("starting L0 retention monitor");
    running.signal("-TERM");
    let outcome = running.finish();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let lines = outcome.stdout.lines().filter_map(|line| line.split_once(" level=").map(|(_, rest)| rest));
    let is_wanted = |line: &&str| line.contains("msg=\"starting ") || line.starts_with("WARN msg=\"snapshot.");
    lines.filter(is_wanted).map(str::to_owned).collect()
}

/// L1: without a configuration file the original's snapshot interval was zero, and it
/// stored the whole database every second.
#[test]
fn defaults_are_the_same_with_and_without_a_file() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    let expected = [
        "INFO msg=\"starting compaction monitor\" system=store level=1 interval=30s",
        "INFO msg=\"starting compaction monitor\" system=store level=2 interval=5m0s",
        "INFO msg=\"starting compaction monitor\" system=store level=3 interval=1h0m0s",
        "INFO msg=\"starting compaction monitor\" system=store level=9 interval=24h0m0s",
        "INFO msg=\"starting L0 retention monitor\" system=store interval=15s retention=5m0s",
    ];
    assert_eq!(schedule(&sandbox, &["a.db", &url]), expected, "no file");
    for entry in ["path: a.db", "dir: ., pattern: a.db"] {
        for empty in ["", "snapshot:\n", "snapshot: {}\nl0-retention:\n"] {
            let config = sandbox.write("c.yml", &format!("{empty}dbs: [{{{entry}, replica: {{path: r}}}}]\n"));
            assert_eq!(schedule(&sandbox, &["-config", &config]), expected, "{entry} {empty}");
        }
    }
}

/// L33, L35: snapshot settings of a database count, and a window that is shorter than
/// the time between two snapshots is mentioned.
#[test]
fn snapshot_settings_of_a_database_are_in_effect_and_judged() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let config = |retention: &str| {
        let snapshot = format!("{{interval: 2h, retention: {retention}}}");
        sandbox.write("c.yml", &format!("dbs: [{{path: a.db, snapshot: {snapshot}, replica: {{path: r}}}}]"))
    };
    let interval = "starting compaction monitor\" system=store level=9 interval=2h0m0s";
    let warning = "WARN msg=\"snapshot.retention is not longer than snapshot.interval\"";
    let lines = schedule(&sandbox, &["-config", &config("48h")]);
    assert!(lines.iter().any(|line| line.ends_with(interval)), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("WARN")), "{lines:?}");
    let config = config("1h");
    let mut running = Running::start(&sandbox, &["-config", &config]);
    running.wait_for(warning);
    running.signal("-TERM");
    assert!(running.finish().stdout.contains(" retention=1h0m0s interval=2h0m0s"));
}

/// The original died of these two with what was committed last unsent.
#[test]
fn a_hangup_and_a_quit_end_with_a_final_sync() {
    for (name, word) in [("-HUP", "hangup"), ("-QUIT", "quit")] {
        let sandbox = Sandbox::new();
        let db = sandbox.database("a.db", 10);
        let url = format!("file://{}", sandbox.text("r"));
        // The tests may have been started by `nohup` themselves.
        let program = env!("CARGO_BIN_EXE_litestream");
        let words = ["--default-signal=HUP", program, "replicate", "a.db", &url];
        let mut running = Running::of(&mut sandbox.command_of(std::path::Path::new("/usr/bin/env"), &words));
        running.wait_for("image of the database stored");
        let application = litestream_testkit::scenario::quiet_connection(&db).unwrap();
        application.execute("INSERT INTO t VALUES (11)", []).unwrap();
        running.signal(name);
        let outcome = running.finish();
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
        assert!(outcome.stdout.contains(&format!("shutting down\" signal={word}\n")), "{outcome:?}");
        assert_eq!(restored_rows(&sandbox, &url), 11);
    }
}

/// `nohup` asks for hangups to be ignored, and that must not be undone.
#[test]
fn a_hangup_that_was_ignored_at_the_start_stays_ignored() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    let url = format!("file://{}", sandbox.text("r"));
    let program = env!("CARGO_BIN_EXE_litestream");
    let script = format!("trap '' HUP; exec {program} replicate a.db {url}");
    let shell = std::path::Path::new("/bin/sh");
    let mut running = Running::of(&mut sandbox.command_of(shell, &["-c", &script]));
    running.wait_for("image of the database stored");
    running.signal("-HUP");
    running.signal("-TERM");
    let outcome = running.finish();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(!outcome.stdout.contains("hangup") && outcome.stdout.contains("signal=terminated"), "{outcome:?}");
}

/// L16, row 20: an upload that is cut off by the stop is no error, and retries of the
/// final sync do not fill the log.
#[test]
fn a_stop_in_the_midst_of_failing_uploads_is_quiet() {
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 10);
    sandbox.database("b.db", 10);
    sandbox.write("file", "no directory");
    let config = sandbox.write(
        "c.yml",
        "shutdown-sync-timeout: 1s\nshutdown-sync-interval: 10ms\ndbs: [{path: a.db, replica: {path: file/a}}, {path: b.db, replica: {path: file/b}}]",
    );
    let mut running = Running::start(&sandbox, &["-config", &config]);
    running.wait_for("monitor error");
    running.wait_for("monitor error");
    let before = std::time::Instant::now();
    running.signal("-TERM");
    let outcome = running.finish();
    assert!(before.elapsed() < std::time::Duration::from_secs(10), "both at the same time: {:?}", before.elapsed());
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let (_, after) = outcome.stdout.split_once("signal received").unwrap();
    assert!(after.matches("shutdown sync failed, retrying").count() <= 2, "{after}");
    let errors: Vec<&str> = after.lines().filter(|line| line.contains("level=ERROR")).collect();
    assert_eq!(errors.len(), 2, "{after}");
    assert!(errors.iter().all(|line| line.contains("changes that are not replicated")), "{after}");
}

/// Lesson 18: settings once did not reach SQLite. An application holds a database,
/// which is in rollback mode, longer than the default of one second.
#[test]
fn the_busy_timeout_is_how_long_a_lock_is_waited_for() {
    let sandbox = Sandbox::new();
    let application = rusqlite::Connection::open(sandbox.path("a.db")).unwrap();
    application.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1); BEGIN EXCLUSIVE").unwrap();
    let config = |timeout: &str| {
        let text = format!(
            "shutdown-sync-timeout: 0\ndbs: [{{path: a.db, busy-timeout: {timeout}, replica: {{path: replica}}}}]"
        );
        sandbox.write("c.yml", &text)
    };
    let impatient = sandbox.run(&["replicate", "-once", "-config", &config("10ms")]);
    assert_eq!(impatient.code, 1, "{impatient:?}");
    assert!(impatient.stderr.contains("locked"), "{impatient:?}");

    let mut patient = Running::start(&sandbox, &["-once", "-config", &config("1h")]);
    patient.wait_for("syncing database");
    std::thread::sleep(std::time::Duration::from_millis(2500));
    application.execute_batch("COMMIT").unwrap();
    let outcome = patient.finish();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(restored_rows(&sandbox, &format!("file://{}", sandbox.text("replica"))), 1);
}
