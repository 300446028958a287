//! Broken connections between us and a real server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use litestream_replica::resume::resuming;
use litestream_replica::retry::RetryPolicy;
use litestream_replica::sftp::{SftpClient, SftpLimits, SftpOptions, SftpPool};
use litestream_replica::{Body, ClientContext, ErrorKind, Level, ReplicaClient, WriteMode};
use litestream_testkit::fault_proxy::{Fault, FaultProxy};
use litestream_testkit::sftp_server::Kind;

use super::sftp::{Server, server};
use super::suite::{bytes_of, id, ids, read, request, request_with};

const LIMIT: Duration = Duration::from_secs(20);

/// A server behind a proxy, and a client that tries again quickly.
async fn behind_a_proxy(attempts: u32) -> (Server, FaultProxy, Arc<SftpClient>) {
    let server = server(Kind::OpenSsh).await;
    let proxy = FaultProxy::start(server.0.host.as_str()).unwrap();
    let retry = RetryPolicy {
        attempts,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(20),
        ..RetryPolicy::default()
    };
    let limits = SftpLimits { connect_timeout: LIMIT, idle_timeout: Duration::from_secs(5) };
    let context = ClientContext { retry, sftp: SftpPool::new(limits), ..ClientContext::default() };
    let options = SftpOptions { host: Some(proxy.address()), ..server.options("db") };
    let client = Arc::new(SftpClient::new(options, &context).unwrap());
    client.init().await.unwrap();
    (server, proxy, client)
}

/// A body that can be read only once.
fn once(content: &Bytes) -> Body {
    let mut rest = content.clone();
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        chunks.push(Ok(rest.split_to(rest.len().min(100_000))));
    }
    Body::Stream(Box::pin(stream::iter(chunks)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_go_on_where_the_connection_broke() {
    let (server, proxy, client) = behind_a_proxy(5).await;
    proxy.script([Fault::ResetUp(3 << 20), Fault::ResetDown(20_000), Fault::ResetUp(1 << 20)]);
    let content = Bytes::from(bytes_of(12 << 20, 1));
    client.write(request_with(id(9, 1, 1), once(&content), WriteMode::CreateOnly)).await.unwrap();
    assert_eq!(proxy.fired(), 3);
    assert!(read(&*client, id(9, 1, 1), 0, 0).await.unwrap() == content);
    assert_eq!(server.0.files().len(), 1, "{:?}", server.0.files());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_uploads_leave_nothing_visible() {
    let (server, proxy, client) = behind_a_proxy(1).await;
    proxy.script([Fault::ResetUp(1 << 20)]);
    let content = Bytes::from(bytes_of(4 << 20, 1));
    // Further progress would count as a new try.
    proxy.script((0..50).map(|_| Fault::ResetUp(0)));
    let error = client.write(request_with(id(0, 1, 1), once(&content), WriteMode::Overwrite)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    let visible: Vec<String> = server.0.files().into_iter().filter(|name| name.ends_with(".ltx")).collect();
    assert_eq!(visible, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_are_not_conflicts() {
    for mode in [WriteMode::CreateOnly, WriteMode::Overwrite] {
        let (server, proxy, client) = behind_a_proxy(5).await;
        let content = Bytes::from(bytes_of(200_000, 1));
        client.write(request_with(id(0, 1, 1), once(&content), WriteMode::CreateOnly)).await.unwrap();
        // Each later answer of an upload is lost once.
        for (n, at) in (2..).zip([100_u64, 200_100, 200_400, 200_800, 201_200, 201_600]) {
            let fired = proxy.fired();
            proxy.script([Fault::LoseReply(at)]);
            client.write(request_with(id(0, n, n), once(&content), mode)).await.unwrap();
            assert!(read(&*client, id(0, n, n), 0, 0).await.unwrap() == content, "{mode:?} {at}");
            // A short upload may end before; the next traffic then fires it.
            let started = std::time::Instant::now();
            while proxy.fired() == fired {
                assert!(started.elapsed() < LIMIT, "{mode:?} {at}: never fired");
                ids(&*client, Level::L0).await;
            }
        }
        assert_eq!(ids(&*client, Level::L0).await.len(), 7);
        assert_eq!(server.0.files().len(), 7, "{mode:?}: {:?}", server.0.files());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_resume_at_their_offset() {
    let (_, proxy, client) = behind_a_proxy(5).await;
    let content = bytes_of(5 << 20, 2);
    client.write(request(id(9, 1, 1), &content)).await.unwrap();
    proxy.script([Fault::ResetDown(1 << 20), Fault::Truncate(1 << 20), Fault::ResetDown(100)]);
    let own: Arc<dyn ReplicaClient> = client;
    let chunks: Vec<Bytes> = resuming(own, id(9, 1, 1), 0, content.len() as u64).try_collect().await.unwrap();
    assert!(chunks.concat() == content);
    assert_eq!(proxy.fired(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_connection_is_given_up_and_replaced() {
    let (_, proxy, client) = behind_a_proxy(5).await;
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    for fault in [Fault::StallUp(0), Fault::StallDown(0)] {
        proxy.script([fault]);
        let listed = tokio::time::timeout(LIMIT, ids(&*client, Level::L0)).await.unwrap();
        assert_eq!(listed, [id(0, 1, 1)]);
    }
    assert_eq!(proxy.fired(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_on_after_an_outage() {
    let (_, proxy, client) = behind_a_proxy(3).await;
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    proxy.refuse();
    proxy.cut();
    let error = client.list(Level::L0, ltx::Txid::new(0), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    proxy.pass();
    let all = stream::iter(2..40).map(|n| {
        let client = client.clone();
        async move { client.write(request(id(0, n, n), b"y")).await }
    });
    let written: Vec<_> = all.buffer_unordered(16).collect().await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    assert_eq!(ids(&*client, Level::L0).await.len(), 39);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_one_server_share_one_connection() {
    let server = server(Kind::OpenSsh).await;
    let proxy = FaultProxy::start(server.0.host.as_str()).unwrap();
    let context = ClientContext::default();
    let open = |path: &str| {
        let options = SftpOptions { host: Some(proxy.address()), ..server.options(path) };
        SftpClient::new(options, &context).unwrap()
    };
    let clients: Vec<SftpClient> = (0..10).map(|n| open(&format!("db-{n}"))).collect();
    let writes = clients.iter().map(|client| client.write(request(id(0, 1, 1), b"x")));
    for result in futures_util::future::join_all(writes).await {
        result.unwrap();
    }
    assert_eq!(proxy.traffic().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_reads_do_not_leave_files_open() {
    let server = server(Kind::OpenSsh).await;
    let client = SftpClient::new(server.options("db"), &ClientContext::default()).unwrap();
    client.write(request(id(0, 1, 1), &bytes_of(100_000, 1))).await.unwrap();
    // More than a server lets one session hold open.
    for _ in 0..1500 {
        drop(client.open(id(0, 1, 1), 0, 0).await.unwrap());
    }
    assert_eq!(read(&client, id(0, 1, 1), 0, 10).await.unwrap().len(), 10);
}
