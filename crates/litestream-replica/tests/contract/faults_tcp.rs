//! What every client that speaks TCP does when the line is bad: one suite, a
//! fault proxy between client and a real server.
//!
//! A backend joins with an implementation of [`Remote`] and one line,
//! `faults_tcp::for_remote!(server)`. Bytes tell the requests apart: files here
//! are so much larger than anything else on the wire that a fault after some
//! hundred thousand bytes meets the file and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use litestream_replica::http::{HttpOptions, HttpPool};
use litestream_replica::metered::Metered;
use litestream_replica::resume::resuming;
use litestream_replica::retry::RetryPolicy;
use litestream_replica::{Body, ClientContext, ErrorKind, FileId, Level, ReplicaClient, WriteMode};
use litestream_testkit::fault_proxy::{Fault, FaultProxy};

use super::suite::{bytes_of, id, ids, read, request, request_with};

/// A server somewhere, and clients that may be sent to another address instead.
pub(crate) trait Remote {
    /// Where it listens, `127.0.0.1:<port>`.
    fn address(&self) -> String;

    /// A client for the replica at `path` of the server that is reached at
    /// `address`. It gives up a line that is silent for [`PATIENCE`], and repeats
    /// what failed as the context says.
    fn through(&self, address: &str, path: &str, context: ClientContext) -> Arc<dyn ReplicaClient>;

    /// Whether the proxy can make answers announce a wrong length.
    fn speaks_http(&self) -> bool {
        true
    }

    /// Whether all connections go to the address that the client was given; a
    /// store may send uploads in parts elsewhere.
    fn keeps_to_its_address(&self) -> bool {
        true
    }
}

/// How long the clients here wait for a sign of life.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Declares one test per fault, for the server that `$server` starts.
macro_rules! for_remote {
    ($server:ident) => {
        $crate::contract::faults_tcp::for_remote!($server:
            reset_upload_leaves_nothing_and_can_be_repeated,
            reset_upload_is_repeated_inside,
            reset_upload_of_many_parts_arrives_whole,
            lost_reply_to_an_upload_is_no_conflict,
            broken_download_resumes_where_it_stopped,
            truncated_download_is_an_error_and_not_short,
            wrong_lengths_are_found_out,
            stalled_download_ends_and_resumes,
            stalled_upload_ends_and_leaves_nothing,
            refused_connection_may_be_tried_again,
            black_hole_ends_by_time,
            cancelled_upload_leaves_nothing,
            lost_replies_to_lists_and_deletes_do_not_matter,
            slow_ends_hold_nothing_up,
        );
    };
    ($server:ident: $($test:ident),* $(,)?) => {
        mod on_a_bad_line {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let server = super::$server().await;
                    $crate::contract::faults_tcp::$test(&server).await;
                }
            )*
        }
    };
}
pub(crate) use for_remote;

/// A client behind a proxy, and one that goes straight to the server.
struct Line {
    proxy: FaultProxy,
    behind: Arc<dyn ReplicaClient>,
    direct: Arc<dyn ReplicaClient>,
}

impl Line {
    fn new(server: &impl Remote, attempts: u32) -> Self {
        let proxy = FaultProxy::start(server.address()).unwrap();
        let behind = server.through(&proxy.address(), "db", context(attempts));
        let direct = server.through(&server.address(), "db", ClientContext::default());
        Self { proxy, behind, direct }
    }

