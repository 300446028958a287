//! Connections to a real NATS server that break, stall and come back.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use litestream_replica::nats::{NatsClient, NatsOptions};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::{Body, ClientContext, ErrorKind, Level, ReplicaClient, WriteMode};
use litestream_testkit::fault_proxy::{Fault, FaultProxy};
use litestream_testkit::nats_server::{Kind, NatsBucket, NatsServer};

use super::nats::{bucket, options, wait_for_messages};
use super::suite::{bytes_of, id, ids, read, request, request_with};

/// A client behind a proxy, and a bucket of its own.
fn world(kind: Kind, attempts: u32) -> (NatsBucket, FaultProxy, NatsClient) {
    let bucket = bucket(kind);
    let proxy = FaultProxy::start(bucket.access.address.as_str()).unwrap();
    let options = NatsOptions { server: Some(proxy.address()), ..options(&bucket) };
    let client = impatient(options, attempts);
    (bucket, proxy, client)
}

fn impatient(options: NatsOptions, attempts: u32) -> NatsClient {
    let options = NatsOptions {
        reconnect_wait: Some(Duration::from_millis(20)),
        timeout: Some(Duration::from_secs(2)),
        ..options
    };
    let retry = RetryPolicy { attempts, cap: Duration::from_millis(200), ..RetryPolicy::default() };
    NatsClient::new(options, &ClientContext { retry, ..ClientContext::default() }).unwrap()
}

fn long_stream(content: &[u8]) -> Body {
    let chunks: Vec<_> = content.chunks(50_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Body::Stream(Box::pin(stream::iter(chunks)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_in_the_middle_of_an_upload_leaves_nothing_visible() {
    for kind in [Kind::Plain, Kind::Tls] {
        let (bucket, proxy, client) = world(kind, 5);
        client.write(request(id(0, 1, 1), b"x")).await.unwrap();
        let content = bytes_of(5 << 20, 4);
        proxy.script([Fault::ResetUp(2 << 20)]);
        let error = client.write(request_with(id(0, 2, 2), long_stream(&content), WriteMode::CreateOnly)).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Transient);
        assert_eq!(ids(&client, Level::L0).await, [id(0, 1, 1)]);
        wait_for_messages(&bucket, 1, 1);

        // What can be read again is sent again.
        proxy.script([Fault::ResetUp(2 << 20)]);
        client.write(request(id(0, 2, 2), &content)).await.unwrap();
        assert!(read(&client, id(0, 2, 2), 0, 0).await.unwrap() == content);
        assert_eq!(proxy.fired(), 2);
        wait_for_messages(&bucket, 2, 41);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_never_make_a_write_fail_or_count_twice() {
    let (bucket, proxy, client) = world(Kind::Plain, 5);
    client.init().await.unwrap();
    for n in 1..=12_u64 {
        proxy.script([Fault::LoseReply(n * 60)]);
        client.write(request(id(0, n, n), &bytes_of(100, 1))).await.unwrap();
        assert_eq!(read(&client, id(0, n, n), 0, 0).await.unwrap(), bytes_of(100, 1));
    }
    assert!(proxy.fired() >= 10, "{}", proxy.fired());
    assert_eq!(ids(&client, Level::L0).await.len(), 12);
    drop(bucket);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_in_the_middle_of_a_download_is_an_error_and_the_rest_can_be_had() {
    for kind in [Kind::Plain, Kind::Tls] {
        let (_bucket, proxy, client) = world(kind, 5);
        let content = bytes_of(5 << 20, 4);
        client.write(request(id(0, 1, 1), &content)).await.unwrap();
        proxy.script([Fault::ResetDown(2 << 20)]);
        let mut arrived = Vec::new();
        let mut stream = client.open(id(0, 1, 1), 0, 0).await.unwrap();
        let error = loop {
            match stream.next().await {
                Some(Ok(bytes)) => arrived.extend_from_slice(&bytes),
                Some(Err(error)) => break error,
                None => panic!("the stream ended as if it were whole after {}", arrived.len()),
            }
        };
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(!arrived.is_empty() && arrived.len() < content.len());
        let rest = client.open(id(0, 1, 1), arrived.len() as u64, 0).await.unwrap();
        arrived.extend(rest.try_collect::<Vec<_>>().await.unwrap().concat());
        assert!(arrived == content);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_in_an_error_that_may_be_tried_again() {
    let (bucket, proxy, client) = world(Kind::Plain, 1);
    let content = bytes_of(1 << 20, 4);
    client.write(request(id(0, 1, 1), &content)).await.unwrap();
    let stream = client.open(id(0, 1, 1), 0, 0).await.unwrap();
    proxy.swallow();
    let errors = [
        stream.try_collect::<Vec<_>>().await.map(drop).unwrap_err(),
        client.write(request(id(0, 2, 2), b"x")).await.map(drop).unwrap_err(),
        client.list(Level::L0, ltx::Txid::new(0), false).await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(error.to_string().contains("no answer within 2s"), "{error}");
    }
    proxy.pass();
    proxy.cut();
    let again = impatient(NatsOptions { server: Some(proxy.address()), ..options(&bucket) }, 5);
    assert!(read(&again, id(0, 1, 1), 0, 0).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_may_restart_between_operations() {
    let mut server = NatsServer::start(Kind::Jwt).unwrap();
    let bucket = server.fresh_bucket().unwrap();
    let client = impatient(options(&bucket), 10);
    let content = bytes_of(500_000, 4);
    client.write(request(id(0, 1, 1), &content)).await.unwrap();
    for n in 2..=3 {
        server.stop().unwrap();
        let hasty = impatient(options(&bucket), 1);
        let error = hasty.list(Level::L0, ltx::Txid::new(0), false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(
            error.to_string().contains(&format!("cannot connect to nats server {}", bucket.access.address)),
            "{error}"
        );
        server.start_again().unwrap();
        client.write(request(id(0, n, n), &content)).await.unwrap();
        assert!(read(&client, id(0, n - 1, n - 1), 0, 0).await.unwrap() == content);
        assert_eq!(ids(&client, Level::L0).await.len() as u64, n);
    }
}

/// A client that has given up dials again at the next operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnects_run_out_but_operations_do_not() {
    let (bucket, proxy, _) = world(Kind::User, 5);
    let options = NatsOptions { server: Some(proxy.address()), max_reconnects: Some(1), ..options(&bucket) };
    let client = impatient(options, 1);
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    proxy.refuse();
    proxy.cut();
    let mut refused = 0;
    while refused < 3 {
        let error = client.init().await.and(client.list(Level::L0, ltx::Txid::new(0), false).await.map(drop));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        refused += u32::from(error.to_string().contains("cannot connect"));
    }
    proxy.pass();
    assert_eq!(ids(&client, Level::L0).await, [id(0, 1, 1)]);
}
