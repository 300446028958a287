//! The suite against OpenSSH and rclone, and what only SFTP has.

use std::path::PathBuf;
use std::sync::Arc;

use litestream_replica::retry::RetryPolicy;
use litestream_replica::sftp::{SftpClient, SftpOptions};
use litestream_replica::{ClientContext, ErrorKind, Level, ReplicaClient, ReplicaUrl};
use litestream_testkit::sftp_server::{self, Kind, PASSWORD, PASSWORD_IN_URL, Share};

use super::suite::{self, Replica, id, read, request};

pub(crate) struct Server(pub(crate) Share);

impl Server {
    pub(crate) fn options(&self, path: &str) -> SftpOptions {
        let by_key = self.0.kind == Kind::OpenSsh;
        SftpOptions {
            host: Some(self.0.host.clone()),
            user: Some(self.0.user.clone()),
            path: Some(format!("{}/{path}", self.0.path)),
            password: (!by_key).then(|| PASSWORD.to_owned()),
            key_path: by_key.then(|| self.0.key("ed25519")),
            host_key: by_key.then(|| self.0.host_key("ed25519").unwrap()),
            concurrent_writes: None,
        }
    }
}

impl Replica for Server {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(SftpClient::new(self.options(path), &ClientContext::default()).unwrap())
    }
}

pub(crate) async fn server(kind: Kind) -> Server {
    Server(tokio::task::spawn_blocking(move || sftp_server::fresh_share(kind)).await.unwrap().unwrap())
}

macro_rules! on_server {
    ($module:ident, $kind:ident) => {
        mod $module {
            async fn here() -> super::Server {
                super::server(super::Kind::$kind).await
            }
            super::suite::for_replica!(here);
        }
    };
}

on_server!(on_openssh, OpenSsh);
on_server!(on_rclone, Rclone);

const BOTH: [Kind; 2] = [Kind::OpenSsh, Kind::Rclone];

/// A client that gives up at once.
fn impatient(options: SftpOptions) -> SftpClient {
    let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
    SftpClient::new(options, &ClientContext { retry, ..ClientContext::default() }).unwrap()
}

#[tokio::test]
async fn files_lie_where_upstream_looks_for_them_with_their_capture_time() {
    for kind in BOTH {
        let server = server(kind).await;
        server.open("a//b/../c/").write(request(id(9, 1, 255), b"x")).await.unwrap();
        assert_eq!(server.0.files(), ["a/c/ltx/9/0000000000000001-00000000000000ff.ltx"], "{kind:?}");
        let listed = suite::list(&*server.open("a/c"), Level::SNAPSHOT).await;
        assert_eq!(listed[0].created_at.as_second(), suite::stamp().as_second(), "{kind:?}");
    }
}

#[tokio::test]
async fn foreign_names_are_not_listed() {
    let server = server(Kind::OpenSsh).await;
    let client = server.open("db");
    client.write(request(id(0, 1, 1), b"y")).await.unwrap();
    let level = server.0.directory().join("db/ltx/0");
    // The server may run as somebody else, whose directory this is.
    for name in ["0000000000000002-0000000000000002.ltx.tmp", "0000000000000002-000000000000000A.ltx", "jünk & x"] {
        std::fs::write(level.join(name), b"y").unwrap();
    }
    std::fs::create_dir(level.join("0000000000000003-0000000000000003.ltx")).unwrap();
    assert_eq!(suite::ids(&*client, Level::L0).await, [id(0, 1, 1)]);
}

