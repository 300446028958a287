//! The suite against Azurite, and what only Azure has.

use std::sync::Arc;

use futures_util::TryStreamExt;
use litestream_replica::abs::{AbsClient, AbsOptions};
use litestream_replica::{Body, ClientContext, ErrorKind, Level, ReplicaClient, ReplicaUrl, WriteMode};
use litestream_testkit::azure_server::{self, ACCOUNT, Container, EXPIRED_SAS, KEY, READ_ONLY_SAS, SAS};
use ltx::Txid;

use super::faults_tcp;
use super::suite::{self, Replica, bytes_of, failing_request, id, list, read, request, request_with, stamp};

pub(crate) struct Server(Container);

impl Server {
    fn options(&self) -> AbsOptions {
        AbsOptions {
            account_name: Some(ACCOUNT.into()),
            account_key: Some(KEY.into()),
            bucket: Some(self.0.name.clone()),
            endpoint: Some(self.0.endpoint.clone()),
            ..AbsOptions::default()
        }
    }

    fn client(&self, path: &str) -> AbsClient {
        client_of(AbsOptions { path: Some(path.to_owned()), ..self.options() })
    }
}

fn client_of(options: AbsOptions) -> AbsClient {
    AbsClient::new(options, &ClientContext::default()).unwrap()
}

impl Replica for Server {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(self.client(path))
    }
}

impl faults_tcp::Remote for Server {
    fn address(&self) -> String {
        self.0.endpoint.replace("http://", "").replace(&format!("/{ACCOUNT}"), "")
    }

    fn through(&self, address: &str, path: &str, context: ClientContext) -> Arc<dyn ReplicaClient> {
        let (path, endpoint) = (Some(path.to_owned()), Some(format!("http://{address}/{ACCOUNT}")));
        Arc::new(AbsClient::new(AbsOptions { path, endpoint, ..self.options() }, &context).unwrap())
    }
}

async fn azurite() -> Server {
    let container = tokio::task::spawn_blocking(azure_server::fresh_container).await.unwrap();
    Server(container.unwrap())
}

mod on_azurite {
    use super::azurite;
    super::suite::for_replica!(azurite);
    super::faults_tcp::for_remote!(azurite);
}

