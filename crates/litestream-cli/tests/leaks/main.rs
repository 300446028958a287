//! No credential reaches any output, however the store misbehaves.
//!
//! Every command runs against servers that are not there and servers that repeat
//! in their refusal the whole request, at the most talkative log level and in all
//! formats. What is planted as a secret must not be in what they print, nor in the
//! files they leave, in no usual coding.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up fails"
)]

mod cases;
mod parrot;

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use cases::{CASES, Case, Settings};
use litestream_testkit::program::Program;
use parrot::{Speech, parrot};
use rusqlite::Connection;

/// Long and strange enough to be found, with signs that codings change.
const PASSWORD: &str = "pl/nted+p@ss:w%rd";
const PASSWORD_IN_URL: &str = "pl%2Fnted%2Bp%40ss%3Aw%25rd";
const KEY: &str = "cGxhbnRlZC1zZWNyZXQta2V5LTAxMjM0NTY3ODlhYmM=";
const TOKEN: &str = "planted-session/token";
const SIGNATURE: &str = "plantedSignature%2B%2Fabcdef%3D";
/// From NATS's own documentation.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

/// Everything that must not be seen, in every usual coding.
fn secrets(settings: &Settings) -> Vec<String> {
    let planted = [PASSWORD, KEY, TOKEN, SIGNATURE, "plantedSignature+/abcdef=", "planted-secret-key", SEED];
    let mut all: Vec<String> = Vec::new();
    for secret in planted.into_iter().chain(settings.secrets.iter().map(String::as_str)) {
        let percent: String = secret
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        all.push(percent.to_lowercase());
        all.push(percent);
        all.push(secret.replace('/', "\\/"));
        all.push(secret.replace('/', "\\u002f"));
        all.push(secret.replace('+', " "));
        all.push(base64(secret).trim_end_matches('=').to_owned());
        // Behind `user:`, as Basic authentication has it, but for the joint.
        all.push(base64(&format!("user:{secret}")).trim_end_matches('=').chars().skip(8).collect());
        all.push(secret.to_owned());
    }
    // A part is as bad: the middle of the password, the end of the seed.
    all.extend(["nted+p@ss", "KFSNVUZRF5UHPM", "ZC1zZWNyZXQta2V5"].map(str::to_owned));
    all
}

fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(LETTERS[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    out
}

fn config(dir: &Path, logging: &str, replica: &str) {
    let replica: String = replica.lines().map(|line| format!("      {line}\n")).collect();
    let text = format!(
        "logging:\n  level: trace\n  type: {logging}\naddr: \"127.0.0.1:0\"\n\
         socket: {{enabled: true, path: {}}}\nheartbeat-url: https://user:{PASSWORD_IN_URL}@hc.example/{TOKEN}\n\
         dbs:\n  - path: {}\n    replica:\n{replica}",
        dir.join("ls.sock").display(),
        dir.join("app.db").display()
    );
    std::fs::write(dir.join("litestream.yml"), text).unwrap();
}

/// Everything that the binary says about the replica, and all it leaves in files
/// of its own.
fn outputs(dir: &Path, settings: &Settings) -> String {
    let ours = settings
        .environment
        .iter()
        .fold(Program::new(env!("CARGO_BIN_EXE_litestream")), |program, (name, value)| program.env(name, value))
        .env("HOME", dir.to_str().unwrap())
        .time_limit(Duration::from_secs(30));
    let (config, db) = (dir.join("litestream.yml"), dir.join("app.db"));
    let (config, db) = (config.to_str().unwrap(), db.to_str().unwrap());
    let mut all = String::new();
    let mut run = |words: &[&str]| {
        let output = ours.run(words).unwrap();
        writeln!(all, "== {}\n{}{}", words[0], output.stdout, output.stderr).unwrap();
    };
    for words in [&["databases"][..], &["status", "-timeout", "1"], &["config"], &["config", "-json"]] {
        run(&[words, &["-config", config]].concat());
    }

    // Beside a daemon that has failed once.
    let mut daemon = ours.daemon(["replicate", "-config", config], &dir.join("daemon.log")).unwrap();
    let serving = daemon.wait_for_log("serving metrics on", Duration::from_secs(30)).unwrap();
    let said = daemon.wait_for_log("rror", Duration::from_secs(30)).unwrap();
    for words in
        [&["list"][..], &["list", "-json"], &["info"], &["info", "-json"], &["status", "-json", "-timeout", "1"]]
    {
        run(&[words, &["-config", config]].concat());
    }
    run(&["sync", "-config", config, "-wait", "-timeout", "1", db]);
    if let Some(url) = settings.replica.lines().find_map(|line| line.strip_prefix("url: ")) {
        let other = dir.join("other.db");
        run(&["register", "-config", config, "-replica", &format!("{url}/other"), other.to_str().unwrap()]);
        run(&["restore", "-config", config, "-o", "/nonexistent/x.db", "-replica", "s3", db]);
    }
    let page = metrics(&serving);
    writeln!(all, "== replicate, until {said}\n{}== metrics\n{page}", daemon.log()).unwrap();
    daemon.kill9().unwrap();

    // These try for half a minute; the first failures say it all.
    for (number, words) in [
        vec!["ltx", "-config", config, db],
        vec!["points", "-config", config, db],
        vec!["restore", "-config", config, "-o", "/nonexistent/x.db", db],
        vec!["check", "-config", config, db],
    ]
    .into_iter()
    .enumerate()
    {
        let mut run = ours.daemon(&words, &dir.join(format!("log-{number}"))).unwrap();
        // Some say it in other words and end.
        let said = run.wait_for_log("rror", Duration::from_secs(10)).unwrap_or_else(|error| error.to_string());
        writeln!(all, "== {}, until {said}\n{}", words[0], run.log()).unwrap();
        run.kill9().unwrap();
    }
    for entry in std::fs::read_dir(dir.join(".app.db-litestream")).into_iter().flatten().flatten() {
        if entry.path().is_file() {
            all.push_str(&String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()));
        }
    }
    all
}

