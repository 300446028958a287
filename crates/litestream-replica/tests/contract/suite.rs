//! What [`ReplicaClient`] promises, as tests that any backend can run.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use litestream_replica::{
    Body, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteMode, WriteRequest,
};
use ltx::Txid;

/// A store that can hold several replicas side by side.
pub(crate) trait Replica {
    /// A client for the replica at `path`, which nobody else uses.
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient>;

    /// Whether the store takes keys as they are; some tidy their slashes.
    fn keeps_odd_slashes(&self) -> bool {
        true
    }

    /// Whether a file without a single byte can be stored; no LTX file is one.
    fn keeps_empty_files(&self) -> bool {
        true
    }
}

/// Declares one test per promise, for the store that `$store` opens. A store
/// that cannot be started here fails them.
macro_rules! for_replica {
    ($store:ident) => {
        $crate::contract::suite::for_replica!($store:
            absent_replica_is_empty,
            written_file_is_listed_and_read_back,
            same_content_may_be_created_twice,
            different_content_is_a_conflict,
            overwrite_replaces,
            lists_are_sorted_and_seek_by_min,
            lists_are_complete_beyond_a_thousand,
            ranges_are_cut_exactly,
            missing_file_is_not_found,
            deleting_twice_is_success,
            delete_all_empties_every_level,
            failing_body_leaves_nothing,
            abandoned_write_leaves_nothing,
            long_stream_arrives_whole,
            local_file_arrives_whole,
            listing_with_metadata_gives_the_header_time,
            odd_paths_keep_replicas_apart,
            replicas_side_by_side_do_not_mix,
            objects_of_any_layout_are_listed_and_read,
        );
    };
    ($store:ident: $($test:ident),* $(,)?) => {
        mod contract {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let store = super::$store().await;
                    $crate::contract::suite::$test(&store).await;
                }
            )*
        }
    };
}
pub(crate) use for_replica;

pub(crate) fn id(level: u8, min: u64, max: u64) -> FileId {
    FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) }
}

/// A moment long ago, so that no store's own clock can be mistaken for it.
pub(crate) fn stamp() -> Timestamp {
    Timestamp::from_millisecond(1_600_000_000_250).unwrap()
}

pub(crate) fn request(id: FileId, content: &[u8]) -> WriteRequest {
    request_with(id, Body::Bytes(Bytes::copy_from_slice(content)), WriteMode::CreateOnly)
}

pub(crate) fn request_with(id: FileId, body: Body, mode: WriteMode) -> WriteRequest {
    WriteRequest { id, timestamp: stamp(), mode, body }
}

/// A stream that fails after `len` bytes.
pub(crate) fn failing_request(id: FileId, len: usize) -> WriteRequest {
    let chunks = stream::iter([Ok(Bytes::from(bytes_of(len, 1))), Err(Error::new(ErrorKind::Corrupt, "source broke"))]);
    request_with(id, Body::Stream(Box::pin(chunks)), WriteMode::Overwrite)
}

/// Starts a long write, lets it get under way, and drops it.
pub(crate) async fn abandon_write(client: &dyn ReplicaClient, id: FileId) {
    let (asked, mut progress) = tokio::sync::mpsc::unbounded_channel();
    let chunks = stream::iter(0u32..).then(move |n| {
        asked.send(n).unwrap();
        async move {
            if n == 12 {
                std::future::pending::<()>().await;
            }
            Ok(Bytes::from(bytes_of(1 << 20, n)))
        }
    });
    let write = client.write(request_with(id, Body::Stream(Box::pin(chunks)), WriteMode::Overwrite));
    tokio::select! {
        _ = write => panic!("a write that never ends has ended"),
        () = async { while progress.recv().await.unwrap() < 12 {} } => {}
    }
}

