//! What scripts and people see, held still.
//!
//! `help/` has the help of every command as it is printed; after a meant change
//! `UPDATE_GOLDEN=1 cargo test -p litestream-cli --test golden` writes it anew,
//! and the difference is part of the change. `beside` runs the released 0.5.17
//! on the same inputs: where its output is an interface, ours has everything it
//! has, in its order; every other difference stands in docs/compatibility.md.

#![allow(clippy::unwrap_used, reason = "what a test needs and cannot have fails the test")]

mod beside;
mod help;
mod named;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory with a replicated database `a.db`, its configuration `c.yml` and
/// its replica `replica`, in which programs are run.
pub(crate) struct Site(tempfile::TempDir);

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Site {
    /// An empty directory.
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn replicated() -> Self {
        let site = Self::empty();
        let connection = litestream_testkit::scenario::quiet_connection(&site.path("a.db")).unwrap();
        connection.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (x); INSERT INTO t VALUES (1);").unwrap();
        drop(connection);
        std::fs::write(site.path("c.yml"), "dbs: [{path: a.db, replica: {path: replica}}]\n").unwrap();
        let outcome = site.ours(&["replicate", "-once", "-config", "c.yml"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn ours(&self, arguments: &[&str]) -> Outcome {
        self.run(Path::new(env!("CARGO_BIN_EXE_litestream")), arguments)
    }

    pub(crate) fn theirs(&self, arguments: &[&str]) -> Outcome {
        self.run(litestream_testkit::upstream::litestream().path(), arguments)
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        command.env("HOME", self.0.path()).env("TZ", "UTC");
        let output = command.output().unwrap();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
