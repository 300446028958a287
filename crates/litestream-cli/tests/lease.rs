//! Two daemons with one replica under a lease: one writes, the other waits, and
//! takes over when the first is gone.
//!
//! Spec: store-and-restore §17.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod site;

use std::time::Duration;

use litestream_testkit::s3_server::{Bucket, Kind, fresh_bucket};
use litestream_testkit::scenario;
use site::{Site, ours};

const LIMIT: Duration = Duration::from_secs(60);
/// Long enough that a busy machine does not lose the lease between two renewals.
const TTL: Duration = Duration::from_secs(5);

/// A site of its own on the same prefix.
fn site(bucket: &Bucket) -> Site {
    let config = format!("{}lease:\n  enabled: true\n  ttl: {TTL:?}\n", bucket.config("replica"));
    let site = Site::with_replica(config, Vec::new());
    site.config("");
    site
}

fn document(bucket: &Bucket) -> Option<serde_json::Value> {
    Some(serde_json::from_slice(&bucket.get("replica/lock.json").unwrap()?).unwrap())
}

/// When the lease ends if nobody renews it.
fn end(bucket: &Bucket) -> jiff::Timestamp {
    document(bucket).unwrap().get("expires_at").unwrap().as_str().unwrap().parse().unwrap()
}

fn lease(bucket: &Bucket) -> Option<(u64, String)> {
    let document = document(bucket)?;
    let generation = document.get("generation").and_then(serde_json::Value::as_u64).unwrap();
    Some((generation, document.get("owner").and_then(serde_json::Value::as_str).unwrap().to_owned()))
}

#[test]
fn standby_writes_nothing_until_the_owner_is_gone_and_then_continues() {
    let bucket = fresh_bucket(Kind::SeaweedFs).unwrap();
    let (first, second) = (site(&bucket), site(&bucket));
    let first_db = scenario::quiet_connection(&first.db()).unwrap();
    let second_db = scenario::quiet_connection(&second.db()).unwrap();

    scenario::commit(&first_db, 3).unwrap();
    let mut owner = first.daemon(&ours());
    owner.wait_for_log("lease acquired", LIMIT).unwrap();
    first.wait_until_replicated(LIMIT, "the owner's database");
    let (generation, name) = lease(&bucket).unwrap();
    assert_eq!(generation, 1);
    assert!(name.ends_with(&format!(":{}", owner.id())), "{name}");

    scenario::commit(&second_db, 5).unwrap();
    let mut standby = second.daemon(&ours());
    let line = standby.wait_for_log("lease already held by", LIMIT).unwrap();
    assert!(line.contains("level=ERROR") && line.contains(&name), "it waits loudly: {line}");
    scenario::commit(&first_db, 3).unwrap();
    // It would have ended by then, had the owner not renewed it.
    let renewed = end(&bucket) + TTL;
    let started = std::time::Instant::now();
    while end(&bucket) < renewed {
        assert!(started.elapsed() < LIMIT, "not renewed: {}", owner.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    first.wait_until_replicated(LIMIT, "the owner's database while another waits");
    assert_eq!(lease(&bucket).unwrap(), (1, name));
    assert!(!standby.log().contains("lease acquired"));

    owner.kill9().unwrap();
    standby.wait_for_log("lease acquired", LIMIT).unwrap();
    scenario::commit(&second_db, 5).unwrap();
    second.wait_until_replicated(LIMIT, "the new owner's database");
    second.assert_restores("after the take-over");
    let (generation, name) = lease(&bucket).unwrap();
    assert_eq!(generation, 2);
    assert!(name.ends_with(&format!(":{}", standby.id())), "{name}");

    // The old owner is back with its own history, waits, and goes on above it.
    let mut owner = first.daemon(&ours());
    owner.wait_for_log("lease already held by", LIMIT).unwrap();
    assert!(standby.terminate(LIMIT).unwrap().success());
    owner.wait_for_log("lease acquired", LIMIT).unwrap();
    scenario::commit(&first_db, 1).unwrap();
    first.wait_until_replicated(LIMIT, "the first owner's database again");
    assert!(owner.terminate(LIMIT).unwrap().success());
    assert_eq!(lease(&bucket), None, "released at the end");
    first.assert_restores("after everything");
    first.assert_no_panic();
    second.assert_no_panic();
}

#[test]
fn a_replica_that_cannot_hold_a_lease_is_refused_at_the_start() {
    let replica = "type: file\npath: /nowhere\nlease:\n  enabled: true\n".to_owned();
    let site = Site::with_replica(replica, Vec::new());
    let config = site.config("");
    let output = ours().run(["replicate", "-config", config.to_str().unwrap()]).unwrap();
    let error = output.success().unwrap_err().to_string();
    assert!(error.contains("lease is not supported for file replicas, only for s3"), "{error}");
}
