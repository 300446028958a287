//! The lease against a server that honours conditions and one that does not.

use std::sync::Arc;
use std::time::Duration;

use litestream_replica::clock::SystemClock;
use litestream_replica::lease::{LOCK_NAME, LeaseOptions, LeasedClient};
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::{ClientContext, ErrorKind, ReplicaClient, WriteMode};
use litestream_testkit::s3_server::{Bucket, Kind, fresh_bucket};

use super::scripted::{Step, serve};
use super::suite::{id, request};

/// Long enough that a busy machine does not lose the lease between two renewals.
const TTL: Duration = Duration::from_secs(5);

fn leased(options: S3Options, owner: &str) -> LeasedClient {
    let inner = Arc::new(S3Client::new(options, &ClientContext::default()).unwrap());
    let options = LeaseOptions { owner: owner.to_owned(), ttl: TTL };
    LeasedClient::new(inner, options, Arc::new(SystemClock)).unwrap()
}

/// When the lease ends if nobody renews it.
fn end(bucket: &Bucket) -> jiff::Timestamp {
    let document = bucket.get(&format!("db/{LOCK_NAME}")).unwrap().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    document.get("expires_at").unwrap().as_str().unwrap().parse().unwrap()
}

fn options(bucket: &Bucket, path: &str) -> S3Options {
    S3Options {
        bucket: Some(bucket.bucket.clone()),
        path: Some(path.to_owned()),
        endpoint: Some(bucket.endpoint.clone()),
        region: Some(bucket.region.clone()),
        access_key_id: Some(bucket.access_key.clone()),
        secret_access_key: Some(bucket.secret_key.clone()),
        ..S3Options::default()
    }
}

#[tokio::test]
async fn only_the_holder_writes_and_a_released_lease_passes_on() {
    for kind in [Kind::SeaweedFs, Kind::Moto] {
        let bucket = tokio::task::spawn_blocking(move || fresh_bucket(kind)).await.unwrap().unwrap();
        let (a, b) = (leased(options(&bucket, "db"), "a:1"), leased(options(&bucket, "db"), "b:2"));
        let early = a.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
        assert_eq!(early.kind(), ErrorKind::Leased, "nothing is written before the claim");
        assert!(a.claim().await.unwrap(), "the first claim is new");
        assert!(!a.claim().await.unwrap());
        a.write(request(id(0, 1, 1), b"x")).await.unwrap();

        let refused = b.claim().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Leased);
        assert!(refused.to_string().contains("lease already held by a:1 until "), "{refused}");
        // It would have ended by then, had it not been renewed.
        let renewed = end(&bucket) + TTL;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while end(&bucket) < renewed {
            assert!(tokio::time::Instant::now() < deadline, "{kind:?}: not renewed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(b.claim().await.unwrap_err().kind(), ErrorKind::Leased);
        a.write(request(id(0, 2, 2), b"x")).await.unwrap();
        a.delete(&[id(0, 1, 1)]).await.unwrap();

        a.release().await.unwrap();
        assert_eq!(a.write(request(id(0, 3, 3), b"x")).await.unwrap_err().kind(), ErrorKind::Leased);
        assert!(!bucket.keys("db/").unwrap().contains(&format!("db/{LOCK_NAME}")), "{kind:?}");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while let Err(error) = b.claim().await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while b.claim().await.unwrap() {}
        b.write(request(id(0, 3, 3), b"x")).await.unwrap();
        // Somebody who does not play by the rules takes it: nothing is deleted.
        bucket
            .put(&format!("db/{LOCK_NAME}"), br#"{"generation":9,"expires_at":"2099-01-01T00:00:00Z","owner":"c:3"}"#)
            .unwrap();
        assert_eq!(b.delete(&[id(0, 3, 3)]).await.unwrap_err().kind(), ErrorKind::Leased);
        let mut overwrite = request(id(0, 4, 4), b"x");
        overwrite.mode = WriteMode::Overwrite;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while b.write(request(id(0, 3, 3), b"x")).await.is_ok() {
            assert!(tokio::time::Instant::now() < deadline, "the loss is not noticed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(b.write(overwrite).await.unwrap_err().kind(), ErrorKind::Leased);
    }
}

#[tokio::test]
async fn store_that_ignores_conditions_is_refused() {
    let missing = Step::Answer(404, String::new(), b"<Error><Code>NoSuchKey</Code></Error>".to_vec());
    let stored = Step::Answer(200, "etag: \"1\"\r\n".to_owned(), Vec::new());
    let (endpoint, seen) = serve(vec![missing, stored]).await;
    let options = S3Options {
        bucket: Some("b".into()),
        endpoint: Some(endpoint),
        access_key_id: Some("id".into()),
        secret_access_key: Some("key".into()),
        ..S3Options::default()
    };
    let client = leased(options, "a:1");
    let error = client.claim().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("ignores If-None-Match: this store cannot hold a lease"), "{error}");
    assert_eq!(client.write(request(id(0, 1, 1), b"x")).await.unwrap_err().kind(), ErrorKind::Leased);
    let last = seen.lock().unwrap().last().unwrap().clone();
    assert!(last.starts_with("delete "), "its own document is removed: {last}");
}