    /// No trace of the file, and its name is free.
    async fn assert_nothing_visible(&self, file: FileId) {
        assert_eq!(ids(&*self.direct, file.level).await, []);
        assert_eq!(read(&*self.direct, file, 0, 0).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    async fn assert_stored(&self, file: FileId, content: &[u8]) {
        assert!(read(&*self.direct, file, 0, 0).await.unwrap() == content, "the store has other bytes");
        assert_eq!(ids(&*self.direct, file.level).await, [file]);
    }

    async fn fired(&self, count: usize) {
        let all = async {
            while self.proxy.fired() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        in_time(all).await;
    }
}

fn context(attempts: u32) -> ClientContext {
    let http =
        HttpPool::new(HttpOptions { idle_timeout: PATIENCE, connect_timeout: PATIENCE, ..HttpOptions::default() });
    let retry = RetryPolicy {
        attempts,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(5),
        ..RetryPolicy::default()
    };
    ClientContext { http, retry, ..ClientContext::default() }
}

/// Far beyond all patience, on a machine however busy.
async fn in_time<T>(operation: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), operation).await.unwrap_or_else(|_| panic!("it went on for ever"))
}

async fn resumed(client: Arc<dyn ReplicaClient>, file: FileId, len: usize) -> litestream_replica::Result<Vec<u8>> {
    let chunks: Vec<Bytes> = resuming(client, file, 0, len as u64).try_collect().await?;
    Ok(chunks.concat())
}

const SIZE: usize = 700_000;

pub(crate) async fn reset_upload_leaves_nothing_and_can_be_repeated(server: &impl Remote) {
    let line = Line::new(server, 1);
    let content = bytes_of(SIZE, 1);
    line.proxy.script([Fault::ResetUp(300_000)]);
    let error = in_time(line.behind.write(request(id(0, 1, 1), &content))).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(line.proxy.fired(), 1);
    line.assert_nothing_visible(id(0, 1, 1)).await;
    in_time(line.behind.write(request(id(0, 1, 1), &content))).await.unwrap();
    line.assert_stored(id(0, 1, 1), &content).await;
}

pub(crate) async fn reset_upload_is_repeated_inside(server: &impl Remote) {
    let line = Line::new(server, 10);
    let content = bytes_of(SIZE, 1);
    line.proxy.script([Fault::ResetUp(300_000), Fault::ResetUp(1), Fault::ResetUp(500_000)]);
    in_time(line.behind.write(request(id(0, 1, 1), &content))).await.unwrap();
    assert_eq!(line.proxy.fired(), 3);
    line.assert_stored(id(0, 1, 1), &content).await;
}

/// Large enough for every store's way of taking a file in parts.
pub(crate) async fn reset_upload_of_many_parts_arrives_whole(server: &impl Remote) {
    if !server.keeps_to_its_address() {
        return;
    }
    let line = Line::new(server, 10);
    let content = Bytes::from(bytes_of(13 << 20, 2));
    let chunks: Vec<_> = content.chunks(1 << 20).map(|chunk| Ok(content.slice_ref(chunk))).collect();
    let body = Body::Stream(Box::pin(futures_util::stream::iter(chunks)));
    line.proxy.script([Fault::ResetUp(3 << 20), Fault::LoseReply(2 << 20)]);
    in_time(line.behind.write(request_with(id(9, 1, 1), body, WriteMode::CreateOnly))).await.unwrap();
    assert_eq!(line.proxy.fired(), 2);
    line.assert_stored(id(9, 1, 1), &content).await;
}

pub(crate) async fn lost_reply_to_an_upload_is_no_conflict(server: &impl Remote) {
    let line = Line::new(server, 10);
    let content = bytes_of(SIZE, 1);
    line.proxy.script([Fault::LoseReply(SIZE as u64)]);
    in_time(line.behind.write(request(id(0, 1, 1), &content))).await.unwrap();
    assert_eq!(line.proxy.fired(), 1);
    line.assert_stored(id(0, 1, 1), &content).await;
}

pub(crate) async fn broken_download_resumes_where_it_stopped(server: &impl Remote) {
    const LEN: usize = 6 << 20;
    let line = Line::new(server, 10);
    let content = bytes_of(LEN, 3);
    line.direct.write(request(id(9, 1, 1), &content)).await.unwrap();
    for fault in [Fault::ResetDown(5 << 20), Fault::Truncate(5 << 20)] {
        let proxy = FaultProxy::start(server.address()).unwrap();
        let client = server.through(&proxy.address(), "db", context(10));
        proxy.script([fault]);
        let metered = Arc::new(Metered::new(client));
        assert!(in_time(resumed(metered.clone(), id(9, 1, 1), LEN)).await.unwrap() == content, "{fault:?}");
        let counts = metered.snapshot().get;
        assert_eq!((counts.count, counts.bytes, counts.errors), (2, LEN as u64, 1), "{fault:?}");
        // From the start again it would be 11 MiB. What the reset overtook on its
        // way is sent twice.
        let down: u64 = proxy.traffic().iter().map(|connection| connection.down).sum();
        assert!((LEN as u64..9 << 20).contains(&down), "{fault:?}: {down} bytes came down for {LEN}");
    }
}

pub(crate) async fn truncated_download_is_an_error_and_not_short(server: &impl Remote) {
    let line = Line::new(server, 1);
    let content = bytes_of(SIZE, 1);
    line.direct.write(request(id(0, 1, 1), &content)).await.unwrap();
    for len in [0, SIZE as u64, SIZE as u64 - 1000] {
        line.proxy.script([Fault::Truncate(300_000)]);
        let error = in_time(read(&*line.behind, id(0, 1, 1), 0, len)).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
    // More often than anybody tries.
    line.proxy.script([Fault::Truncate(0); 20]);
    let error = in_time(resumed(line.behind, id(0, 1, 1), SIZE)).await.unwrap_err();
    assert!(error.to_string().contains("max retries exceeded reading ltx file"), "{error}");
}

pub(crate) async fn wrong_lengths_are_found_out(server: &impl Remote) {
    if !server.speaks_http() {
        return;
    }
    let line = Line::new(server, 10);
    let content = bytes_of(SIZE, 1);
    line.direct.write(request(id(9, 1, 1), &content)).await.unwrap();
    for by in [5000, -5000] {
        line.proxy.script([Fault::WrongLength { at_least: SIZE as u64, by }]);
        assert!(in_time(resumed(line.behind.clone(), id(9, 1, 1), SIZE)).await.unwrap() == content, "{by}");
    }
    // A list that lacks its end must not be taken for all there is; to fail, so
    // that it is asked for again, is right.
    let files: Vec<FileId> = (1..=30).map(|n| id(0, n, n)).collect();
    for file in &files {
        line.direct.write(request(*file, b"x")).await.unwrap();
    }
    for by in [100, -100, -1000] {
        line.proxy.script([Fault::WrongLength { at_least: 3000, by }]);
        match in_time(line.behind.list(Level::L0, ltx::Txid::new(0), false)).await {
            Ok(listed) => assert_eq!(listed.iter().map(|file| file.id).collect::<Vec<_>>(), files, "{by}"),
            Err(error) => assert!(error.is_retryable(), "{by}: {error}"),
        }
    }
    assert!(line.proxy.fired() >= 2, "no answer was long enough to be changed");
}

pub(crate) async fn stalled_download_ends_and_resumes(server: &impl Remote) {
    let line = Line::new(server, 10);
    let content = bytes_of(SIZE, 1);
    line.direct.write(request(id(0, 1, 1), &content)).await.unwrap();
    line.proxy.script([Fault::StallDown(300_000)]);
    assert!(in_time(resumed(line.behind, id(0, 1, 1), SIZE)).await.unwrap() == content);
    assert_eq!(line.proxy.fired(), 1);
}

pub(crate) async fn stalled_upload_ends_and_leaves_nothing(server: &impl Remote) {
    let line = Line::new(server, 1);
    let content = bytes_of(SIZE, 1);
    line.proxy.script([Fault::StallUp(300_000)]);
    let error = in_time(line.behind.write(request(id(0, 1, 1), &content))).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(line.proxy.fired(), 1);
    // Released, the rest would still arrive from the buffers on the way.
    line.proxy.cut();
    line.assert_nothing_visible(id(0, 1, 1)).await;
    in_time(line.behind.write(request(id(0, 1, 1), b"another"))).await.unwrap();
    line.assert_stored(id(0, 1, 1), b"another").await;
}

pub(crate) async fn refused_connection_may_be_tried_again(server: &impl Remote) {
    let line = Line::new(server, 1);
    line.proxy.refuse();
    let content = bytes_of(SIZE, 1);
    let error = in_time(line.behind.write(request(id(0, 1, 1), &content))).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let error = in_time(line.behind.list(Level::L0, ltx::Txid::new(0), false)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    line.proxy.pass();
    in_time(line.behind.write(request(id(0, 1, 1), &content))).await.unwrap();
    line.assert_stored(id(0, 1, 1), &content).await;
}

pub(crate) async fn black_hole_ends_by_time(server: &impl Remote) {
    let line = Line::new(server, 1);
    line.proxy.swallow();
    let error = in_time(line.behind.list(Level::L0, ltx::Txid::new(0), false)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    line.proxy.pass();
    in_time(line.behind.write(request(id(0, 1, 1), b"x"))).await.unwrap();
    line.assert_stored(id(0, 1, 1), b"x").await;
}

pub(crate) async fn cancelled_upload_leaves_nothing(server: &impl Remote) {
    let line = Line::new(server, 10);
    let content = bytes_of(SIZE, 1);
    line.proxy.script([Fault::StallUp(300_000)]);
    tokio::select! {
        result = line.behind.write(request(id(0, 1, 1), &content)) => panic!("ended while stalled: {result:?}"),
        () = line.fired(1) => {}
    }
    // Released, the rest would still arrive from the buffers on the way.
    line.proxy.cut();
    line.assert_nothing_visible(id(0, 1, 1)).await;
    in_time(line.behind.write(request(id(0, 1, 1), b"another"))).await.unwrap();
    line.assert_stored(id(0, 1, 1), b"another").await;
}

pub(crate) async fn lost_replies_to_lists_and_deletes_do_not_matter(server: &impl Remote) {
    let line = Line::new(server, 10);
    for n in 1..=2 {
        line.direct.write(request(id(0, n, n), b"x")).await.unwrap();
    }
    line.proxy.script([Fault::LoseReply(1)]);
    assert_eq!(in_time(ids(&*line.behind, Level::L0)).await, [id(0, 1, 1), id(0, 2, 2)]);
    line.proxy.script([Fault::LoseReply(1)]);
    in_time(line.behind.delete(&[id(0, 1, 1)])).await.unwrap();
    assert_eq!(line.proxy.fired(), 2);
    assert_eq!(ids(&*line.direct, Level::L0).await, [id(0, 2, 2)]);
}

pub(crate) async fn slow_ends_hold_nothing_up(server: &impl Remote) {
    let line = Line::new(server, 1);
    line.proxy.close_slowly();
    let content = bytes_of(SIZE, 1);
    in_time(line.behind.write(request(id(0, 1, 1), &content))).await.unwrap();
    assert!(in_time(read(&*line.behind, id(0, 1, 1), 0, 0)).await.unwrap() == content);
    assert_eq!(in_time(ids(&*line.behind, Level::L0)).await, [id(0, 1, 1)]);
    in_time(line.behind.delete(&[id(0, 1, 1)])).await.unwrap();
    line.assert_nothing_visible(id(0, 1, 1)).await;
}
