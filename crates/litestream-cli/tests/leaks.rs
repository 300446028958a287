//! No credential reaches any output, however the store misbehaves.
//!
//! Every command runs against servers that are not there and servers that repeat
//! in their refusal the whole request, at the most talkative log level and in all
//! formats. What is planted as a secret must not be in what they print, nor in the
//! files they leave, in no usual coding.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use litestream_testkit::program::Program;
use rusqlite::Connection;

/// Long and strange enough to be found, with signs that codings change.
const PASSWORD: &str = "pl/nted+p@ss:w%rd";
const PASSWORD_IN_URL: &str = "pl%2Fnted%2Bp%40ss%3Aw%25rd";
const KEY: &str = "cGxhbnRlZC1zZWNyZXQta2V5LTAxMjM0NTY3ODlhYmM=";
const TOKEN: &str = "planted-session-token";
const SIGNATURE: &str = "plantedSignature%2B%2Fabcdef%3D";

/// Everything that must not be seen.
fn secrets() -> Vec<String> {
    let mut secrets: Vec<String> =
        [PASSWORD, PASSWORD_IN_URL, KEY, TOKEN, SIGNATURE, "plantedSignature+/abcdef="].map(str::to_owned).to_vec();
    secrets.push("cGxhbnRlZC1zZWNyZXQta2V5".into());
    secrets.push("planted-secret-key".into());
    secrets.push(KEY.replace('=', "%3D"));
    // `user:<password>` as Basic authentication has it.
    secrets.push("dXNlcjpwbC9udGVkK3BAc3M6dyVyZA".into());
    secrets
}

struct Case {
    name: &'static str,
    /// The `replica:` mapping, for an address `host:port`.
    replica: fn(&str) -> String,
    environment: &'static [(&'static str, &'static str)],
}

const CASES: [Case; 6] = [
    Case {
        name: "s3",
        replica: |address| {
            format!(
                "type: s3\nbucket: b\npath: p\nregion: us-east-1\nendpoint: http://{address}\naccess-key-id: AKID\n\
                 secret-access-key: {KEY}\nsse-customer-key: {KEY}\n"
            )
        },
        environment: &[],
    },
    Case {
        name: "s3 from the environment",
        replica: |address| format!("url: s3://b/p?endpoint=http://{address}&region=us-east-1\n"),
        environment: &[("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", KEY), ("AWS_SESSION_TOKEN", TOKEN)],
    },
    Case {
        name: "abs",
        replica: |address| {
            format!(
                "type: abs\naccount-name: a\naccount-key: {KEY}\nbucket: b\npath: p\nendpoint: http://{address}/a\n"
            )
        },
        environment: &[],
    },
    Case {
        name: "abs with a signature",
        replica: |address| {
            format!(
                "type: abs\naccount-name: a\nsas-token: \"sv=2019-12-12&sp=rw&sig={SIGNATURE}\"\nbucket: b\npath: p\n\
                 endpoint: http://{address}/a\n"
            )
        },
        environment: &[],
    },
    Case {
        name: "oss",
        replica: |address| {
            format!(
                "type: oss\nbucket: b\npath: p\nendpoint: http://{address}\nregion: r\naccess-key-id: AKID\n\
                 secret-access-key: {KEY}\n"
            )
        },
        environment: &[],
    },
    Case {
        name: "webdav",
        replica: |address| format!("url: webdav://user:{PASSWORD_IN_URL}@{address}/p\n"),
        environment: &[],
    },
];

/// Refuses everything and repeats the request as document, header and text.
fn parrot(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up early is done with us.
            thread::spawn(move || answer(stream, status).ok());
        }
    });
    address
}

