//! Who the S3 client says it is, where it says it, and by which way.

use std::collections::HashMap;
use std::sync::Arc;

use litestream_replica::http::{HttpOptions, HttpPool, ProxyOptions};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::{ClientContext, ErrorKind, Level, ReplicaClient, Result};

use super::scripted::{Seen, Step, answer, page, serve};

/// A program with these environment variables and nothing else.
fn program(variables: &[(&str, &str)]) -> ClientContext {
    let variables: HashMap<String, String> =
        variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    ClientContext {
        env: Some(Arc::new(move |name: &str| variables.get(name).cloned())),
        retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
        ..ClientContext::default()
    }
}

fn client(endpoint: &str, context: &ClientContext) -> S3Client {
    let options = S3Options { bucket: Some("bkt".into()), endpoint: Some(endpoint.to_owned()), ..S3Options::default() };
    S3Client::new(options, context).unwrap()
}

async fn list(client: &S3Client) -> Result<()> {
    client.list(Level::L0, ltx::Txid::new(0), false).await.map(drop)
}

/// The requests as `line\nheader\n…`, without what changes from run to run.
fn nth(seen: &Seen, n: usize) -> String {
    seen.lock().unwrap()[n].clone()
}

#[tokio::test]
async fn environment_goes_before_profile_and_brings_its_session_token() {
    let (endpoint, seen) = serve(vec![page(&[], "")]).await;
    let context = program(&[
        ("AWS_ACCESS_KEY_ID", "envid"),
        ("AWS_SECRET_ACCESS_KEY", "envsecret"),
        ("AWS_SESSION_TOKEN", "envtoken"),
        ("AWS_PROFILE", "other"),
    ]);
    list(&client(&endpoint, &context)).await.unwrap();
    let head = nth(&seen, 0);
    assert!(head.contains("credential=envid/") && head.contains("/us-east-1/s3/aws4_request"), "{head}");
    assert!(head.contains("x-amz-security-token: envtoken"), "{head}");
    assert!(!head.contains("envsecret"));
}

#[tokio::test]
async fn fixed_keys_go_before_the_environment() {
    let (endpoint, seen) = serve(vec![page(&[], "")]).await;
    let context =
        program(&[("AWS_ACCESS_KEY_ID", "envid"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")]);
    let options = S3Options {
        bucket: Some("bkt".into()),
        endpoint: Some(endpoint),
        access_key_id: Some("fixedid".into()),
        secret_access_key: Some("s".into()),
        ..S3Options::default()
    };
    list(&S3Client::new(options, &context).unwrap()).await.unwrap();
    let head = nth(&seen, 0);
    assert!(head.contains("credential=fixedid/") && !head.contains("x-amz-security-token"), "{head}");
}

#[tokio::test]
async fn profile_files_are_read_where_the_environment_says() {
    let (endpoint, seen) = serve(vec![page(&[], "")]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let text = "[default]\naws_access_key_id=no\naws_secret_access_key=no\n\
                [work]\naws_access_key_id=profileid\naws_secret_access_key=s\naws_session_token=profiletoken\n";
    std::fs::write(&file, text).unwrap();
    let context = program(&[("AWS_PROFILE", "work"), ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())]);
    list(&client(&endpoint, &context)).await.unwrap();
    let head = nth(&seen, 0);
    assert!(head.contains("credential=profileid/") && head.contains("x-amz-security-token: profiletoken"), "{head}");
}

#[tokio::test]
async fn credential_process_is_run() {
    let (endpoint, seen) = serve(vec![page(&[], "")]).await;
    let dir = tempfile::tempdir().unwrap();
    let answer = dir.path().join("answer.json");
    std::fs::write(&answer, r#"{"Version":1,"AccessKeyId":"processid","SecretAccessKey":"s","SessionToken":"t"}"#)
        .unwrap();
    let config = dir.path().join("config");
    std::fs::write(&config, format!("[default]\ncredential_process = /bin/cat {}\n", answer.display())).unwrap();
    let context = program(&[("AWS_CONFIG_FILE", config.to_str().unwrap())]);
    list(&client(&endpoint, &context)).await.unwrap();
    assert!(nth(&seen, 0).contains("credential=processid/"));
}

#[tokio::test]
async fn container_and_instance_are_asked_for_credentials() {
    let (endpoint, seen) = serve(vec![page(&[], "")]).await;
    let credentials = r#"{"AccessKeyId":"cloudid","SecretAccessKey":"s","Token":"cloudtoken","Expiration":"2999-01-01T00:00:00Z","Code":"Success"}"#;

    let (container, _) = serve(vec![answer(200, credentials)]).await;
    let context = program(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container)]);
    list(&client(&endpoint, &context)).await.unwrap();

    let (metadata, asked) = serve(vec![answer(200, "token"), answer(200, "role"), answer(200, credentials)]).await;
    let context = program(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata)]);
    list(&client(&endpoint, &context)).await.unwrap();
    list(&client(&endpoint, &context)).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 3, "asked once for all clients of a program");

    for n in 0..3 {
        let head = nth(&seen, n);
        assert!(head.contains("credential=cloudid/") && head.contains("x-amz-security-token: cloudtoken"), "{head}");
    }
}

