//! TLS in front of a store that speaks S3, on rclone's server. The suite does not
//! run on it: a deletion there takes rclone many seconds.

use std::path::PathBuf;

use litestream_replica::http::{HttpOptions, HttpPool};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::{ClientContext, ErrorKind, ReplicaClient};
use litestream_testkit::rclone_s3::{ACCESS_KEY, Bucket, CA, SECRET_KEY, fresh_bucket};

use super::suite::{id, read, request};

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

    let http = HttpPool::new(HttpOptions { ca_file: Some(PathBuf::from(CA)), ..HttpOptions::default() });
    let client = S3Client::new(server.options("db"), &ClientContext { http, ..ClientContext::default() }).unwrap();
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"x");
}
