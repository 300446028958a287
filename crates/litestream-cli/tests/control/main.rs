//! A running daemon and those who talk to it: real processes, real sockets.
//!
//! Where an answer is an interface, upstream's released binary is asked the same
//! (`agreement`). Lessons and rows are those of the notes on what upstream's users
//! met; each is a test by name.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what a test needs and cannot have fails the test")]

mod agreement;
mod commands;
mod hostile;
mod lessons;
mod status;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use litestream_testkit::daemon::Daemon;
use litestream_testkit::program::Program;
use litestream_testkit::{scenario, upstream};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A directory with databases `a.db`, `b.db`, `c.db`, the first two configured, and
/// a daemon over it.
pub(crate) struct World {
    dir: TempDir,
    program: Program,
    pub(crate) daemon: Option<Daemon>,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    }
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }
}

pub(crate) fn ours() -> Program {
    Program::new(env!("CARGO_BIN_EXE_litestream"))
}

impl World {
    pub(crate) fn new(program: Program) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap(), program, daemon: None };
        for name in ["a.db", "b.db", "c.db"] {
            world.commit(name);
        }
        world.configure(&format!(
            "socket: {{enabled: true, path: {}}}\n\
             dbs:\n- {{path: {}, replica: {{path: {}}}}}\n- {{path: {}, replica: {{path: {}}}}}\n\
             - {{path: {}, replica: {{path: {}}}}}\n",
            world.text("ls.sock"),
            world.text("a.db"),
            world.text("replica/a"),
            world.text("b.db"),
            world.text("replica/b"),
            world.text("missing.db"),
            world.text("replica/missing"),
        ));
        world
    }

    /// With a running daemon that has replicated both databases.
    pub(crate) fn running(program: Program) -> Self {
        let mut world = Self::new(program);
        world.start();
        world
    }

    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.path("c.yml"), text).unwrap();
    }

    pub(crate) fn start(&mut self) {
        self.daemon = Some(self.program.replicate(&self.path("c.yml"), &self.path("log")).unwrap());
        wait_until("both databases are replicated", || {
            let Some(list) = self.try_ask("GET", "/list", "").map(|answer| answer.json()) else { return false };
            let databases = list["databases"].as_array().unwrap();
            databases.iter().filter(|db| !db["last_sync_at"].is_null()).count() >= 2
        });
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Adds a row to a database, making it if need be.
    pub(crate) fn commit(&self, name: &str) {
        let db = scenario::quiet_connection(&self.path(name)).unwrap();
        db.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1);")
            .unwrap();
    }

    /// Asks over the socket. A body of `DIR` paths is completed.
    pub(crate) fn ask(&self, method: &str, route: &str, body: &str) -> Answer {
        self.try_ask(method, route, body).unwrap()
    }

    pub(crate) fn try_ask(&self, method: &str, route: &str, body: &str) -> Option<Answer> {
        let dir = self.dir.path().display().to_string();
        let (route, body) = (route.replace("DIR", &dir), body.replace("DIR", &dir));
        let mut stream = UnixStream::connect(self.path("ls.sock")).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(
            stream,
            "{method} {route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }

    pub(crate) fn post(&self, route: &str, body: &str) -> Value {
        let answer = self.ask("POST", route, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Runs one of our commands in the directory, with the world's configuration.
    pub(crate) fn run(&self, line: &str) -> Outcome {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        self.run_of(&ours(), &format!("{name} -config {} {rest}", self.text("c.yml")))
    }

    /// Runs any program in the directory.
    pub(crate) fn run_of(&self, program: &Program, line: &str) -> Outcome {
        let dir = self.dir.path().display().to_string();
        let output = Command::new(program.path())
            .args(line.split_whitespace().map(|word| word.replace("DIR", &dir)))
            .current_dir(&dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The directory's name taken out, so that two worlds can be compared.
    pub(crate) fn neutral(&self, text: &str) -> String {
        text.replace(&self.dir.path().display().to_string(), "DIR")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }
}

/// A store that accepts connections and never answers, as an S3 endpoint.
pub(crate) struct DeadStore {
    _listener: TcpListener,
    port: u16,
}

impl DeadStore {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { _listener: listener, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The settings of a replica in it.
    pub(crate) fn replica(&self) -> String {
        format!(
            "{{type: s3, bucket: bkt, path: x, region: us-east-1, endpoint: 'http://127.0.0.1:{}', \
             force-path-style: true, access-key-id: k, secret-access-key: s}}",
            self.port
        )
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn original() -> Program {
    upstream::litestream()
}
