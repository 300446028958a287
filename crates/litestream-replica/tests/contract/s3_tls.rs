//! TLS in front of a store that speaks S3, on rclone's server: the suite but for what
//! deletes, which takes rclone many seconds, and for a thousand files.

use std::path::PathBuf;
use std::sync::Arc;

use litestream_replica::http::{HttpOptions, HttpPool};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::{ClientContext, ErrorKind, ReplicaClient};
use litestream_testkit::rclone_s3::{ACCESS_KEY, Bucket, CA, SECRET_KEY, fresh_bucket};

use super::suite::{Replica, id, read, request};

struct Server(Bucket);

impl Server {
    fn options(&self, path: &str) -> S3Options {
        S3Options {
            bucket: Some(self.0.name.clone()),
            path: Some(path.to_owned()),
            endpoint: Some(self.0.endpoint.clone()),
            access_key_id: Some(ACCESS_KEY.to_owned()),
            secret_access_key: Some(SECRET_KEY.to_owned()),
            ..S3Options::default()
        }
    }
}

/// Trusts the authority of the tests.
fn trusting() -> ClientContext {
    let http = HttpPool::new(HttpOptions { ca_file: Some(PathBuf::from(CA)), ..HttpOptions::default() });
    ClientContext { http, ..ClientContext::default() }
}

impl Replica for Server {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(S3Client::new(self.options(path), &trusting()).unwrap())
    }

    fn keeps_odd_slashes(&self) -> bool {
        false
    }
}

mod on_rclone {
    use super::server;
    super::super::suite::for_replica!(server:
        absent_replica_is_empty,
        written_file_is_listed_and_read_back,
        same_content_may_be_created_twice,
        different_content_is_a_conflict,
        overwrite_replaces,
        lists_are_sorted_and_seek_by_min,
        ranges_are_cut_exactly,
        missing_file_is_not_found,
        failing_body_leaves_nothing,
        abandoned_write_leaves_nothing,
        long_stream_arrives_whole,
        local_file_arrives_whole,
        listing_with_metadata_gives_the_header_time,
        replicas_side_by_side_do_not_mix,
        objects_of_any_layout_are_listed_and_read,
    );
}

async fn server() -> Server {
    Server(tokio::task::spawn_blocking(fresh_bucket).await.unwrap().unwrap())
}

#[tokio::test]
async fn unknown_authority_is_refused_unless_verification_is_off() {
    let server = server().await;
    let context =
        ClientContext { retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() }, ..ClientContext::default() };
    let client = S3Client::new(server.options("db"), &context).unwrap();
    let error = client.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("is not trusted, trust its issuer (SSL_CERT_FILE, AWS_CA_BUNDLE)"), "{error}");

    let options = S3Options { skip_verify: Some(true), ..server.options("db") };
    let client = S3Client::new(options, &context).unwrap();
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"x");

    let client = S3Client::new(server.options("db"), &trusting()).unwrap();
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"x");
}
