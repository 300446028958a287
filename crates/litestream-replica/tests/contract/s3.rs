//! The suite against two servers that are not ours, and what only S3 has.
//!
//! SeaweedFS checks signatures and honours conditions; moto keeps odd keys and
//! checks nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt;
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::{ClientContext, ErrorKind, Level, ReplicaClient, ReplicaUrl};
use litestream_testkit::s3_server::{self, Bucket, Kind};

use super::faults_tcp;
use super::suite::{self, Replica, bytes_of, id, list, read, request};

pub(crate) struct Server(Bucket, Kind);

impl Server {
    pub(crate) fn options(&self) -> S3Options {
        let Bucket { endpoint, region, bucket, access_key, secret_key, .. } = self.0.clone();
        S3Options {
            bucket: Some(bucket),
            endpoint: Some(endpoint),
            region: Some(region),
            access_key_id: Some(access_key),
            secret_access_key: Some(secret_key),
            ..S3Options::default()
        }
    }

    fn client(&self, path: &str) -> S3Client {
        let options = S3Options { path: Some(path.to_owned()), ..self.options() };
        S3Client::new(options, &ClientContext::default()).unwrap()
    }
}

impl Replica for Server {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(self.client(path))
    }

    fn keeps_odd_slashes(&self) -> bool {
        self.1 == Kind::Moto
    }
}

impl faults_tcp::Remote for Server {
    fn address(&self) -> String {
        self.0.endpoint.replace("http://", "")
    }

    fn through(&self, address: &str, path: &str, context: ClientContext) -> Arc<dyn ReplicaClient> {
        let (path, endpoint) = (Some(path.to_owned()), Some(format!("http://{address}")));
        Arc::new(S3Client::new(S3Options { path, endpoint, ..self.options() }, &context).unwrap())
    }
}

async fn server(kind: Kind) -> Server {
    let bucket = tokio::task::spawn_blocking(move || s3_server::fresh_bucket(kind)).await.unwrap();
    Server(bucket.unwrap(), kind)
}

async fn moto() -> Server {
    server(Kind::Moto).await
}

async fn seaweed() -> Server {
    server(Kind::SeaweedFs).await
}

mod on_moto {
    use super::moto;
    super::suite::for_replica!(moto);
}

mod on_seaweed {
    use super::seaweed;
    super::suite::for_replica!(seaweed);
    super::faults_tcp::for_remote!(seaweed);
}

#[tokio::test]
async fn keys_are_those_that_upstream_writes() {
    let server = moto().await;
    let name = "0000000000000001-0000000000000002.ltx";
    for (path, prefix) in [("db", "db/"), ("", "/"), (".", "./"), ("a/", "a//"), ("/lead/ing/", "/lead/ing//")] {
        let client = server.client(path);
        client.write(request(id(9, 1, 2), b"x")).await.unwrap();
        let key = format!("{prefix}0009/{name}");
        assert_eq!(server.0.keys(prefix).unwrap(), [key], "path {path:?}");
        assert_eq!(suite::ids(&client, Level::SNAPSHOT).await, [id(9, 1, 2)]);
        assert_eq!(read(&client, id(9, 1, 2), 0, 0).await.unwrap(), b"x");
        client.delete_all().await.unwrap();
        assert!(server.0.keys(prefix).unwrap().is_empty());
    }
}

#[tokio::test]
async fn files_in_deeper_directories_are_not_listed() {
    let server = moto().await;
    let client = server.client("db");
    let name = "0000000000000001-0000000000000001.ltx";
    for key in [format!("db/0000/{name}"), format!("db/0000/sub/{name}"), format!("db/0000/{name}.tmp")] {
        server.0.put(&key, b"x").unwrap();
    }
    assert_eq!(suite::ids(&client, Level::L0).await, [id(0, 1, 1)]);
}

#[tokio::test]
async fn replica_urls_open_the_same_place() {
    let server = seaweed().await;
    server.client("a/b").write(request(id(0, 1, 1), b"x")).await.unwrap();
    let url = format!("s3://{}/a//b/?endpoint={}", server.0.bucket, server.0.endpoint);
    let env = {
        let bucket = server.0.clone();
        move |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some(bucket.access_key.clone()),
            "LITESTREAM_SECRET_ACCESS_KEY" => Some(bucket.secret_key.clone()),
            _ => None,
        }
    };
    let context = ClientContext { env: Some(Arc::new(env)), ..ClientContext::default() };
    let client = ReplicaUrl::parse(&url).unwrap().into_client(&context).unwrap();
    assert_eq!(suite::ids(&*client, Level::L0).await, [id(0, 1, 1)]);
}