/// Bytes that look random and differ by `seed`.
pub(crate) fn bytes_of(len: usize, seed: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(u64::from(seed) + 1);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

pub(crate) async fn read(client: &dyn ReplicaClient, id: FileId, offset: u64, len: u64) -> Result<Vec<u8>> {
    let chunks: Vec<Bytes> = client.open(id, offset, len).await?.try_collect().await?;
    Ok(chunks.concat())
}

pub(crate) async fn list(client: &dyn ReplicaClient, level: Level) -> Vec<FileInfo> {
    client.list(level, Txid::new(0), false).await.unwrap()
}

pub(crate) async fn ids(client: &dyn ReplicaClient, level: Level) -> Vec<FileId> {
    list(client, level).await.iter().map(|file| file.id).collect()
}

async fn assert_empty(client: &dyn ReplicaClient) {
    for level in Level::all() {
        assert_eq!(ids(client, level).await, [], "level {level}");
    }
}

pub(crate) async fn absent_replica_is_empty(store: &impl Replica) {
    let client = store.open("absent");
    client.init().await.unwrap();
    client.init().await.unwrap();
    assert_empty(&*client).await;
    client.delete(&[]).await.unwrap();
    client.delete_all().await.unwrap();
}

pub(crate) async fn written_file_is_listed_and_read_back(store: &impl Replica) {
    let client = store.open("written");
    let content = bytes_of(10_000, 1);
    let info = client.write(request(id(3, 2, 40), &content)).await.unwrap();
    assert_eq!(info, FileInfo { id: id(3, 2, 40), size: 10_000, created_at: stamp() });
    let listed = list(&*client, Level::new(3).unwrap()).await;
    assert_eq!(listed.iter().map(|f| (f.id, f.size)).collect::<Vec<_>>(), [(id(3, 2, 40), 10_000)]);
    assert_eq!(read(&*client, id(3, 2, 40), 0, 0).await.unwrap(), content);
    assert_eq!(ids(&*client, Level::L0).await, []);
}

pub(crate) async fn same_content_may_be_created_twice(store: &impl Replica) {
    let client = store.open("twice");
    client.write(request(id(0, 1, 1), b"content")).await.unwrap();
    let again = client.write(request(id(0, 1, 1), b"content")).await.unwrap();
    assert_eq!(again.size, 7);
    let streamed =
        Body::Stream(Box::pin(stream::iter([Ok(Bytes::from_static(b"con")), Ok(Bytes::from_static(b"tent"))])));
    client.write(request_with(id(0, 1, 1), streamed, WriteMode::CreateOnly)).await.unwrap();
}

pub(crate) async fn different_content_is_a_conflict(store: &impl Replica) {
    let client = store.open("conflict");
    client.write(request(id(0, 1, 1), b"content")).await.unwrap();
    for other in [b"CONTENT".as_slice(), b"longer content", b"con", b""] {
        if other.is_empty() && !store.keeps_empty_files() {
            continue;
        }
        let error = client.write(request(id(0, 1, 1), other)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    assert_eq!(read(&*client, id(0, 1, 1), 0, 0).await.unwrap(), b"content");
}

pub(crate) async fn overwrite_replaces(store: &impl Replica) {
    let client = store.open("overwrite");
    for content in [b"first".as_slice(), b"the second"] {
        let body = Body::Bytes(Bytes::copy_from_slice(content));
        client.write(request_with(id(0, 1, 1), body, WriteMode::Overwrite)).await.unwrap();
        assert_eq!(read(&*client, id(0, 1, 1), 0, 0).await.unwrap(), content);
    }
    assert_eq!(list(&*client, Level::L0).await.iter().map(|f| f.size).collect::<Vec<_>>(), [10]);
}

pub(crate) async fn lists_are_sorted_and_seek_by_min(store: &impl Replica) {
    let client = store.open("sorted");
    let all = [id(1, 1, 4), id(1, 5, 5), id(1, 5, 9), id(1, 10, 12), id(1, 0x100, 0x1ff)];
    for &file in all.iter().rev() {
        client.write(request(file, b"x")).await.unwrap();
    }
    let level = Level::new(1).unwrap();
    for (seek, from) in
        [(0, 0), (1, 0), (2, 1), (5, 1), (6, 3), (10, 3), (11, 4), (0x100, 4), (0x101, 5), (u64::MAX, 5)]
    {
        let listed = client.list(level, Txid::new(seek), false).await.unwrap();
        assert_eq!(listed.iter().map(|f| f.id).collect::<Vec<_>>(), all[from..], "seek {seek}");
    }
}

pub(crate) async fn lists_are_complete_beyond_a_thousand(store: &impl Replica) {
    const COUNT: u64 = 1050;
    let client = store.open("many");
    stream::iter(1..=COUNT)
        .map(|n| client.write(request(id(0, n, n), b"x")))
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    let all: Vec<FileId> = (1..=COUNT).map(|n| id(0, n, n)).collect();
    assert_eq!(ids(&*client, Level::L0).await, all);
    let rest = client.list(Level::L0, Txid::new(1040), false).await.unwrap();
    assert_eq!(rest.iter().map(|f| f.id).collect::<Vec<_>>(), all[1039..]);
    client.delete(&all[..COUNT as usize - 1]).await.unwrap();
    assert_eq!(ids(&*client, Level::L0).await, [id(0, COUNT, COUNT)]);
}

pub(crate) async fn ranges_are_cut_exactly(store: &impl Replica) {
    let client = store.open("ranges");
    let content = bytes_of(100_000, 5);
    client.write(request(id(9, 1, 3), &content)).await.unwrap();
    for (offset, len, from, to) in [
        (0, 0, 0, 100_000),
        (0, 100, 0, 100),
        (0, 100_000, 0, 100_000),
        (0, 200_000, 0, 100_000),
        (500, 1, 500, 501),
        (70_000, 0, 70_000, 100_000),
        (99_999, 10, 99_999, 100_000),
        (100_000, 0, 100_000, 100_000),
        (100_000, 5, 100_000, 100_000),
        (200_000, 5, 100_000, 100_000),
    ] {
        let cut = read(&*client, id(9, 1, 3), offset, len).await.unwrap();
        assert!(cut == content[from..to], "offset {offset} len {len} gave {} bytes", cut.len());
    }
    if !store.keeps_empty_files() {
        return;
    }
    client.write(request(id(9, 1, 4), b"")).await.unwrap();
    assert_eq!(read(&*client, id(9, 1, 4), 0, 0).await.unwrap(), b"");
    assert_eq!(read(&*client, id(9, 1, 4), 0, 10).await.unwrap(), b"");
}

pub(crate) async fn missing_file_is_not_found(store: &impl Replica) {
    let client = store.open("missing");
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    for (offset, len) in [(0, 0), (0, 10), (5, 0)] {
        let error = read(&*client, id(0, 2, 2), offset, len).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

pub(crate) async fn deleting_twice_is_success(store: &impl Replica) {
    let client = store.open("delete");
    let files = [id(0, 1, 1), id(0, 2, 2), id(1, 1, 2), id(9, 1, 2)];
    for file in files {
        client.write(request(file, b"x")).await.unwrap();
    }
    client.delete(&files[..3]).await.unwrap();
    client.delete(&files[..3]).await.unwrap();
    assert_eq!(ids(&*client, Level::SNAPSHOT).await, [id(9, 1, 2)]);
    assert_eq!(ids(&*client, Level::L0).await, []);
}

pub(crate) async fn delete_all_empties_every_level(store: &impl Replica) {
    let client = store.open("delete-all");
    let sibling = store.open("delete-all-not");
    sibling.write(request(id(0, 1, 1), b"x")).await.unwrap();
    for level in 0..=9 {
        client.write(request(id(level, 1, 1), b"x")).await.unwrap();
    }
    client.delete_all().await.unwrap();
    assert_empty(&*client).await;
    client.delete_all().await.unwrap();
    assert_eq!(ids(&*sibling, Level::L0).await, [id(0, 1, 1)]);
}

pub(crate) async fn failing_body_leaves_nothing(store: &impl Replica) {
    let client = store.open("failing");
    for (n, len) in [(1, 0), (2, 1000), (3, 12 << 20)] {
        let error = client.write(failing_request(id(0, n, n), len)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "the source's error is the cause: {error}");
    }
    assert_empty(&*client).await;
}

pub(crate) async fn abandoned_write_leaves_nothing(store: &impl Replica) {
    let client = store.open("abandoned");
    abandon_write(&*client, id(0, 1, 1)).await;
    assert_empty(&*client).await;
}

pub(crate) async fn long_stream_arrives_whole(store: &impl Replica) {
    let client = store.open("long");
    let content = Bytes::from(bytes_of((13 << 20) + 12_345, 9));
    let mut rest = content.clone();
    let mut chunks = Vec::new();
    for len in [1, 100, 70_000, 3 << 20, 5 << 20, 1].into_iter().cycle() {
        chunks.push(Ok(rest.split_to(rest.len().min(len))));
        if rest.is_empty() {
            break;
        }
    }
    let body = Body::Stream(Box::pin(stream::iter(chunks)));
    let info = client.write(request_with(id(9, 1, 77), body, WriteMode::CreateOnly)).await.unwrap();
    assert_eq!(info.size, content.len() as u64);
    assert!(read(&*client, id(9, 1, 77), 0, 0).await.unwrap() == content);
    assert_eq!(list(&*client, Level::SNAPSHOT).await[0].size, content.len() as u64);

    // The same again is a retry, something else of the same length is not.
    let repeat = Body::Bytes(content.clone());
    client.write(request_with(id(9, 1, 77), repeat, WriteMode::CreateOnly)).await.unwrap();
    let mut other = content.to_vec();
    other[6 << 20] ^= 1;
    let error = client.write(request(id(9, 1, 77), &other)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

pub(crate) async fn local_file_arrives_whole(store: &impl Replica) {
    let client = store.open("local");
    let dir = tempfile::tempdir().unwrap();
    for (n, len) in [(1, usize::from(!store.keeps_empty_files())), (2, 3000), (3, 11 << 20)] {
        let content = bytes_of(len, 3);
        let path = dir.path().join("source.ltx");
        std::fs::write(&path, &content).unwrap();
        let info = client.write(request_with(id(0, n, n), Body::File(path), WriteMode::CreateOnly)).await.unwrap();
        assert_eq!(info.size, len as u64);
        assert!(read(&*client, id(0, n, n), 0, 0).await.unwrap() == content);
    }
}

pub(crate) async fn listing_with_metadata_gives_the_header_time(store: &impl Replica) {
    let client = store.open("metadata");
    // Where a store keeps no times, they are read from the files themselves.
    let content = |file: FileId, len: usize| {
        let header = ltx::Header::new(ltx::PageSize::new(4096).unwrap(), 1, file.min, file.max, stamp());
        [header.encode().as_slice(), &bytes_of(len, 2)].concat()
    };
    let small = client.write(request(id(1, 1, 1), &content(id(1, 1, 1), 1))).await.unwrap();
    let large = client.write(request(id(1, 2, 2), &content(id(1, 2, 2), 6 << 20))).await.unwrap();
    let listed = client.list(Level::new(1).unwrap(), Txid::new(0), true).await.unwrap();
    assert_eq!(listed, [small, large]);
    assert_eq!(listed[0].created_at, stamp());
}

pub(crate) async fn odd_paths_keep_replicas_apart(store: &impl Replica) {
    let slashes: &[&str] = if store.keeps_odd_slashes() { &["a//b", "trailing/", "/leading", "./dot"] } else { &[] };
    let signs = ["with space", " space around ", "ünï/çödé ☂", "per%20cent/100%", "plus+and&amp;=?#", "<\"quotes'>"];
    for &path in signs.iter().chain(slashes) {
        let client = store.open(path);
        let content = path.as_bytes();
        client.write(request(id(0, 1, 1), content)).await.unwrap();
        assert_eq!(ids(&*client, Level::L0).await, [id(0, 1, 1)], "{path}");
        assert_eq!(read(&*client, id(0, 1, 1), 0, 0).await.unwrap(), content, "{path}");
        client.delete(&[id(0, 1, 1)]).await.unwrap();
        assert_eq!(ids(&*client, Level::L0).await, [], "{path}");
    }
}

pub(crate) async fn replicas_side_by_side_do_not_mix(store: &impl Replica) {
    let (outer, inner, longer) = (store.open("side"), store.open("side/0000"), store.open("side-by-side"));
    for (client, n) in [(&outer, 1), (&inner, 2), (&longer, 3)] {
        client.write(request(id(0, n, n), b"x")).await.unwrap();
    }
    for (client, n) in [(&outer, 1), (&inner, 2), (&longer, 3)] {
        assert_eq!(ids(&**client, Level::L0).await, [id(0, n, n)]);
    }
}

async fn read_object(client: &dyn ReplicaClient, key: &str, offset: u64, len: u64) -> Result<Vec<u8>> {
    let chunks: Vec<Bytes> = client.open_object(key, offset, len).await?.try_collect().await?;
    Ok(chunks.concat())
}

/// The LTX files themselves serve as the objects: every store can hold those.
pub(crate) async fn objects_of_any_layout_are_listed_and_read(store: &impl Replica) {
    let client = store.open("objects/of");
    let sibling = store.open("objects/of-another");
    assert_eq!(client.list_objects("").await.unwrap(), []);
    assert_eq!(client.list_objects("generations/").await.unwrap(), []);

    let contents = [(id(0, 1, 1), bytes_of(10, 1)), (id(0, 2, 2), bytes_of(300_000, 2)), (id(9, 1, 2), bytes_of(7, 3))];
    for (file, content) in &contents {
        let body = Body::Bytes(Bytes::copy_from_slice(content));
        client.write(request_with(*file, body, WriteMode::CreateOnly)).await.unwrap();
    }
    sibling.write(request(id(0, 1, 1), b"x")).await.unwrap();

    let all = client.list_objects("").await.unwrap();
    assert!(all.is_sorted(), "{all:?}");
    assert_eq!(all.len(), contents.len(), "{all:?}");
    for ((file, content), object) in contents.iter().zip(&all) {
        let ObjectInfo { key, size, modified } = object;
        assert!(key.ends_with(&format!("/{}", file.name())) && !key.starts_with('/'), "{key}");
        assert_eq!(*size, content.len() as u64, "{key}");
        // The store's own time, or where a file's time is all it has, that one.
        assert!(*modified >= stamp() - jiff::SignedDuration::from_secs(1), "{key}: {modified}");
        assert!(read_object(&*client, key, 0, 0).await.unwrap() == *content, "{key}");
        assert!(read_object(&*client, key, 3, 4).await.unwrap() == content[3..7], "{key}");
        assert!(read_object(&*client, key, 5, 0).await.unwrap() == content[5..], "{key}");
        assert_eq!(read_object(&*client, key, 400_000, 1).await.unwrap(), b"", "{key}");
    }

    // A prefix is a directory, and what lies below it keeps its whole key.
    let (level, _) = all[0].key.rsplit_once('/').unwrap();
    assert_eq!(client.list_objects(&format!("{level}/")).await.unwrap(), all[..2]);
    assert_eq!(client.list_objects(&format!("{level}/absent/")).await.unwrap(), []);

    let error = read_object(&*client, &format!("{level}/absent"), 0, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    for key in ["../of-another/x", "a//b", "", "./x"] {
        let error = read_object(&*client, key, 0, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{key:?}: {error}");
    }
}
