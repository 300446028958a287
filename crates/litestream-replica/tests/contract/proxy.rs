//! Every store that speaks HTTP, reached through a real forward proxy. Its name is
//! one that only the proxy can resolve, so nothing arrives by another way.

use std::path::PathBuf;
use std::sync::Arc;

use litestream_replica::abs::{AbsClient, AbsOptions};
use litestream_replica::gs::{GsClient, GsOptions};
use litestream_replica::http::{HttpOptions, HttpPool};
use litestream_replica::oss::{OssClient, OssOptions};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::webdav::{WebDavClient, WebDavOptions};
use litestream_replica::{ClientContext, ErrorKind, Level, ReplicaClient};
use litestream_testkit::forward_proxy::{ForwardProxy, NAME};
use litestream_testkit::s3_server::{self, Kind};
use litestream_testkit::{azure_server, gcs_server, rclone_s3, webdav_server};

use super::scripted::{page, serve};
use super::suite::{bytes_of, id, ids, read, request};

/// `replica:p/ss`, as the proxy wants it.
const LOGIN: &str = "cmVwbGljYTpwL3Nz";

/// What a program learns from an environment with the proxy, and other variables.
fn context(proxy: &ForwardProxy, user: &str, more: &[(&'static str, String)]) -> ClientContext {
    let url = format!("http://{user}{}", proxy.address());
    let mut variables = vec![("HTTP_PROXY", url.clone()), ("https_proxy", url)];
    variables.extend(more.iter().cloned());
    let get = move |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    ClientContext {
        retry: RetryPolicy { attempts: 2, ..RetryPolicy::default() },
        ..ClientContext::from_env(Arc::new(get))
    }
}

/// A proxy that wants to know who asks, and the context that tells it.
fn with_login(more: &[(&'static str, String)]) -> (ForwardProxy, ClientContext) {
    let proxy = ForwardProxy::start(Some(LOGIN)).unwrap();
    let context = context(&proxy, "replica:p%2Fss@", more);
    (proxy, context)
}

async fn blocking<T: Send + 'static, E: std::fmt::Debug + Send + 'static>(
    start: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(start).await.unwrap().unwrap()
}

/// Writes a small and a large file, lists, reads and deletes.
async fn exercise(client: &dyn ReplicaClient, proxy: &ForwardProxy, method: &str) {
    client.init().await.unwrap();
    let large = bytes_of(9 << 20, 1);
    client.write(request(id(0, 1, 1), b"small")).await.unwrap();
    client.write(request(id(0, 2, 2), &large)).await.unwrap();
    assert_eq!(ids(client, Level::L0).await, [id(0, 1, 1), id(0, 2, 2)]);
    assert_eq!(read(client, id(0, 1, 1), 0, 0).await.unwrap(), b"small");
    assert!(read(client, id(0, 2, 2), 0, 0).await.unwrap() == large);
    client.delete(&[id(0, 1, 1)]).await.unwrap();
    let seen = proxy.seen();
    assert!(!seen.is_empty() && seen.iter().all(|line| line.contains(NAME)), "{seen:?}");
    assert!(seen.iter().any(|line| line.starts_with(method)), "{method}: {seen:?}");
}

fn named(url: &str) -> String {
    url.replace("127.0.0.1", NAME)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_goes_through_a_proxy() {
    let bucket = blocking(|| s3_server::fresh_bucket(Kind::SeaweedFs)).await;
    let (proxy, context) = with_login(&[]);
    let options = S3Options {
        bucket: Some(bucket.bucket),
        path: Some("db".into()),
        endpoint: Some(named(&bucket.endpoint)),
        access_key_id: Some(bucket.access_key),
        secret_access_key: Some(bucket.secret_key),
        ..S3Options::default()
    };
    exercise(&S3Client::new(options, &context).unwrap(), &proxy, "PUT").await;
}

/// rclone takes seconds for a deletion, so this one file is all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_over_tls_goes_through_a_tunnel_and_is_verified() {
    let bucket = blocking(rclone_s3::fresh_bucket).await;
    let (proxy, context) = with_login(&[("AWS_CA_BUNDLE", rclone_s3::CA.to_owned())]);
    let options = S3Options {
        bucket: Some(bucket.name),
        path: Some("db".into()),
        endpoint: Some(named(&bucket.endpoint)),
        access_key_id: Some(rclone_s3::ACCESS_KEY.to_owned()),
        secret_access_key: Some(rclone_s3::SECRET_KEY.to_owned()),
        ..S3Options::default()
    };
    let client = S3Client::new(options, &context).unwrap();
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"x");
    let seen = proxy.seen();
    assert!(!seen.is_empty() && seen.iter().all(|line| line.starts_with("CONNECT store.invalid:")), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webdav_goes_through_a_proxy_and_a_tunnel() {
    for (kind, method) in [(webdav_server::Kind::Rclone, "MOVE"), (webdav_server::Kind::RcloneTls, "CONNECT")] {
        let share = blocking(move || webdav_server::fresh_share(kind)).await;
        let (proxy, context) = with_login(&[("AWS_CA_BUNDLE", webdav_server::CA.to_owned())]);
        let options = WebDavOptions {
            url: Some(named(&share.url)),
            username: Some(webdav_server::USERNAME.into()),
            password: Some(webdav_server::PASSWORD.into()),
            path: Some(share.path.clone()),
        };
        exercise(&WebDavClient::new(options, &context).unwrap(), &proxy, method).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_goes_through_a_proxy() {
    let container = blocking(azure_server::fresh_container).await;
    let (proxy, context) = with_login(&[]);
    let (account, key) = (azure_server::ACCOUNT, azure_server::KEY);
    // Azurite looks for the account in names with a dot.
    let endpoint = container.endpoint.replace("127.0.0.1", &format!("{account}.{NAME}"));
    let options = AbsOptions {
        account_name: Some(account.into()),
        account_key: Some(key.into()),
        bucket: Some(container.name),
        endpoint: Some(endpoint.trim_end_matches(&format!("/{account}")).to_owned()),
        ..AbsOptions::default()
    };
    exercise(&AbsClient::new(options, &context).unwrap(), &proxy, "PUT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_goes_through_a_proxy() {
    let bucket = blocking(gcs_server::fresh_bucket).await;
    let (proxy, context) = with_login(&[("STORAGE_EMULATOR_HOST", named(&bucket.host))]);
    let options = GsOptions { bucket: Some(bucket.name), path: None };
    let client = GsClient::new(options, &context).unwrap();
    // Sessions for large files have addresses of the server's own choice.
    client.write(request(id(0, 1, 1), b"small")).await.unwrap();
    assert_eq!(ids(&client, Level::L0).await, [id(0, 1, 1)]);
    assert_eq!(read(&client, id(0, 1, 1), 0, 0).await.unwrap(), b"small");
    client.delete(&[id(0, 1, 1)]).await.unwrap();
    assert!(proxy.seen().iter().any(|line| line.starts_with("DELETE store.invalid:")), "{:?}", proxy.seen());
}

/// The stand-in server knows no bucket in a host's name, so the proxy itself
/// answers.
#[tokio::test]
async fn oss_goes_through_a_proxy() {
    let (proxy, seen) = serve(vec![page(&[], "")]).await;
    let get = move |name: &str| (name == "HTTP_PROXY").then(|| proxy.clone());
    let options = OssOptions {
        bucket: Some("bkt".into()),
        endpoint: Some(format!("http://{NAME}")),
        access_key_id: Some("id".into()),
        secret_access_key: Some("secret".into()),
        ..OssOptions::default()
    };
    let client = OssClient::new(options, &ClientContext::from_env(Arc::new(get))).unwrap();
    client.list(Level::L0, ltx::Txid::new(0), false).await.map(drop).unwrap();
    let head = seen.lock().unwrap()[0].clone();
    assert!(head.starts_with("get http://bkt.store.invalid/?"), "{head}");
}

/// Neither a refusal of the proxy nor its absence is taken for the store's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_refuses_is_an_error_without_its_password() {
    let proxy = ForwardProxy::start(Some(LOGIN)).unwrap();
    let context = context(&proxy, "replica:wr0ng-w0rd@", &[]);
    for endpoint in [format!("http://{NAME}:1"), format!("https://{NAME}:1")] {
        let options = S3Options {
            bucket: Some("bkt".into()),
            endpoint: Some(endpoint.clone()),
            access_key_id: Some("id".into()),
            secret_access_key: Some("secret".into()),
            ..S3Options::default()
        };
        let client = S3Client::new(options, &context).unwrap();
        let error = client.list(Level::L0, ltx::Txid::new(0), false).await.map(drop).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
        let text = error.to_string();
        assert!(text.contains("407") || text.contains("proxy"), "{endpoint}: {text}");
        assert!(!text.contains("wr0ng"), "{text}");
    }
    assert!(proxy.seen().is_empty());
}

/// Certificates are verified behind a tunnel as anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_to_somebody_else_is_noticed() {
    let share = blocking(|| webdav_server::fresh_share(webdav_server::Kind::RcloneTls)).await;
    let proxy = ForwardProxy::start(None).unwrap();
    let trusting = HttpOptions {
        ca_file: Some(PathBuf::from(webdav_server::CA)),
        ..HttpOptions::from_env(&|name| (name == "HTTPS_PROXY").then(|| proxy.address()))
    };
    let context = ClientContext { http: HttpPool::new(trusting), ..ClientContext::default() };
    // A name that the certificate does not have.
    let url = share.url.replace("127.0.0.1", &format!("else{NAME}"));
    let options = WebDavOptions { url: Some(url), ..WebDavOptions::default() };
    let error = WebDavClient::new(options, &context).unwrap().init().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    assert!(error.to_string().contains("is not trusted"), "{error}");
}
