//! `litestream check` on stores that work, half work and do not.

use std::io::{Read, Write};
use std::net::TcpListener;

use litestream_testkit::s3_server::{Bucket, Kind, fresh_bucket};
use litestream_testkit::webdav_server;
use serde_json::Value;

use crate::{Outcome, Sandbox};

/// Result of each check by name, and of all.
fn results(outcome: &Outcome) -> (Value, impl Fn(&str) -> String) {
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    let checks = answer.get("checks").and_then(Value::as_array).unwrap().clone();
    let of = move |name: &str| {
        let check = checks.iter().find(|check| check.get("name").is_some_and(|known| known == name));
        let result = check.map(|check| check.get("result").and_then(Value::as_str).unwrap());
        result.unwrap_or("absent").to_owned()
    };
    (answer, of)
}

fn on_bucket(bucket: &Bucket) -> (Sandbox, String) {
    let sandbox =
        Sandbox::new().with("AWS_ACCESS_KEY_ID", &bucket.access_key).with("AWS_SECRET_ACCESS_KEY", &bucket.secret_key);
    (sandbox, format!("s3://{}/app?endpoint={}&region={}", bucket.bucket, bucket.endpoint, bucket.region))
}

#[test]
fn a_directory_passes_and_is_left_as_it_was() {
    let sandbox = Sandbox::new();
    let url = format!("file://{}", sandbox.text("backup/app"));
    let outcome = sandbox.run(&["check", "-json", &url]);
    let (answer, of) = results(&outcome);
    assert_eq!((outcome.code, answer["result"].as_str()), (0, Some("ok")), "{outcome:?}");
    for name in ["connect", "list", "contents", "write", "read", "range", "create-only", "delete"] {
        assert_eq!(of(name), "ok", "{name}: {outcome:?}");
    }
    assert!(!sandbox.path("backup").exists(), "directories it made are gone");

    sandbox.database("a.db", 10);
    assert_eq!(sandbox.run(&["replicate", "-once", "a.db", &url]).code, 0);
    let files = |sandbox: &Sandbox| {
        let listed = sandbox.run(&["ltx", "-level", "all", "-json", &url]);
        listed.stdout
    };
    let before = files(&sandbox);
    let outcome = sandbox.run(&["check", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.ends_with("\nresult: ok\n"), "{outcome:?}");
    assert!(outcome.stdout.contains("newest txid 000000000000000"), "{outcome:?}");
    assert_eq!(files(&sandbox), before);
    let names: Vec<_> =
        std::fs::read_dir(sandbox.path("backup/app")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["ltx"]);
}

#[test]
fn read_only_tells_whether_a_restore_would_work() {
    let sandbox = Sandbox::new();
    let url = format!("file://{}", sandbox.text("backup"));
    let outcome = sandbox.run(&["check", "-read-only", "-json", &url]);
    assert_eq!((outcome.code, results(&outcome).1("restore").as_str()), (1, "failed"), "{outcome:?}");

    sandbox.database("a.db", 10);
    assert_eq!(sandbox.run(&["replicate", "-once", "a.db", &url]).code, 0);
    let outcome = sandbox.run(&["check", "-read-only", "-json", &url]);
    let (_, of) = results(&outcome);
    assert_eq!((outcome.code, of("restore"), of("read"), of("range")), (0, "ok".into(), "ok".into(), "ok".into()));
    assert_eq!(of("write"), "absent");

    let config = sandbox
        .write("c.yml", &format!("dbs:\n  - path: a.db\n    replica:\n      path: {}\n", sandbox.text("backup")));
    let outcome = sandbox.run(&["check", "-read-only", "-config", &config, "a.db"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

#[test]
fn a_bucket_with_conditions_passes_and_is_left_empty() {
    let bucket = fresh_bucket(Kind::Moto).unwrap();
    let (sandbox, url) = on_bucket(&bucket);
    let outcome = sandbox.run(&["check", "-json", &url]);
    let (_, of) = results(&outcome);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for name in ["create-only", "lease", "clock", "delete"] {
        assert_eq!(of(name), "ok", "{name}: {outcome:?}");
    }
    assert_eq!(bucket.keys("").unwrap(), Vec::<String>::new());
    assert!(!outcome.stdout.contains(&bucket.secret_key));
}

#[test]
fn a_webdav_server_is_checked_and_left_empty() {
    let share = webdav_server::fresh_share(webdav_server::Kind::Rclone).unwrap();
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 1);
    let replica: String = share.config().lines().map(|line| format!("      {line}\n")).collect();
    let config = sandbox.write("c.yml", &format!("dbs:\n  - path: a.db\n    replica:\n{replica}"));
    let outcome = sandbox.run(&["check", "-json", "-config", &config, "a.db"]);
    let (_, of) = results(&outcome);
    assert!(matches!(outcome.code, 0 | 2), "{outcome:?}");
    for name in ["connect", "list", "write", "read", "range", "delete", "clock"] {
        assert_eq!(of(name), "ok", "{name}: {outcome:?}");
    }
    assert_eq!(share.files(), Vec::<String>::new());
}

#[test]
fn a_store_that_is_not_there_is_named_as_such() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sandbox = Sandbox::new().with("AWS_ACCESS_KEY_ID", "id").with("AWS_SECRET_ACCESS_KEY", "secret-key");
    let outcome = sandbox.run(&["check", "-json", &format!("s3://b/p?endpoint=http://127.0.0.1:{port}")]);
    let (_, of) = results(&outcome);
    assert_eq!((outcome.code, of("connect"), of("write")), (1, "failed".into(), "absent".into()), "{outcome:?}");
    assert!(outcome.stdout.contains("nobody listens there"), "{outcome:?}");
    assert!(!outcome.stdout.contains("secret-key") && !outcome.stderr.contains("secret-key"));
}

/// Listing is allowed, everything else is not.
#[test]
fn missing_permissions_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(byte[0]);
            }
            let lists = head.starts_with(b"GET") && String::from_utf8_lossy(&head).contains("list-type=2");
            let (status, body) = if lists {
                ("200 OK", "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
            } else {
                ("403 Forbidden", "<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
            };
            let answer =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            // The client may have gone; the test sees that on its side.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let sandbox = Sandbox::new().with("AWS_ACCESS_KEY_ID", "id").with("AWS_SECRET_ACCESS_KEY", "secret-key");
    let outcome = sandbox.run(&["check", "-json", &format!("s3://b/p?endpoint={endpoint}")]);
    let (_, of) = results(&outcome);
    assert_eq!((outcome.code, of("list"), of("write")), (1, "ok".into(), "failed".into()), "{outcome:?}");
    assert!(outcome.stdout.contains("s3:PutObject"), "{outcome:?}");
}