#[tokio::test]
async fn wrong_secret_is_explained_and_not_shown() {
    let server = seaweed().await;
    let wrong = S3Options { secret_access_key: Some("not-the-secret".into()), ..server.options() };
    let client = S3Client::new(wrong, &ClientContext::default()).unwrap();
    let error = client.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    let text = error.to_string();
    assert!(text.contains("secret-access-key does not belong"), "{text}");
    assert!(!text.contains("not-the-secret") && !text.contains(&server.0.access_key), "{text}");
}

#[tokio::test]
async fn missing_bucket_is_an_error_that_names_it() {
    let server = seaweed().await;
    let options = S3Options { bucket: Some("no-such-bucket-here".into()), ..server.options() };
    let client = S3Client::new(options, &ClientContext::default()).unwrap();
    let listing = client.list(Level::L0, ltx::Txid::new(0), false).await.map(drop);
    let writing = client.write(request(id(0, 1, 1), b"x")).await.map(drop);
    for (what, result) in [("list", listing), ("write", writing)] {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Setup, "{what}: {error}");
        assert!(error.to_string().contains("bucket \"no-such-bucket-here\" does not exist"), "{what}: {error}");
    }
}

#[tokio::test]
async fn customer_keys_encrypt_and_are_needed_to_read() {
    let server = seaweed().await;
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let path = format!("sse-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    let options = S3Options { path: Some(path), sse_customer_key: Some(key.into()), ..server.options() };
    let client = S3Client::new(options.clone(), &ClientContext::default()).unwrap();
    for (file, len) in [(id(0, 1, 1), 1000), (id(9, 1, 1), 6 << 20)] {
        let content = bytes_of(len, 1);
        client.write(request(file, &content)).await.unwrap();
        assert!(read(&client, file, 0, 0).await.unwrap() == content);
    }
    assert_eq!(list(&client, Level::L0).await.len(), 1);
    let without = S3Client::new(S3Options { sse_customer_key: None, ..options }, &ClientContext::default()).unwrap();
    assert!(read(&without, id(0, 1, 1), 0, 0).await.is_err());
}

#[tokio::test]
async fn small_parts_are_refused_on_writing_only() {
    let server = moto().await;
    let options = S3Options { part_size: Some(1 << 20), ..server.options() };
    let client = S3Client::new(options, &ClientContext::default()).unwrap();
    assert_eq!(suite::ids(&client, Level::L0).await, []);
    let error = client.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
    assert!(error.to_string().contains("part size must be at least 5242880 bytes"), "{error}");
}

#[tokio::test]
async fn unsigned_payloads_work_where_they_are_asked_for() {
    let server = seaweed().await;
    let options = S3Options { sign_payload: Some(false), require_content_md5: Some(false), ..server.options() };
    let client = S3Client::new(options, &ClientContext::default()).unwrap();
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"x");
    client.delete(&[id(0, 1, 1)]).await.unwrap();
    assert_eq!(suite::ids(&client, Level::L0).await, []);
}

#[tokio::test]
async fn objects_of_the_old_layout_lie_below_the_cleaned_path() {
    let server = moto().await;
    let name = "generations/0123456789abcdef/snapshots/00000000.snapshot.lz4";
    for (path, root) in [("", ""), (".", ""), ("db", "db/"), ("db//old/", "db/old/"), ("/lead", "/lead/")] {
        let client = server.client(path);
        server.0.put(&format!("{root}{name}"), path.as_bytes()).unwrap();
        server.0.put(&format!("{root}generations/folder/"), b"").unwrap();
        let found = client.list_objects("generations/").await.unwrap();
        assert_eq!(found.iter().map(|o| (o.key.as_str(), o.size)).collect::<Vec<_>>(), [(name, path.len() as u64)]);
        let chunks: Vec<bytes::Bytes> = client.open_object(name, 0, 0).await.unwrap().try_collect().await.unwrap();
        assert_eq!(chunks.concat(), path.as_bytes());
    }
}