fn answer(mut stream: TcpStream, status: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut head, mut len) = (String::new(), 0);
        loop {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            let line = head.get(start..).unwrap_or_default().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                len = value.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        std::io::copy(&mut reader.by_ref().take(len), &mut std::io::sink())?;
        // Basic authentication is sent only to who asks for it.
        let status = if head.to_lowercase().contains("\r\nauthorization:") { status } else { "401 Unauthorized" };
        let escaped = head.replace('&', "&amp;");
        let body =
            format!("<?xml version=\"1.0\"?><Error><Code>Refused</Code><Message>cannot do {escaped}</Message></Error>");
        write!(
            stream,
            "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Type: application/xml\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn config(dir: &Path, logging: &str, replica: &str) {
    let replica: String = replica.lines().map(|line| format!("      {line}\n")).collect();
    let text = format!(
        "logging:\n  level: trace\n  type: {logging}\ndbs:\n  - path: {}\n    replica:\n{replica}",
        dir.join("app.db").display()
    );
    std::fs::write(dir.join("litestream.yml"), text).unwrap();
}

/// Everything that the binary says about the replica, and all it leaves in files
/// of its own.
fn outputs(dir: &Path, case: &Case) -> String {
    let ours = case
        .environment
        .iter()
        .fold(Program::new(env!("CARGO_BIN_EXE_litestream")), |program, (name, value)| program.env(name, value))
        .time_limit(Duration::from_secs(30));
    let (config, db) = (dir.join("litestream.yml"), dir.join("app.db"));
    let (config, db) = (config.to_str().unwrap(), db.to_str().unwrap());
    let mut all = String::new();
    for words in
        [vec!["databases", "-config", config], vec!["status", "-config", config], vec!["config", "-config", config]]
    {
        let output = ours.run(&words).unwrap();
        writeln!(all, "== {words:?}\n{}{}", output.stdout, output.stderr).unwrap();
    }
    // These try for half a minute; the first failures say it all.
    for words in [
        vec!["ltx", "-config", config, db],
        vec!["restore", "-config", config, "-o", "/nonexistent/x.db", db],
        vec!["replicate", "-config", config],
    ] {
        let mut run = ours.daemon(&words, &dir.join("log")).unwrap();
        let said = run.wait_for_log("rror", Duration::from_secs(30)).unwrap();
        writeln!(all, "== {words:?}, until {said}\n{}", run.log()).unwrap();
        run.kill9().unwrap();
    }
    for entry in std::fs::read_dir(dir.join(".app.db-litestream")).into_iter().flatten().flatten() {
        if entry.path().is_file() {
            all.push_str(&String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()));
        }
    }
    all
}

fn assert_silent(case: &Case, address: &str, logging: &str) {
    let dir = tempfile::tempdir().unwrap();
    let application = Connection::open(dir.path().join("app.db")).unwrap();
    application.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
    config(dir.path(), logging, &(case.replica)(address));
    let all = outputs(dir.path(), case);
    assert!(all.contains("127.0.0.1"), "{}: nothing failed, so nothing is proved:\n{all}", case.name);
    for secret in secrets() {
        let line = all.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{}, log as {logging}: {secret} is shown", case.name);
    }
}

#[test]
fn servers_that_repeat_the_request_reveal_nothing() {
    let address = parrot("403 Forbidden");
    thread::scope(|scope| {
        for case in &CASES {
            let address = &address;
            scope.spawn(move || assert_silent(case, address, "text"));
        }
    });
}

#[test]
fn refused_connections_reveal_nothing_in_any_format() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    thread::scope(|scope| {
        for case in &CASES {
            let address = &address;
            scope.spawn(move || assert_silent(case, address, "json"));
        }
    });
}

#[test]
fn configuration_errors_reveal_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Program::new(env!("CARGO_BIN_EXE_litestream")).time_limit(Duration::from_secs(2));
    for replica in [
        format!("type: s3\nbucket: b\nsecret-access-key: {KEY}\nno-such-key: 1\n"),
        format!("type: s3\nbucket: b\nsecret-access-key: [{KEY}]\n"),
        format!("url: webdav://user:{PASSWORD_IN_URL}@host:port/p\n"),
        format!("url: nonsense://user:{PASSWORD_IN_URL}@host/p\n"),
        format!("url: s3://AKID:{PASSWORD_IN_URL}@b/p\nbucket: b\n"),
        format!("path: webdav://user:{PASSWORD_IN_URL}@host/p\n"),
        format!("type: abs\naccount-key: {KEY}\n"),
        format!("type: webdav\nwebdav-url: http://user:{PASSWORD_IN_URL}@:x\npath: p\n"),
    ] {
        config(dir.path(), "text", &replica);
        for command in ["replicate", "databases", "config"] {
            let output = ours.run([command, "-config", dir.path().join("litestream.yml").to_str().unwrap()]);
            // A mapping that turns out to be right would run for ever.
            let Ok(output) = output else { continue };
            let said = format!("{}{}", output.stdout, output.stderr);
            for secret in secrets() {
                assert!(!said.contains(&secret), "{command}, {replica}: {secret} is shown:\n{said}");
            }
        }
    }
}
