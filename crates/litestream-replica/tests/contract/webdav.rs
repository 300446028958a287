//! The suite against four servers that are not ours, and what only WebDAV has.

use std::path::PathBuf;
use std::sync::Arc;

use litestream_replica::http::{HttpOptions, HttpPool};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::webdav::{WebDavClient, WebDavOptions};
use litestream_replica::{ClientContext, ErrorKind, Level, ReplicaClient, ReplicaUrl};
use litestream_testkit::webdav_server::{self, Kind, PASSWORD, PLAIN, Share, USERNAME};

use super::faults_tcp;
use super::suite::{self, Replica, id, read, request};

struct Server(Share, Kind);

impl Server {
    fn options(&self, path: &str) -> WebDavOptions {
        WebDavOptions {
            url: Some(self.0.url.clone()),
            username: Some(USERNAME.into()),
            password: Some(PASSWORD.into()),
            path: Some(format!("{}/{path}", self.0.path)),
        }
    }
}

impl Replica for Server {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(WebDavClient::new(self.options(path), &ClientContext::default()).unwrap())
    }

    fn keeps_odd_slashes(&self) -> bool {
        false
    }

    /// nginx answers `500` to a `PUT` without a body.
    fn keeps_empty_files(&self) -> bool {
        self.1 != Kind::Nginx
    }
}

impl faults_tcp::Remote for Server {
    fn address(&self) -> String {
        self.0.url.replace("http://", "")
    }

    fn through(&self, address: &str, path: &str, context: ClientContext) -> Arc<dyn ReplicaClient> {
        let url = Some(format!("http://{address}"));
        Arc::new(WebDavClient::new(WebDavOptions { url, ..self.options(path) }, &context).unwrap())
    }
}

async fn server(kind: Kind) -> Server {
    let share = tokio::task::spawn_blocking(move || webdav_server::fresh_share(kind)).await.unwrap().unwrap();
    Server(share, kind)
}

macro_rules! on_server {
    ($module:ident, $kind:ident $(, $more:path)?) => {
        mod $module {
            async fn here() -> super::Server {
                super::server(super::Kind::$kind).await
            }
            super::suite::for_replica!(here);
            $($more!(here);)?
        }
    };
}

on_server!(on_nginx, Nginx, super::faults_tcp::for_remote);
on_server!(on_apache, Apache);
on_server!(on_rclone, Rclone);
on_server!(on_wsgidav, WsgiDav);

#[tokio::test]
async fn files_lie_where_upstream_looks_for_them() {
    for kind in PLAIN {
        let server = server(kind).await;
        server.open("a//b/../c/").write(request(id(9, 1, 255), b"x")).await.unwrap();
        assert_eq!(server.0.files(), ["a/c/ltx/9/0000000000000001-00000000000000ff.ltx"], "{kind:?}");
    }
}

#[tokio::test]
async fn foreign_names_are_not_listed() {
    // rclone shows files that it did not write only after some minutes.
    for kind in PLAIN.into_iter().filter(|kind| *kind != Kind::Rclone) {
        let server = server(kind).await;
        let level = server.0.directory().join("db/ltx/0");
        std::fs::create_dir_all(level.join("0000000000000003-0000000000000003.ltx")).unwrap();
        for name in ["0000000000000002-0000000000000002.ltx.tmp", "0000000000000002-000000000000000A.ltx", "jünk & x"]
        {
            std::fs::write(level.join(name), b"y").unwrap();
        }
        std::fs::write(level.join("0000000000000001-0000000000000001.ltx"), b"y").unwrap();
        assert_eq!(suite::ids(&*server.open("db"), Level::L0).await, [id(0, 1, 1)], "{kind:?}");
    }
}

#[tokio::test]
async fn failed_and_abandoned_writes_leave_no_temporary_file() {
    for kind in PLAIN {
        let server = server(kind).await;
        let client = server.open("db");
        client.write(request(id(0, 1, 1), b"first")).await.unwrap();
        client.write(request(id(0, 1, 1), b"second")).await.unwrap_err();
        client.write(request(id(0, 1, 1), b"first")).await.unwrap();
        client.write(suite::failing_request(id(0, 2, 2), 3 << 20)).await.unwrap_err();
        assert_eq!(server.0.files().len(), 1, "{kind:?}: {:?}", server.0.files());
    }
}