/// The metrics page of the daemon that logged this line.
fn metrics(line: &str) -> String {
    let (_, rest) = line.split_once("http://127.0.0.1:").expect("the line has the address of the listener");
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains("litestream_"), "{page}");
    page
}

fn assert_silent(case: &Case, address: &str, logging: &str) {
    let dir = tempfile::tempdir().unwrap();
    let application = Connection::open(dir.path().join("app.db")).unwrap();
    application.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
    let settings = (case.settings)(dir.path(), address);
    config(dir.path(), logging, &settings.replica);
    let all = outputs(dir.path(), &settings);
    for secret in secrets(&settings) {
        let line = all.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{}, log as {logging}: {secret} is shown", case.name);
    }
}

/// Many cases, several at a time: mostly they wait.
fn all_silent(cases: &[&Case], address: impl Fn(Speech) -> String + Sync, shift: usize) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { return };
                    assert_silent(case, &address(case.speech), ["text", "json", "pretty"][(number + shift) % 3]);
                }
            });
        }
    });
}

#[test]
fn servers_that_repeat_the_request_reveal_nothing() {
    let (http, nats, ssh) = (parrot(Speech::Http), parrot(Speech::Nats), parrot(Speech::Ssh));
    all_silent(
        &CASES.iter().collect::<Vec<_>>(),
        |speech| match speech {
            Speech::Http => http.clone(),
            Speech::Nats => nats.clone(),
            Speech::Ssh => ssh.clone(),
        },
        0,
    );
}

#[test]
fn refused_connections_reveal_nothing_in_any_format() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    // Nobody repeats anything here; one case of each store will do.
    let store = |case: &Case| case.name.split(',').next().unwrap();
    let mut cases: Vec<&Case> = CASES.iter().collect();
    cases.dedup_by_key(|case| store(case));
    assert_eq!(cases.len(), 7, "all stores but `file`");
    all_silent(&cases, |_| address.clone(), 1);
}

