//! The program as its users meet it: arguments in; standard output, standard
//! error and exit code out.
//!
//! Each test gets a directory and an environment of its own.

#![allow(clippy::unwrap_used, reason = "what a test needs and cannot have fails the test")]

mod check;
mod config;
mod effective;
mod help;
mod lifecycle;
mod listing;
mod logging;
mod mistakes;
mod plans;
mod points;
mod restore;
mod restore_all;
mod s3;
mod shell;
mod tree;
mod upstream;
mod v3;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A directory to work in, and the program run inside it.
pub(crate) struct Sandbox {
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// Sets a variable for every run.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The path as text, for arguments and expectations.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.text(name)
    }

    /// A command that is ready to run, with nothing inherited that matters.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_litestream")), arguments)
    }

    /// The same for another program.
    pub(crate) fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("TZ", "UTC")
            .envs(self.variables.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments))
    }

    /// Makes a database in WAL mode with `rows` rows.
    pub(crate) fn database(&self, name: &str, rows: u32) -> PathBuf {
        let path = self.path(name);
        let connection = litestream_testkit::scenario::quiet_connection(&path).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode = wal; CREATE TABLE IF NOT EXISTS t (x);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                 INSERT INTO t SELECT i FROM n;"
            ))
            .unwrap();
        path
    }

    /// A replica of a fresh database `a.db`, as its URL.
    pub(crate) fn replica(&self) -> String {
        self.database("a.db", 100);
        let url = format!("file://{}", self.text("replica"));
        let outcome = self.run(&["replicate", "-once", "a.db", &url]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        url
    }
}

impl Outcome {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts a failure with exactly these lines on standard error and nothing
    /// on standard output.
    #[track_caller]
    pub(crate) fn fails_with(&self, lines: &[&str]) {
        assert_eq!(self.stderr.lines().collect::<Vec<_>>(), lines, "{self:?}");
        assert_eq!(self.stdout, "");
        assert_eq!(self.code, 1);
    }
}

/// How many rows a database holds.
pub(crate) fn row_count(db: &Path) -> u32 {
    let connection = litestream_testkit::scenario::quiet_connection(db).unwrap();
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}