#[tokio::test]
async fn missing_credentials_are_explained() {
    let (endpoint, seen) = serve(vec![page(&[], "")]).await;
    let context = program(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    let error = list(&client(&endpoint, &context)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert!(error.to_string().contains("no AWS credentials found, set access-key-id and secret-access-key"), "{error}");
    assert!(seen.lock().unwrap().is_empty());
}

/// Without region and endpoint of its own, the bucket is asked; `EU` is what it
/// says if it is old.
#[tokio::test]
async fn region_is_asked_from_the_bucket() {
    for (said, region) in [("EU", "eu-west-1"), ("ap-south-1", "ap-south-1"), ("", "us-east-1")] {
        let location = answer(200, &format!("<LocationConstraint xmlns=\"x\">{said}</LocationConstraint>"));
        let (endpoint, seen) = serve(vec![location, page(&[], "")]).await;
        let context = program(&[
            ("AWS_ENDPOINT_URL_S3", &endpoint),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_REGION", "ignored-1"),
        ]);
        let options = S3Options { bucket: Some("bkt".into()), ..S3Options::default() };
        let client = S3Client::new(options, &context).unwrap();
        client.init().await.unwrap();
        list(&client).await.unwrap();
        let (first, second) = (nth(&seen, 0), nth(&seen, 1));
        assert!(first.starts_with("get /bkt?location= ") && first.contains("/us-east-1/s3/"), "{first}");
        assert!(second.contains(&format!("/{region}/s3/")), "{second}");
        assert_eq!(seen.lock().unwrap().len(), 2, "asked once");
    }
}

fn through(proxy: ProxyOptions) -> ClientContext {
    ClientContext {
        http: HttpPool::new(HttpOptions { proxy, ..HttpOptions::default() }),
        ..program(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s")])
    }
}

#[tokio::test]
async fn plain_requests_are_handed_to_the_proxy() {
    let (proxy, seen) = serve(vec![page(&[], "")]).await;
    let proxy = proxy.replace("http://", "http://me:pass@");
    let context = through(ProxyOptions { http: Some(proxy), ..ProxyOptions::default() });
    list(&client("http://store.invalid:81", &context)).await.unwrap();
    let head = nth(&seen, 0);
    assert!(head.starts_with("get http://store.invalid:81/bkt?list-type=2"), "{head}");
    assert!(
        head.contains("proxy-authorization: basic bwu6cgfzcw==") && head.contains("host: store.invalid:81"),
        "{head}"
    );
}

#[tokio::test]
async fn encrypted_requests_go_through_a_tunnel() {
    let (proxy, seen) = serve(vec![Step::Reset]).await;
    let context = through(ProxyOptions { https: Some(proxy), ..ProxyOptions::default() });
    let error = list(&client("https://store.invalid", &context)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    let head = nth(&seen, 0);
    assert!(head.starts_with("connect store.invalid:443 http/1.1") && !head.contains("credential="), "{head}");
}

#[tokio::test]
async fn excepted_hosts_and_this_machine_are_reached_directly() {
    let (proxy, seen) = serve(vec![Step::Reset]).await;
    let (endpoint, _) = serve(vec![page(&[], "")]).await;
    let no_proxy = Some("store.invalid".to_owned());
    let context = through(ProxyOptions { http: Some(proxy), no_proxy, ..ProxyOptions::default() });
    list(&client(&endpoint, &context)).await.unwrap();
    list(&client("http://store.invalid", &context)).await.unwrap_err();
    assert!(seen.lock().unwrap().is_empty());
}
