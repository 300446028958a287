//! Stores that are not there when the daemon starts: it runs, captures, says what
//! is wrong, lets the other databases be, and catches up when the store comes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use litestream_testkit::azure_server;
use litestream_testkit::fault_proxy::FaultProxy;
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::program::Program;
use litestream_testkit::s3_server::{self, Kind};
use litestream_testkit::webdav_server;
use rusqlite::Connection;

/// One database and where it goes; `direct` is the same place without a proxy.
struct Patient {
    name: &'static str,
    replica: String,
    direct: String,
}

/// The store behind each of these, and what becomes of connections to it.
fn patients() -> (Vec<Patient>, Vec<FaultProxy>) {
    let s3 = s3_server::fresh_bucket(Kind::Moto).unwrap();
    let azure = azure_server::fresh_container().unwrap();
    let webdav = webdav_server::fresh_share(webdav_server::Kind::Nginx).unwrap();
    let (mut patients, mut proxies) = (Vec::new(), Vec::new());
    let mut add = |name, url: &str, config: String, is_refused: bool| {
        let address = url.trim_start_matches("http://").split('/').next().unwrap();
        let proxy = FaultProxy::start(address).unwrap();
        if is_refused {
            proxy.refuse()
        } else {
            proxy.swallow()
        }
        patients.push(Patient { name, replica: config.replace(address, &proxy.address()), direct: config });
        proxies.push(proxy);
    };
    add("s3-refused", &s3.endpoint, s3.config("refused"), true);
    add("s3-silent", &s3.endpoint, s3.config("silent"), false);
    add("abs-refused", &azure.endpoint, azure.config("refused"), true);
    add("webdav-silent", &webdav.url, webdav.config(), false);
    (patients, proxies)
}

const LIMIT: Duration = Duration::from_secs(60);

fn wait_until(what: &str, log: &dyn Fn() -> String, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "{what} took too long; log:\n{}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn unreachable_stores_hold_up_nobody_and_are_caught_up_with() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Program::new(env!("CARGO_BIN_EXE_litestream"));
    let (mut patients, proxies) = patients();
    let nowhere = "type: s3\nbucket: b\npath: p\nendpoint: http://no-such-host.invalid\nregion: us-east-1\n\
                   access-key-id: a\nsecret-access-key: b\n";
    let here = |name: &str| format!("type: file\npath: {}\n", dir.path().join(name).display());
    patients.push(Patient { name: "healthy", replica: here("replica"), direct: here("replica") });
    patients.push(Patient { name: "nameless", replica: nowhere.into(), direct: here("other") });
    let db = |name: &str| dir.path().join(format!("{name}.db"));
    let config = |file: &str, replica: &dyn Fn(&Patient) -> String| -> PathBuf {
        let mut text = "dbs:\n".to_owned();
        for patient in &patients {
            writeln!(text, "  - path: {}\n    monitor-interval: 50ms\n    replica:", db(patient.name).display())
                .unwrap();
            for line in replica(patient).lines().chain(["sync-interval: 100ms"]) {
                writeln!(text, "      {line}").unwrap();
            }
        }
        let path = dir.path().join(file);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (faulty, direct) = (config("faulty.yml", &|p| p.replica.clone()), config("direct.yml", &|p| p.direct.clone()));
    let applications: Vec<Connection> = patients
        .iter()
        .map(|patient| {
            let connection = Connection::open(db(patient.name)).unwrap();
            connection
                .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('old')")
                .unwrap();
            connection
        })
        .collect();
    let restored = |name: &str| -> bool {
        let output = dir.path().join("restored.db");
        let _ = std::fs::remove_file(&output); // not there the first time
        ours.restore_with(&direct, &db(name), &output).is_ok()
            && read_image(&db(name)).unwrap().difference(&Image::of_closed_file(&output).unwrap()).is_none()
    };

    // What a database's next file is called, only its store can tell the first time.
    ours.run([OsStr::new("replicate"), OsStr::new("-once"), OsStr::new("-config"), direct.as_os_str()])
        .unwrap()
        .success()
        .unwrap();
    let newest_capture = |name: &str| {
        let level = dir.path().join(format!(".{name}.db-litestream/ltx/0"));
        std::fs::read_dir(level).into_iter().flatten().flatten().map(|file| file.file_name()).max()
    };
    let before: Vec<_> = patients.iter().map(|patient| newest_capture(patient.name)).collect();

    let mut daemon = ours.replicate(&faulty, &dir.path().join("log")).unwrap();
    // The first failures are told at once, the silent servers soon.
    daemon.wait_for_log("cannot connect to 127.0.0.1", Duration::from_secs(15)).unwrap();
    daemon.wait_for_log("no-such-host.invalid", Duration::from_secs(15)).unwrap();
    for application in &applications {
        application.execute("INSERT INTO t VALUES ('new')", ()).unwrap();
    }
    wait_until("the healthy database", &|| daemon.log(), || restored("healthy"));
    daemon.wait_for_log("server does not answer, still waiting", Duration::from_secs(30)).unwrap();
    // Captured here, although it cannot go anywhere yet.
    for (patient, before) in patients.iter().zip(&before).filter(|(patient, _)| patient.name != "nameless") {
        wait_until(patient.name, &|| daemon.log(), || newest_capture(patient.name) > *before);
    }
    assert!(daemon.status().unwrap().is_none(), "{}", daemon.log());

    for proxy in &proxies {
        proxy.pass();
    }
    for patient in patients.iter().filter(|patient| patient.name != "nameless") {
        wait_until(patient.name, &|| daemon.log(), || restored(patient.name));
    }
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    daemon.kill9().unwrap();
}

/// Ten levels are listed at the start; a store that is away is told about once.
#[test]
fn a_store_that_is_away_is_one_line_for_each_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = dir.path().join("litestream.yml");
    let text = format!(
        "dbs:\n  - path: {}\n    replica:\n      type: s3\n      bucket: b\n      path: p\n      endpoint: http://{nobody}\n      region: us-east-1\n      access-key-id: KEYID1234\n      secret-access-key: s3cr3t5678\n",
        dir.path().join("app.db").display()
    );
    std::fs::write(&config, text).unwrap();
    let connection = Connection::open(dir.path().join("app.db")).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
    let ours = Program::new(env!("CARGO_BIN_EXE_litestream"));
    let mut daemon = ours.replicate(&config, &dir.path().join("log")).unwrap();
    for attempt in 3..=5 {
        let attempt = format!("attempt={attempt} ");
        daemon.wait_for_log(&attempt, LIMIT).unwrap();
        let log = daemon.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&attempt)).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains("level=WARN") && lines[0].contains(&nobody.to_string()), "{log}");
    }
    assert!(!daemon.log().contains("s3cr3t") && !daemon.log().contains("KEYID"), "{}", daemon.log());
}
