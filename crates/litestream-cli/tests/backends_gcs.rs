//! Real processes on fake-gcs-server: kill -9, both binaries on one replica.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod site;

use litestream_testkit::gcs_server::{GcsBucket, fresh_bucket};
use site::Site;
use site::backend::{either_continues, kills_lose_nothing};

fn site_on(bucket: &GcsBucket, config: String) -> Site {
    Site::with_replica(config, vec![("STORAGE_EMULATOR_HOST", bucket.host.clone())])
}

#[test]
fn kills_lose_nothing_on_google() {
    let bucket = fresh_bucket().unwrap();
    let site = site_on(&bucket, bucket.config("some/db"));
    kills_lose_nothing(&site, 2);
    assert!(bucket.keys("some/db/ltx/0/").unwrap().len() > 1);
}

#[test]
fn either_continues_the_others_bucket() {
    let bucket = fresh_bucket().unwrap();
    either_continues(&site_on(&bucket, format!("url: gs://{}/some//db/\n", bucket.name)));
}