#[test]
fn configuration_errors_reveal_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Program::new(env!("CARGO_BIN_EXE_litestream")).time_limit(Duration::from_secs(2));
    for replica in [
        format!("type: s3\nbucket: b\nsecret-access-key: {KEY}\nno-such-key: 1\n"),
        format!("type: s3\nbucket: b\nsecret-acces-key: {KEY}\n"),
        format!("type: s3\nbucket: b\nsecret-access-key: {KEY}\nsecret-access-key: {KEY}\nregion: [1]\n"),
        format!("type: s3\nbucket: b\nsecret-access-key: [{KEY}]\n"),
        format!("type: s3\nbucket: b\nsse-customer-key: {TOKEN}\n"),
        format!("type: s3\nbucket: b\nsse-customer-key-path: /nonexistent\nsecret-access-key: \"{KEY}\n"),
        format!("url: webdav://user:{PASSWORD_IN_URL}@host:port/p\n"),
        format!("url: webdav://user:{PASSWORD}@host/p\n"),
        format!("url: sftp://user:{PASSWORD}@host/p\n"),
        format!("url: sftp://user:{PASSWORD_IN_URL}@host/%zz\n"),
        format!("url: user:{PASSWORD_IN_URL}@host/p\n"),
        format!("url: nonsense://user:{PASSWORD_IN_URL}@host/p\n"),
        format!("url: s3://AKID:{PASSWORD_IN_URL}@b/p\nbucket: b\n"),
        format!("url: s3://b/p?sseCustomerKey={TOKEN}\n"),
        format!("path: webdav://user:{PASSWORD_IN_URL}@host/p\n"),
        format!("type: abs\naccount-key: {KEY}\n"),
        format!("type: abs\nbucket: b\naccount-name: a\naccount-key: {TOKEN}\n"),
        format!("type: webdav\nwebdav-url: http://user:{PASSWORD_IN_URL}@:x\npath: p\n"),
        format!("type: sftp\nhost: user:{PASSWORD_IN_URL}@host:x\nuser: u\n"),
        format!("url: nats://h/b\nnkey: {}\n", SEED.replace('3', "4")),
        format!("url: nats://h/b\njwt: {TOKEN}\nseed: {TOKEN}\n"),
    ] {
        config(dir.path(), "text", &replica);
        for command in ["replicate", "databases", "config"] {
            let output = ours.run([command, "-config", dir.path().join("litestream.yml").to_str().unwrap()]);
            // A mapping that turns out to be right runs until it is killed; the error tells what it said.
            let said = match output {
                Ok(output) => format!("{}{}", output.stdout, output.stderr),
                Err(killed) => format!("{killed:#}"),
            };
            for secret in secrets(&Settings::default()) {
                assert!(!said.contains(&secret), "{command}, {replica}: {secret} is shown:\n{said}");
            }
        }
    }
}

/// On the command line a URL stands in the history of the shell; it need not stand
/// in a log as well.
#[test]
fn urls_of_the_command_line_are_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Program::new(env!("CARGO_BIN_EXE_litestream")).time_limit(Duration::from_secs(20));
    let ours = ours.env("AWS_ACCESS_KEY_ID", "AKID").env("AWS_SECRET_ACCESS_KEY", KEY);
    let address = parrot(Speech::Http);
    let key = KEY.replace('=', "%3D");
    for url in [
        format!("webdav://user:{PASSWORD_IN_URL}@{address}/p"),
        format!("webdav://user:{PASSWORD}@{address}/p"),
        format!("s3://b/p?endpoint=http://{address}&region=r&sseCustomerKey={key}"),
    ] {
        let output = dir.path().join("out.db");
        let output = output.to_str().unwrap();
        for words in [
            vec!["restore", "-o", output, &url],
            vec!["restore", "-dry-run", "-txid", "7", "-o", output, &url],
            vec!["restore", "-o", &url, &url],
            vec!["restore", &url, &url],
            vec!["restore", &url],
            vec!["ltx", &url],
            vec!["points", &url],
            vec!["check", &url],
            vec!["status", &url],
            vec!["replicate", "-once", "-config", &url],
            vec!["replicate", &url],
            vec!["replicate", "-once", output, &url, &url],
            vec!["register", "-socket", "/nonexistent", "-replica", &url, output],
            vec!["sync", "-socket", "/nonexistent", &url],
            vec!["reset", &url],
        ] {
            let said = ours.run(&words).map(|output| format!("{}{}", output.stdout, output.stderr));
            let said = said.unwrap_or_else(|_| panic!("{words:?} did not end"));
            for secret in secrets(&Settings::default()) {
                assert!(!said.contains(&secret), "{words:?}: {secret} is shown:\n{said}");
            }
        }
    }
}
