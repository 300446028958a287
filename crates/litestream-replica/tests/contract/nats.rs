//! The contract on real NATS servers, one for each sort of credentials, and what
//! the protocol adds to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::TryStreamExt;
use litestream_replica::nats::{NatsClient, NatsOptions};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::{Body, ClientContext, ErrorKind, FileId, Level, ReplicaClient, ReplicaUrl, WriteMode};
use litestream_testkit::fault_proxy::FaultProxy;
use litestream_testkit::nats_server::{self, Access, Kind, NatsBucket, PASSWORD, READER, USERNAME};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::suite::{self, Replica, bytes_of, id, read, request, request_with};

/// A server on which every path of the suite is a bucket: buckets have no paths.
struct Server(Kind);

impl Replica for Server {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        let mut bucket = bucket(self.0);
        // The suite opens some paths twice and expects the same replica.
        let name: String = path.bytes().map(|byte| format!("{byte:02x}")).collect();
        bucket.name = format!("suite-{}-{name}", std::process::id());
        bucket.create().unwrap();
        Arc::new(client(&bucket))
    }
}

pub(crate) fn bucket(kind: Kind) -> NatsBucket {
    nats_server::fresh_bucket(kind).unwrap()
}

/// What opens the bucket, credentials included.
pub(crate) fn options(bucket: &NatsBucket) -> NatsOptions {
    let Access { kind, address, seed, creds, .. } = &bucket.access;
    let text = |text: &str| Some(text.to_owned());
    let mut options = NatsOptions { server: text(address), bucket: text(&bucket.name), ..NatsOptions::default() };
    match kind {
        Kind::Plain | Kind::NoJetStream => {}
        Kind::User => (options.username, options.password) = (text(USERNAME), text(PASSWORD)),
        Kind::Token => options.token = text(PASSWORD),
        Kind::Nkey => options.nkey = text(seed),
        Kind::Tls => {
            (options.username, options.password) = (text(USERNAME), text(PASSWORD));
            options.root_cas = vec![nats_server::CA.to_owned()];
            (options.client_cert, options.client_key) = (text(nats_server::CLIENT_CERT), text(nats_server::CLIENT_KEY));
        }
        Kind::Jwt => options.creds = text(creds.to_str().unwrap()),
    }
    options
}

fn open(options: NatsOptions) -> NatsClient {
    NatsClient::new(options, &ClientContext::default()).unwrap()
}

fn client(bucket: &NatsBucket) -> NatsClient {
    open(options(bucket))
}

mod on_plain {
    async fn here() -> super::Server {
        super::Server(super::Kind::Plain)
    }
    super::suite::for_replica!(here);
}