#[tokio::test]
async fn failed_writes_leave_no_temporary_file() {
    for kind in BOTH {
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
async fn old_temporary_files_are_removed_and_young_ones_are_not() {
    let server = server(Kind::OpenSsh).await;
    let client = server.open("db");
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    let level = server.0.directory().join("db/ltx/0");
    let name = |nanoseconds: u128| format!("0000000000000002-0000000000000002.ltx.7.{nanoseconds}.tmp");
    let today = std::time::UNIX_EPOCH.elapsed().unwrap();
    let (now, day) = (today.as_nanos(), 86_400_000_000_000);
    let long_ago = std::time::UNIX_EPOCH + today - std::time::Duration::from_secs(3 * 86_400);
    for nanoseconds in [now - 2 * day, now - day / 2] {
        let file = std::fs::File::create(level.join(name(nanoseconds))).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    // Begun long ago, and still written to.
    std::fs::write(level.join(name(now - 3 * day)), b"x").unwrap();
    suite::list(&*client, Level::L0).await;
    client.write(request(id(0, 2, 2), b"x")).await.unwrap();
    let temporary: Vec<String> = server.0.files().into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert_eq!(temporary.len(), 2, "{temporary:?}");
    assert!(!temporary.iter().any(|path| path.ends_with(&name(now - 2 * day))), "{temporary:?}");
}

#[tokio::test]
async fn keys_of_every_kind_open_the_door_whatever_the_host_key() {
    let server = server(Kind::OpenSsh).await;
    for (key, host_key) in [("ed25519", "rsa"), ("rsa", "ecdsa"), ("ecdsa", "ed25519")] {
        let options = SftpOptions {
            key_path: Some(server.0.key(key)),
            host_key: Some(format!("[127.0.0.1]:22 {}", server.0.host_key(host_key).unwrap())),
            ..server.options("db")
        };
        impatient(options).init().await.unwrap_or_else(|error| panic!("{key}, {host_key}: {error}"));
    }
    let unverified = SftpOptions { host_key: None, ..server.options("db") };
    impatient(unverified).init().await.unwrap();
}

#[tokio::test]
async fn wrong_keys_are_explained_and_not_tried_again() {
    let server = server(Kind::OpenSsh).await;
    let options = server.options("db");
    let stranger = std::fs::read_to_string(format!("{}.pub", server.0.key("stranger").display())).unwrap();
    let with_key = |name: &str| SftpOptions { key_path: Some(server.0.key(name)), ..options.clone() };
    for (options, words) in [
        (SftpOptions { host_key: Some(stranger), ..options.clone() }, "ssh: host key mismatch"),
        (with_key("encrypted"), "cannot parse sftp key path: ssh: this private key is passphrase protected"),
        (with_key("missing"), "cannot read sftp key path"),
        (with_key("stranger"), "does not accept user"),
        (SftpOptions { key_path: None, ..options.clone() }, "set key-path or password"),
    ] {
        let client = SftpClient::new(options, &ClientContext::default()).unwrap();
        let error = client.init().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{words}: {error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn wrong_password_is_explained_and_not_shown() {
    let server = server(Kind::Rclone).await;
    let options = SftpOptions { password: Some("not-the-password".into()), ..server.options("db") };
    let client = SftpClient::new(options, &ClientContext::default()).unwrap();
    let error = client.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    let text = error.to_string();
    assert!(text.contains("does not accept user replica with password"), "{text}");
    assert!(!text.contains("not-the-password"), "{text}");
}

#[tokio::test]
async fn an_agent_speaks_for_who_has_no_key_file() {
    struct Agent(std::process::Child);
    impl Drop for Agent {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let server = server(Kind::OpenSsh).await;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let mut agent = Share::client_program("ssh-agent");
    agent.args(["-D", "-a"]).arg(&socket).stdout(std::process::Stdio::null());
    let _agent = Agent(agent.spawn().unwrap());
    let start = std::time::Instant::now();
    while !socket.exists() {
        assert!(start.elapsed().as_secs() < 10, "no agent");
        tokio::task::yield_now().await;
    }
    let key = dir.path().join("key");
    std::fs::copy(server.0.key("ed25519"), &key).unwrap();
    let added = Share::client_program("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).status();
    assert!(added.unwrap().success());
    let socket = socket.display().to_string();
    let env: litestream_replica::url::EnvLookup =
        Arc::new(move |name| (name == "SSH_AUTH_SOCK").then(|| socket.clone()));
    let options = SftpOptions { key_path: None, ..server.options("db") };
    let context = ClientContext { env: Some(env), ..ClientContext::default() };
    SftpClient::new(options, &context).unwrap().init().await.unwrap();
}

#[tokio::test]
async fn replica_urls_open_the_same_place() {
    let server = server(Kind::Rclone).await;
    server.open("a/b").write(request(id(0, 1, 1), b"x")).await.unwrap();
    let Share { host, path, .. } = &server.0;
    let url = format!("sftp://replica:{PASSWORD_IN_URL}@{host}{path}/a//b/");
    let client = ReplicaUrl::parse(&url).unwrap().into_client(&ClientContext::default()).unwrap();
    assert_eq!(suite::ids(&*client, Level::L0).await, [id(0, 1, 1)]);
    assert_eq!(client.location(), format!("sftp://{host}{path}/a/b"));
    for text in [client.location(), format!("{:?}", client.log_fields())] {
        assert!(!text.contains("p:ss"), "{text}");
    }
}

#[tokio::test]
async fn relative_paths_are_below_the_login_directory() {
    let server = server(Kind::Rclone).await;
    let name = server.0.path.trim_start_matches('/').to_owned();
    let client = impatient(SftpOptions { path: Some(format!("{name}/db")), ..server.options("") });
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    assert_eq!(server.0.files(), ["db/ltx/0/0000000000000001-0000000000000001.ltx"]);
    assert_eq!(client.location(), format!("sftp://{}/~/{name}/db", server.0.host));
}

#[tokio::test]
async fn unwritable_places_are_explained() {
    let server = server(Kind::OpenSsh).await;
    if server.0.user != "nobody" {
        return;
    }
    let options = SftpOptions { path: Some("/proc/nowhere".into()), ..server.options("db") };
    let error = impatient(options).write(request(id(0, 1, 1), b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
}

#[tokio::test]
async fn unreachable_server_fails_the_operation_and_not_the_client() {
    let options = SftpOptions {
        host: Some("127.0.0.1:1".into()),
        user: Some("u".into()),
        path: Some("/x".into()),
        key_path: Some(PathBuf::from("/no/key")),
        ..SftpOptions::default()
    };
    let error = impatient(options).init().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(error.to_string().contains("sftp: connect to 127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn one_write_at_a_time_works_as_well() {
    let server = server(Kind::OpenSsh).await;
    let client = impatient(SftpOptions { concurrent_writes: Some(false), ..server.options("db") });
    let content = suite::bytes_of(300_000, 4);
    client.write(request(id(0, 1, 1), &content)).await.unwrap();
    assert!(read(&client, id(0, 1, 1), 0, 0).await.unwrap() == content);
}
