//! Real processes on rclone's S3 server over TLS, trusting the server's authority
//! or nobody: what either binary wrote, both restore.
//!
//! Spec: backends §4.3, §12.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod site;

use litestream_testkit::forward_proxy::{ForwardProxy, NAME};
use litestream_testkit::rclone_s3::{CA, fresh_bucket};
use litestream_testkit::{scenario, upstream};
use site::{Site, ours};

#[test]
fn both_restore_what_either_wrote_without_verification() {
    let bucket = fresh_bucket().unwrap();
    for (path, program) in [("ours", ours()), ("theirs", upstream::litestream())] {
        let config = format!("{}skip-verify: true\n", bucket.config(path));
        let site = Site::with_replica(config, Vec::new());
        site.config("");
        let connection = scenario::quiet_connection(&site.db()).unwrap();
        scenario::commit(&connection, 3).unwrap();
        site.once(&program);
        site.assert_restores(path);
    }
}

#[test]
fn an_authority_of_the_environment_is_trusted() {
    let bucket = fresh_bucket().unwrap();
    for variable in ["SSL_CERT_FILE", "AWS_CA_BUNDLE"] {
        let site = Site::with_replica(bucket.config(variable), vec![(variable, CA.to_owned())]);
        site.config("");
        let connection = scenario::quiet_connection(&site.db()).unwrap();
        scenario::commit(&connection, 3).unwrap();
        site.once(&ours());
        site.wait_until_replicated(std::time::Duration::from_secs(30), variable);
    }
}

/// The store's name is one that only the proxy can resolve.
#[test]
fn a_proxy_of_the_environment_carries_everything() {
    let bucket = fresh_bucket().unwrap();
    // `me:word`
    let proxy = ForwardProxy::start(Some("bWU6d29yZA==")).unwrap();
    let environment =
        vec![("HTTPS_PROXY", format!("http://me:word@{}", proxy.address())), ("AWS_CA_BUNDLE", CA.to_owned())];
    let site = Site::with_replica(bucket.config("proxy").replace("127.0.0.1", NAME), environment);
    site.config("");
    let connection = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&connection, 3).unwrap();
    site.once(&ours());
    site.wait_until_replicated(std::time::Duration::from_secs(30), "through a proxy");
    let seen = proxy.seen();
    assert!(!seen.is_empty() && seen.iter().all(|line| line.starts_with("CONNECT store.invalid:")), "{seen:?}");
}