mod on_tls {
    async fn here() -> super::Server {
        super::Server(super::Kind::Tls)
    }
    super::suite::for_replica!(here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sort_of_credentials_opens_its_server() {
    for kind in nats_server::ALL {
        let bucket = bucket(kind);
        let client = client(&bucket);
        client.write(request(id(0, 1, 1), b"x")).await.unwrap();
        assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"x", "{kind:?}");
        for text in [client.location(), format!("{:?} {client:?}", client.log_fields())] {
            assert!(!text.contains(PASSWORD) && !text.contains(USERNAME), "{text}");
        }
    }
}

const NAME: &str = "ltx/0/0000000000000001-0000000000000001.ltx";
const CHUNK: usize = 128 << 10;

/// Waits until the bucket's messages are as wanted.
#[track_caller]
pub(crate) fn wait_for_messages(bucket: &NatsBucket, objects: u64, chunks: u64) {
    let start = Instant::now();
    loop {
        let messages = bucket.messages().unwrap();
        let count =
            |kind: &str| messages.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, n)| n).sum::<u64>();
        if (count("M."), count("C.")) == (objects, chunks) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "not {objects} objects and {chunks} chunks: {messages:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Stores an object as another program might: in chunks of any length.
fn store(bucket: &NatsBucket, name: &str, chunks: &[&[u8]], change: impl FnOnce(&mut serde_json::Value)) {
    let nuid = format!("foreign{}", fastrand::u64(..));
    for chunk in chunks {
        bucket.publish(&format!("C.{nuid}"), chunk).unwrap();
    }
    let content = chunks.concat();
    let mut meta = json!({
        "name": name, "headers": {"Litestream-Timestamp": ["2020-09-13T12:26:40.25Z"]},
        "options": {"max_chunk_size": CHUNK}, "bucket": bucket.name, "nuid": nuid, "size": content.len(),
        "mtime": "0001-01-01T00:00:00Z", "chunks": chunks.len(),
        "digest": format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(&content))),
    });
    change(&mut meta);
    bucket.publish(&format!("M.{}", URL_SAFE.encode(name)), meta.to_string().as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_lie_as_every_client_expects_them() {
    let bucket = bucket(Kind::Plain);
    client(&bucket).write(request(id(0, 1, 1), &bytes_of(300_000, 1))).await.unwrap();
    let meta = format!("M.{}", URL_SAFE.encode(NAME));
    let messages = bucket.messages().unwrap();
    assert_eq!(messages.values().copied().collect::<Vec<_>>(), [3, 1]);
    assert!(messages.contains_key(&meta), "{messages:?}");

    let meta = &bucket.descriptions().unwrap()[0];
    let nuid = meta["nuid"].as_str().unwrap();
    assert_eq!(messages[&format!("C.{nuid}")], 3);
    let wanted = json!({
        "name": NAME, "headers": {"Litestream-Timestamp": ["2020-09-13T12:26:40.25Z"], "Litestream-Chunk-Size": ["131072"]},
        "options": {"max_chunk_size": CHUNK}, "bucket": bucket.name, "nuid": nuid, "size": 300_000,
        "mtime": "0001-01-01T00:00:00Z", "chunks": 3,
        "digest": format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(bytes_of(300_000, 1)))),
    });
    assert_eq!(*meta, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_what_is_deleted_replaced_or_given_up() {
    let bucket = bucket(Kind::Plain);
    let client = client(&bucket);
    client.write(request(id(0, 1, 1), &bytes_of(300_000, 1))).await.unwrap();
    let longer = Body::Bytes(bytes_of(400_000, 2).into());
    client.write(request_with(id(0, 1, 1), longer, WriteMode::Overwrite)).await.unwrap();
    wait_for_messages(&bucket, 1, 4);
    client.write(request(id(0, 1, 1), &bytes_of(400_000, 3))).await.unwrap_err();
    client.write(suite::failing_request(id(0, 2, 2), 3 << 20)).await.unwrap_err();
    suite::abandon_write(&client, id(0, 2, 2)).await;
    wait_for_messages(&bucket, 1, 4);
    client.delete(&[id(0, 1, 1), id(0, 2, 2)]).await.unwrap();
    wait_for_messages(&bucket, 0, 0);
    assert_eq!(suite::ids(&client, Level::L0).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_foreign_objects_are_found_in_chunks_of_any_length() {
    let bucket = bucket(Kind::Plain);
    let content = bytes_of(10_000, 7);
    let (a, rest) = content.split_at(10);
    let (b, c) = rest.split_at(7000);
    store(&bucket, NAME, &[a, b, c], |_| {});
    let client = client(&bucket);
    let listed = suite::list(&client, Level::L0).await;
    assert_eq!(
        listed.iter().map(|f| (f.id, f.size, f.created_at)).collect::<Vec<_>>(),
        [(id(0, 1, 1), 10_000, suite::stamp())]
    );
    for (offset, len, end) in [(0, 0, 10_000), (9, 2, 11), (8000, 100, 8100), (7010, 0, 10_000), (9999, 5, 10_000)] {
        let cut = read(&client, id(0, 1, 1), offset, len).await.unwrap();
        assert!(cut == content[offset as usize..end], "{offset} {len}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_and_foreign_names_are_not_listed() {
    let bucket = bucket(Kind::Plain);
    store(&bucket, NAME, &[b"x"], |meta| meta["deleted"] = json!(true));
    store(&bucket, "ltx/0/0000000000000002-0000000000000002.ltx.tmp", &[b"x"], |_| {});
    store(&bucket, "/ltx/0/0000000000000003-0000000000000003.ltx", &[b"x"], |_| {});
    store(&bucket, "other/ltx/0/0000000000000003-0000000000000003.ltx", &[b"x"], |_| {});
    let client = client(&bucket);
    assert_eq!(suite::ids(&client, Level::L0).await, []);
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap_err().kind(), ErrorKind::NotFound);
    // A deleted name is free, and what is not ours stays.
    client.write(request(id(0, 1, 1), b"again")).await.unwrap();
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"again");
    client.delete_all().await.unwrap();
    wait_for_messages(&bucket, 2, 2);
    let left = client.list_objects("").await.unwrap();
    assert_eq!(
        left.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(),
        ["other/ltx/0/0000000000000003-0000000000000003.ltx"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_objects_are_never_given_out_whole() {
    for (what, chunks, change) in [
        (
            "content",
            [bytes_of(10, 1), bytes_of(10, 2)],
            json!({"digest": "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="}),
        ),
        ("a missing chunk", [bytes_of(10, 1), bytes_of(10, 2)], json!({"chunks": 3, "size": 30})),
        ("short chunks", [bytes_of(10, 1), bytes_of(10, 2)], json!({"size": 30})),
        ("one chunk", [bytes_of(10, 1), Vec::new()], json!({"chunks": 1, "size": 11})),
    ] {
        let bucket = bucket(Kind::Plain);
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).filter(|chunk| !chunk.is_empty()).collect();
        store(&bucket, NAME, &chunks, |meta| {
            for (key, value) in change.as_object().unwrap() {
                meta[key] = value.clone();
            }
        });
        let error = read(&client(&bucket), id(0, 1, 1), 0, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.to_string().contains(NAME), "{what}: {error}");
    }
}

/// Uploads at the same time mix their messages in the stream, so that no chunk is
/// where the description's number makes one look first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_cut_exactly_among_concurrent_uploads() {
    let bucket = bucket(Kind::Plain);
    let client = client(&bucket);
    let files: Vec<(FileId, Vec<u8>)> =
        (1..=4_u32).map(|n| (id(0, n.into(), n.into()), bytes_of(3_000_000, n))).collect();
    let writes = files.iter().map(|(file, content)| client.write(request(*file, content)));
    futures_util::future::try_join_all(writes).await.unwrap();
    let reads = files.iter().flat_map(|(file, content)| {
        let client = &client;
        [(0, 10), (131_071, 2), (262_144, 131_072), (1_500_000, 400_000), (2_967_232, 0), (2_999_999, 0)].map(
            |(offset, len)| async move {
                let end = if len == 0 { content.len() } else { (offset + len) as usize };
                let cut = read(client, *file, offset, len).await.unwrap();
                assert!(cut == content[offset as usize..end], "{file} {offset} {len}");
            },
        )
    });
    futures_util::future::join_all(reads).await;
    let start = Instant::now();
    while bucket.consumers().unwrap() > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "{} consumers are left", bucket.consumers().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_cost_what_they_hold_and_not_what_is_before() {
    let bucket = bucket(Kind::Plain);
    let proxy = FaultProxy::start(bucket.access.address.as_str()).unwrap();
    let client = open(NatsOptions { server: Some(proxy.address()), ..options(&bucket) });
    let content = bytes_of(8 << 20, 3);
    client.write(request(id(9, 1, 9), &content)).await.unwrap();
    let down = || proxy.traffic().iter().map(|traffic| traffic.down).sum::<u64>();
    for (offset, len) in [(0, 100), (4 << 20, 4096), ((8 << 20) - (32 << 10), 0)] {
        let before = down();
        let cut = read(&client, id(9, 1, 9), offset, len).await.unwrap();
        assert!(cut == content[offset as usize..][..cut.len()]);
        let cost = down() - before;
        assert!(cost < 200 << 10, "{offset} {len} cost {cost} bytes");
    }
    // What is dropped half way does not go on arriving.
    let before = down();
    let mut stream = client.open(id(9, 1, 9), 0, 0).await.unwrap();
    stream.try_next().await.unwrap().unwrap();
    drop(stream);
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    assert!(down() - before < 5 << 20, "{} bytes", down() - before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_urls_open_the_same_place() {
    for (kind, user) in [(Kind::User, "replica:p%3Ass%2Fw%25rd%2B1"), (Kind::Token, "p%3Ass%2Fw%25rd%2B1")] {
        let bucket = bucket(kind);
        client(&bucket).write(request(id(0, 1, 1), b"x")).await.unwrap();
        let place = format!("{}/{}", bucket.access.address, bucket.name);
        let url = ReplicaUrl::parse(&format!("nats://{user}@{place}")).unwrap();
        let client = url.into_client(&ClientContext::default()).unwrap();
        assert_eq!(suite::ids(&*client, Level::L0).await, [id(0, 1, 1)]);
        assert_eq!(client.location(), format!("nats://{place}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_what_to_do_and_show_no_secret() {
    let text = |text: &str| Some(text.to_owned());
    let bucket_of = |kind| options(&bucket(kind));
    let nobody = |options: NatsOptions| NatsOptions {
        username: None,
        password: None,
        token: None,
        nkey: None,
        creds: None,
        ..options
    };
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let key = nkeys::KeyPair::new_user().seed().unwrap();
    for (options, advice) in [
        (NatsOptions { password: text("hunter2"), ..bucket_of(Kind::User) }, "correct username and password"),
        (NatsOptions { token: text("hunter2"), ..bucket_of(Kind::Token) }, "correct token"),
        (NatsOptions { nkey: text(&key), ..bucket_of(Kind::Nkey) }, "correct nkey"),
        (NatsOptions { creds: text(absent.to_str().unwrap()), ..bucket_of(Kind::Jwt) }, "cannot read"),
        (nobody(bucket_of(Kind::Token)), "set creds, nkey, username and password, or token"),
        (NatsOptions { root_cas: Vec::new(), ..bucket_of(Kind::Tls) }, "name its issuer in root-cas"),
        (NatsOptions { client_cert: None, client_key: None, ..bucket_of(Kind::Tls) }, "client-cert and client-key"),
        (NatsOptions { tls: Some(true), ..bucket_of(Kind::Plain) }, "does not answer in TLS"),
        (NatsOptions { bucket: text("absent"), ..bucket_of(Kind::Plain) }, "(bucket must be created beforehand"),
        (NatsOptions { username: text(READER), ..bucket_of(Kind::User) }, "the user lacks a permission"),
    ] {
        let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        let shown = format!("{options:?}");
        let client = NatsClient::new(options, &ClientContext { retry, ..ClientContext::default() }).unwrap();
        let error = client.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{advice}: {error}");
        assert!(error.to_string().contains(advice), "{advice}: {error}");
        for secret in ["hunter2", PASSWORD, key.as_str()] {
            assert!(!format!("{error} {shown} {client:?}").contains(secret), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_jetstream_is_named() {
    let server = nats_server::NatsServer::start(Kind::NoJetStream).unwrap();
    let bucket = NatsBucket { access: server.access().clone(), name: "b".into() };
    let error = client(&bucket).init().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("JetStream does not answer"), "{error}");
}
