//! Settings that must reach the S3 client, proved by what happens on the wire.

use std::time::{Duration, Instant};

use litestream_testkit::s3_server::{Bucket, Kind, fresh_bucket};

use crate::{Sandbox, row_count};

/// SeaweedFS checks signatures, so a key that does not arrive is noticed.
fn bucket() -> Bucket {
    fresh_bucket(Kind::SeaweedFs).unwrap()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}\n")).collect()
}

#[test]
fn a_configured_bucket_is_written_listed_and_restored() {
    let bucket = bucket();
    let sandbox = Sandbox::new();
    sandbox.database("a.db", 50);
    let config =
        sandbox.write("c.yml", &format!("dbs:\n  - path: a.db\n    replica:\n{}", indented(&bucket.config("pre/fix"))));
    let outcome = sandbox.run(&["databases", "-config", &config]);
    assert!(outcome.stdout.ends_with("  s3\n"), "{outcome:?}");

    let outcome = sandbox.run(&["replicate", "-once", "-config", &config]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    let replicating = format!(
        " msg=\"replicating to\" type=s3 sync-interval=1s bucket={} path=pre/fix region={} endpoint={}\n",
        bucket.bucket, bucket.region, bucket.endpoint
    );
    assert!(outcome.stdout.contains(&replicating), "{outcome:?}");
    assert!(!outcome.stdout.contains(&bucket.secret_key), "secrets are not logged");
    assert!(!bucket.keys("pre/fix/").unwrap().is_empty());

    let outcome = sandbox.run(&["restore", "-config", &config, "-o", "out.db", "a.db"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(row_count(&sandbox.path("out.db")), 50);
}

#[test]
fn a_url_takes_its_keys_from_the_environment() {
    let bucket = bucket();
    let url = format!("s3://{}/app?endpoint={}&region={}", bucket.bucket, bucket.endpoint, bucket.region);
    let sandbox = Sandbox::new()
        .with("LITESTREAM_ACCESS_KEY_ID", &bucket.access_key)
        .with("LITESTREAM_SECRET_ACCESS_KEY", &bucket.secret_key);
    sandbox.database("a.db", 20);
    let outcome = sandbox.run(&["replicate", "-once", "a.db", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let outcome = sandbox.run(&["ltx", "-json", "-level", "all", &url]);
    let rows: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(!rows.as_array().unwrap().is_empty());
    let outcome = sandbox.run(&["restore", "-o", "out.db", &url]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(row_count(&sandbox.path("out.db")), 20);
}

#[test]
fn wrong_keys_are_reported_at_once() {
    let bucket = bucket();
    let url = format!("s3://{}/app?endpoint={}&region={}", bucket.bucket, bucket.endpoint, bucket.region);
    let sandbox = Sandbox::new().with("AWS_ACCESS_KEY_ID", "nobody").with("AWS_SECRET_ACCESS_KEY", "nothing");
    let started = Instant::now();
    let outcome = sandbox.run(&["restore", "-o", "out.db", &url]);
    assert_eq!(outcome.code, 1);
    assert!(started.elapsed() < Duration::from_secs(20), "a refusal is not retried");
    assert!(outcome.stderr.starts_with("Error: ") && !outcome.stderr.contains("nothing"), "{outcome:?}");
}

/// Asked to stop while the store does not answer, a restore ends promptly and
/// with the signal's exit code.
#[test]
fn a_restore_that_hangs_can_be_stopped() {
    use std::io::Read;
    use std::net::TcpListener;
    use std::process::Stdio;

    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        // A store that accepts and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let url = format!("s3://bucket/app?endpoint={endpoint}&region=us-east-1");
        let sandbox = Sandbox::new().with("AWS_ACCESS_KEY_ID", "id").with("AWS_SECRET_ACCESS_KEY", "key");
        let mut child = sandbox
            .command(&["restore", "-o", "out.db", &url])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Once the request is here, the program is waiting.
        let (mut connection, _) = listener.accept().unwrap();
        assert!(connection.read(&mut [0; 16]).unwrap() > 0);
        let started = Instant::now();
        let killed = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(code));
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!(std::fs::read_dir(sandbox.path("")).unwrap().count(), 0, "nothing is left behind");
    }
}
