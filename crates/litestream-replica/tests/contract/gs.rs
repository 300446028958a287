//! The suite against fake-gcs-server, and what only Google has.

use std::sync::Arc;

use futures_util::TryStreamExt;
use litestream_replica::gs::{GsClient, GsOptions};
use litestream_replica::{ClientContext, ErrorKind, Level, ReplicaClient, ReplicaUrl};
use litestream_testkit::gcs_server::{self, GcsBucket};
use ltx::Txid;

use super::faults_tcp;
use super::suite::{self, Replica, bytes_of, id, list, read, request, stamp};

pub(crate) struct Server(GcsBucket);

impl Server {
    fn context(&self) -> ClientContext {
        context_of(&self.0.host, ClientContext::default())
    }

    fn client(&self, path: &str) -> GsClient {
        GsClient::new(self.options(path), &self.context()).unwrap()
    }

    fn options(&self, path: &str) -> GsOptions {
        GsOptions { bucket: Some(self.0.name.clone()), path: Some(path.to_owned()) }
    }
}

impl Replica for Server {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(self.client(path))
    }
}

fn context_of(host: &str, context: ClientContext) -> ClientContext {
    let host = host.to_owned();
    let env = move |name: &str| (name == "STORAGE_EMULATOR_HOST").then(|| host.clone());
    ClientContext { env: Some(Arc::new(env)), ..context }
}

impl faults_tcp::Remote for Server {
    fn address(&self) -> String {
        self.0.host.clone()
    }

    fn through(&self, address: &str, path: &str, context: ClientContext) -> Arc<dyn ReplicaClient> {
        Arc::new(GsClient::new(self.options(path), &context_of(address, context)).unwrap())
    }

    /// Sessions for large files have addresses of their own, and tests too.
    fn keeps_to_its_address(&self) -> bool {
        false
    }
}

async fn fake_gcs() -> Server {
    let bucket = tokio::task::spawn_blocking(gcs_server::fresh_bucket).await.unwrap();
    Server(bucket.unwrap())
}

mod on_fake_gcs {
    use super::fake_gcs;
    super::suite::for_replica!(fake_gcs);
    super::faults_tcp::for_remote!(fake_gcs);
}

/// L14: upstream appends the TXID to the prefix it lists, so only the file that
/// begins exactly there is found, and compaction merges one file at a time.
#[tokio::test]
async fn seek_finds_all_files_from_there_on() {
    let server = fake_gcs().await;
    let client = server.client("db");
    let all = [id(0, 1, 1), id(0, 2, 4), id(0, 5, 5), id(0, 6, 6)];
    for file in all {
        client.write(request(file, b"x")).await.unwrap();
    }
    for (what, seek, from) in [("absent", 3, 2), ("exact", 2, 1), ("spanned", 4, 2), ("beyond", 7, 4)] {
        let listed = client.list(Level::L0, Txid::new(seek), false).await.unwrap();
        assert_eq!(listed.iter().map(|file| file.id).collect::<Vec<_>>(), all[from..], "{what}");
    }
}

/// L30: a range without a length once gave nothing.
#[tokio::test]
async fn length_zero_means_to_the_end() {
    let server = fake_gcs().await;
    let client = server.client("db");
    client.write(request(id(0, 1, 1), b"0123456789")).await.unwrap();
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"0123456789");
    assert_eq!(read(&client, id(0, 1, 1), 7, 0).await.unwrap(), b"789");
}

#[tokio::test]
async fn names_are_those_that_upstream_writes() {
    let server = fake_gcs().await;
    for (path, prefix) in [("db", "db/"), ("", ""), ("a//b/", "a/b/")] {
        let client = server.client(path);
        client.write(request(id(9, 1, 2), b"x")).await.unwrap();
        let key = format!("{prefix}ltx/9/0000000000000001-0000000000000002.ltx");
        assert_eq!(server.0.keys(&format!("{prefix}ltx/")).unwrap(), [key], "path {path:?}");
        client.delete_all().await.unwrap();
        assert!(server.0.keys(&format!("{prefix}ltx/")).unwrap().is_empty());
    }
}

#[tokio::test]
async fn files_in_deeper_directories_are_not_listed() {
    let server = fake_gcs().await;
    let name = "0000000000000001-0000000000000001.ltx";
    for key in [format!("db/ltx/0/{name}"), format!("db/ltx/0/sub/{name}"), format!("db/ltx/0/{name}.tmp")] {
        server.0.put(&key, b"xyz").unwrap();
    }
    let files = list(&server.client("db"), Level::L0).await;
    assert_eq!(files.iter().map(|file| (file.id, file.size)).collect::<Vec<_>>(), [(id(0, 1, 1), 3)]);
    assert!(files[0].created_at > stamp(), "without metadata the store's time counts");
}

/// A chunk that ends with the file is the last one, and says so.
#[tokio::test]
async fn uploads_of_whole_chunks_end() {
    let server = fake_gcs().await;
    let client = server.client("db");
    for (n, len) in [(1, 8 << 20), (2, 16 << 20), (3, (8 << 20) + 1)] {
        let content = bytes_of(len, 1);
        assert_eq!(client.write(request(id(9, n, n), &content)).await.unwrap().size, len as u64);
        assert!(read(&client, id(9, n, n), 0, 0).await.unwrap() == content, "{len}");
    }
}

#[tokio::test]
async fn missing_bucket_is_an_error_that_names_it() {
    let server = fake_gcs().await;
    let options = GsOptions { bucket: Some("no-such-bucket".into()), path: None };
    let client = GsClient::new(options, &server.context()).unwrap();
    let results = [
        ("list", client.list(Level::L0, Txid::new(0), false).await.map(drop)),
        ("write", client.write(request(id(0, 1, 1), b"x")).await.map(drop)),
    ];
    for (what, result) in results {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Setup, "{what}: {error}");
        assert!(error.to_string().contains("bucket \"no-such-bucket\" does not exist"), "{what}: {error}");
    }
}

#[tokio::test]
async fn replica_urls_open_the_same_place() {
    let server = fake_gcs().await;
    server.client("a/b").write(request(id(0, 1, 1), b"x")).await.unwrap();
    let url = format!("gs://{}/a//b/", server.0.name);
    let client = ReplicaUrl::parse(&url).unwrap().into_client(&server.context()).unwrap();
    assert_eq!(suite::ids(&*client, Level::L0).await, [id(0, 1, 1)]);
    assert_eq!(client.location(), format!("gs://{}/a/b", server.0.name));
}

#[tokio::test]
async fn objects_of_the_old_layout_are_read() {
    let server = fake_gcs().await;
    let name = "generations/0123456789abcdef/snapshots/00000000.snapshot.lz4";
    server.0.put(&format!("db/{name}"), b"old").unwrap();
    let client = server.client("db");
    let found = client.list_objects("generations/").await.unwrap();
    assert_eq!(found.iter().map(|o| (o.key.as_str(), o.size)).collect::<Vec<_>>(), [(name, 3)]);
    let chunks: Vec<bytes::Bytes> = client.open_object(name, 0, 0).await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"old");
}