/// L14: upstream appends the TXID to the prefix it lists, so only the file that
/// begins exactly there is found, and compaction merges one file at a time.
#[tokio::test]
async fn seek_finds_all_files_from_there_on() {
    let server = azurite().await;
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

/// L29: upstream once deleted `max-max`, and so no merged file at all.
#[tokio::test]
async fn merged_files_are_deleted_by_their_whole_name() {
    let server = azurite().await;
    let client = server.client("db");
    client.write(request(id(1, 3, 9), b"x")).await.unwrap();
    client.write(request(id(1, 9, 9), b"x")).await.unwrap();
    client.delete(&[id(1, 3, 9)]).await.unwrap();
    assert_eq!(suite::ids(&client, Level::new(1).unwrap()).await, [id(1, 9, 9)]);
}

#[tokio::test]
async fn names_are_those_that_upstream_writes() {
    let server = azurite().await;
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
async fn replica_at_the_root_of_a_container_leaves_other_blobs_alone() {
    let server = azurite().await;
    let client = server.client("");
    server.0.put("photo.jpg", b"x").unwrap();
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    client.delete_all().await.unwrap();
    assert_eq!(server.0.keys("").unwrap(), ["photo.jpg"]);
}

#[tokio::test]
async fn files_in_deeper_directories_are_not_listed() {
    let server = azurite().await;
    let name = "0000000000000001-0000000000000001.ltx";
    for key in [format!("db/ltx/0/{name}"), format!("db/ltx/0/sub/{name}"), format!("db/ltx/0/{name}.tmp")] {
        server.0.put(&key, b"x").unwrap();
    }
    assert_eq!(suite::ids(&server.client("db"), Level::L0).await, [id(0, 1, 1)]);
}

#[tokio::test]
async fn files_without_metadata_have_the_stores_time() {
    let server = azurite().await;
    server.0.put("db/ltx/0/0000000000000001-0000000000000001.ltx", b"xyz").unwrap();
    let files = list(&server.client("db"), Level::L0).await;
    assert_eq!(files[0].size, 3);
    assert!(files[0].created_at > stamp());
}

/// Blocks that nobody committed lie in wait under the name, with ids of their own.
#[tokio::test]
async fn upload_goes_through_after_one_that_was_abandoned() {
    let server = azurite().await;
    let client = server.client("db");
    client.write(failing_request(id(9, 1, 1), 12 << 20)).await.unwrap_err();
    suite::abandon_write(&client, id(9, 1, 1)).await;
    let content = bytes_of(9 << 20, 4);
    client.write(request(id(9, 1, 1), &content)).await.unwrap();
    assert!(read(&client, id(9, 1, 1), 0, 0).await.unwrap() == content);
    let small = Body::Bytes(b"small".as_slice().into());
    client.write(request_with(id(9, 1, 1), small, WriteMode::Overwrite)).await.unwrap();
    assert_eq!(read(&client, id(9, 1, 1), 0, 0).await.unwrap(), b"small");
}

#[tokio::test]
async fn shared_access_signature_is_enough() {
    let server = azurite().await;
    let options = AbsOptions {
        account_key: None,
        account_name: None,
        sas_token: Some(format!("?{SAS}")),
        path: Some("db".into()),
        ..server.options()
    };
    let client = client_of(options);
    for (file, len) in [(id(0, 1, 1), 100), (id(9, 1, 1), 9 << 20)] {
        client.write(request(file, &bytes_of(len, 1))).await.unwrap();
        assert!(read(&client, file, 10, 50).await.unwrap() == bytes_of(len, 1)[10..60]);
    }
    client.delete(&[id(0, 1, 1)]).await.unwrap();
    assert_eq!(suite::ids(&client, Level::L0).await, []);
}

#[tokio::test]
async fn wrong_credentials_are_explained_and_not_shown() {
    let server = azurite().await;
    let key = AbsOptions { account_key: Some("bm90IHRoZSBrZXk=".into()), ..server.options() };
    let sas = |sas: &str| AbsOptions { account_key: None, sas_token: Some(sas.into()), ..server.options() };
    for (options, advice, secret) in [
        (key, "the account-key does not belong to account \"devstoreaccount1\"", "bm90IHRoZSBrZXk="),
        (sas(EXPIRED_SAS), "the sas-token is wrong or has expired", "sig="),
        (sas(READ_ONLY_SAS), "the sas-token does not permit to write", "sig="),
    ] {
        let client = client_of(options);
        let error = client.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
        let text = error.to_string();
        assert!(text.contains(advice), "{text}");
        for shown in [text, client.location(), format!("{client:?} {:?}", client.log_fields())] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[tokio::test]
async fn missing_container_is_an_error_that_names_it() {
    let server = azurite().await;
    let client = client_of(AbsOptions { bucket: Some("no-such-container".into()), ..server.options() });
    let results = [
        ("list", client.list(Level::L0, Txid::new(0), false).await.map(drop)),
        ("write", client.write(request(id(0, 1, 1), b"x")).await.map(drop)),
        ("open", client.open(id(0, 1, 1), 0, 0).await.map(drop)),
        ("delete", client.delete(&[id(0, 1, 1)]).await),
    ];
    for (what, result) in results {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Setup, "{what}: {error}");
        assert!(error.to_string().contains("container \"no-such-container\" does not exist"), "{what}: {error}");
    }
}

#[tokio::test]
async fn replica_urls_open_the_same_place() {
    let server = azurite().await;
    server.client("a/b").write(request(id(0, 1, 1), b"x")).await.unwrap();
    let url = format!("abs://{ACCOUNT}@{}/a//b/", server.0.name);
    let ReplicaUrl::Abs(options) = ReplicaUrl::parse(&url).unwrap() else { panic!("{url} is an abs replica") };
    let env = |name: &str| (name == "LITESTREAM_AZURE_ACCOUNT_KEY").then(|| KEY.to_owned());
    let context = ClientContext { env: Some(Arc::new(env)), ..ClientContext::default() };
    let options = AbsOptions { endpoint: Some(server.0.endpoint.clone()), ..options };
    let client = ReplicaUrl::Abs(options).into_client(&context).unwrap();
    assert_eq!(suite::ids(&*client, Level::L0).await, [id(0, 1, 1)]);
    assert_eq!(client.location(), format!("abs://{ACCOUNT}@{}/a/b", server.0.name));
}

#[tokio::test]
async fn objects_of_the_old_layout_are_read() {
    let server = azurite().await;
    let name = "generations/0123456789abcdef/snapshots/00000000.snapshot.lz4";
    server.0.put(&format!("db/{name}"), b"old").unwrap();
    let client = server.client("db");
    let found = client.list_objects("generations/").await.unwrap();
    assert_eq!(found.iter().map(|o| (o.key.as_str(), o.size)).collect::<Vec<_>>(), [(name, 3)]);
    let chunks: Vec<bytes::Bytes> = client.open_object(name, 0, 0).await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"old");
}