#[tokio::test]
async fn replica_urls_open_the_same_place() {
    let server = server(Kind::Apache).await;
    server.open("a/b").write(request(id(0, 1, 1), b"x")).await.unwrap();
    let authority = server.0.url.strip_prefix("http://").unwrap();
    let url = format!("webdav://{USERNAME}:p%3Ass%2Fw%25rd%2B1@{authority}/{}/a//b/", server.0.path);
    let client = ReplicaUrl::parse(&url).unwrap().into_client(&ClientContext::default()).unwrap();
    assert_eq!(suite::ids(&*client, Level::L0).await, [id(0, 1, 1)]);
    assert_eq!(client.location(), format!("webdav://{authority}/{}/a/b", server.0.path));
    for text in [client.location(), format!("{:?}", client.log_fields())] {
        assert!(!text.contains("p:ss") && !text.contains(USERNAME), "{text}");
    }
}

#[tokio::test]
async fn wrong_password_is_explained_and_not_shown() {
    for kind in PLAIN {
        let server = server(kind).await;
        let wrong = WebDavOptions { password: Some("not-the-password".into()), ..server.options("db") };
        let client = WebDavClient::new(wrong, &ClientContext::default()).unwrap();
        let error = client.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{kind:?}: {error}");
        let text = error.to_string();
        assert!(text.contains("correct webdav-username and webdav-password"), "{kind:?}: {text}");
        assert!(!text.contains("not-the-password"), "{text}");

        let nobody = WebDavOptions { username: None, password: None, ..server.options("db") };
        let client = WebDavClient::new(nobody, &ClientContext::default()).unwrap();
        let error = client.init().await.unwrap_err().to_string();
        assert!(error.contains("set webdav-username and webdav-password"), "{kind:?}: {error}");
    }
}

#[tokio::test]
async fn wrong_base_is_an_error_that_names_it() {
    for kind in PLAIN {
        let server = server(kind).await;
        let url = format!("{}/no/such/place", server.0.url);
        let options = WebDavOptions { url: Some(url.clone()), ..server.options("db") };
        let client = WebDavClient::new(options, &ClientContext::default()).unwrap();
        let listing = client.list(Level::L0, ltx::Txid::new(0), false).await.map(drop);
        let mut results = vec![("list", listing)];
        // nginx is told to make all collections that are missing.
        if kind != Kind::Nginx {
            results.push(("write", client.write(request(id(0, 1, 1), b"x")).await.map(drop)));
        }
        for (what, result) in results {
            let error = result.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Setup, "{kind:?}, {what}: {error}");
            assert!(error.to_string().contains(&url), "{kind:?}, {what}: {error}");
        }
    }
}

#[tokio::test]
async fn servers_on_tls_are_trusted_by_their_authority() {
    let server = server(Kind::RcloneTls).await;
    let trusting = HttpOptions { ca_file: Some(PathBuf::from(webdav_server::CA)), ..HttpOptions::default() };
    let context = ClientContext { http: HttpPool::new(trusting), ..ClientContext::default() };
    let client = WebDavClient::new(server.options("db"), &context).unwrap();
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"x");
    assert!(client.location().starts_with("webdavs://"));

    let context =
        ClientContext { retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() }, ..ClientContext::default() };
    let error = WebDavClient::new(server.options("db"), &context).unwrap().init().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("is not trusted, trust its issuer (SSL_CERT_FILE"), "{error}");
}

#[tokio::test]
async fn plain_server_where_tls_is_wanted_is_named() {
    let server = server(Kind::Nginx).await;
    let options = WebDavOptions { url: Some(server.0.url.replace("http", "https")), ..server.options("db") };
    let error = WebDavClient::new(options, &ClientContext::default()).unwrap().init().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("does not answer in TLS"), "{error}");
}
