//! Each setting of an `s3` replica by what it changes on the wire.
//!
//! Servers that ignore a header prove nothing about it, so a script answers here;
//! hosts of the internet are reached through it as a proxy.
//!
//! Spec: backends §3, §4.1, §4.3, §4.6.

use std::sync::Arc;

use litestream_replica::http::{HttpOptions, HttpPool, ProxyOptions};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::{Body, ClientContext, Level, ReplicaClient, ReplicaUrl, WriteMode};

use super::scripted::{Seen, Step, answer, page, serve, stored};
use super::suite::{bytes_of, id, request_with};

const CUSTOMER_KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// Options of a URL, with keys.
fn of_url(url: &str) -> S3Options {
    let ReplicaUrl::S3(options) = ReplicaUrl::parse(url).unwrap() else { panic!("{url} is not s3") };
    S3Options { access_key_id: Some("id".into()), secret_access_key: Some("secret".into()), ..options }
}

fn once() -> RetryPolicy {
    RetryPolicy { attempts: 1, ..RetryPolicy::default() }
}

/// Every request that belongs to an object, by what it is.
async fn requests(options: S3Options) -> Vec<(&'static str, String)> {
    let created = answer(200, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>");
    let completed = answer(200, "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>");
    let listed = page(&["0000000000000001-0000000000000001"], "");
    let content = Step::Answer(206, "content-range: bytes 0-2/3\r\n".into(), b"abc".to_vec());
    let steps = vec![stored(), created, stored(), completed, content, listed, stored()];
    let (endpoint, seen) = serve(steps).await;
    let context = ClientContext { retry: once(), ..ClientContext::default() };
    let client = S3Client::new(S3Options { endpoint: Some(endpoint), ..options }, &context).unwrap();
    for len in [1, 5 << 20] {
        let body = Body::Bytes(bytes_of(len, 1).into());
        client.write(request_with(id(0, 1, 1), body, WriteMode::Overwrite)).await.unwrap();
    }
    super::suite::read(&client, id(0, 1, 1), 0, 3).await.unwrap();
    client.list(Level::L0, ltx::Txid::new(0), true).await.map(drop).unwrap();
    let names = ["put", "create", "part", "complete", "get", "list", "head"];
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), names.len(), "{seen:#?}");
    names.into_iter().zip(seen).collect()
}

/// The requests that have a header, which they all have with the same value.
fn with_header(requests: &[(&'static str, String)], header: &str) -> Vec<&'static str> {
    let wanted = format!("\r\n{}\r\n", header.to_lowercase());
    requests.iter().filter(|(_, head)| head.contains(&wanted)).map(|(name, _)| *name).collect()
}

#[tokio::test]
async fn storage_class_and_service_key_go_with_new_objects() {
    for url in [
        "s3://bkt/db?storageClass=GLACIER_IR&sseKmsKeyId=key-1",
        "s3://bkt/db?storage-class=GLACIER_IR&sse-kms-key-id=key-1",
    ] {
        let seen = requests(of_url(url)).await;
        for header in [
            "x-amz-storage-class: GLACIER_IR",
            "x-amz-server-side-encryption: aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id: key-1",
        ] {
            assert_eq!(with_header(&seen, header), ["put", "create"], "{url}: {header}");
        }
    }
    let seen = requests(of_url("s3://bkt/db")).await;
    assert!(seen.iter().all(|(_, head)| !head.contains("x-amz-storage") && !head.contains("server-side")), "{seen:?}");
}

#[tokio::test]
async fn a_customer_key_goes_with_every_request_for_an_object() {
    let escaped = CUSTOMER_KEY.replace('=', "%3D");
    for url in [
        format!("s3://bkt/db?sseCustomerKey={escaped}&sseCustomerAlgorithm=AES256"),
        format!("s3://bkt/db?sse-customer-key={escaped}&sse-customer-algorithm=AES256"),
    ] {
        let seen = requests(of_url(&url)).await;
        for header in [
            "x-amz-server-side-encryption-customer-algorithm: AES256".to_owned(),
            format!("x-amz-server-side-encryption-customer-key: {CUSTOMER_KEY}"),
            "x-amz-server-side-encryption-customer-key-md5: WYUzG87JcbJiEiqhylrUEQ==".to_owned(),
        ] {
            assert_eq!(with_header(&seen, &header), ["put", "create", "part", "complete", "get", "head"], "{header}");
        }
    }
    let seen = requests(of_url(&format!("s3://bkt/db?sseCustomerKey={escaped}&sseCustomerKeyMD5=given"))).await;
    assert_eq!(with_header(&seen, "x-amz-server-side-encryption-customer-key-md5: given").len(), 6);
}

/// Sends one list request for `options` to the internet, as far as a proxy.
async fn asked_of(options: S3Options, variables: &'static [(&'static str, &'static str)]) -> String {
    let (proxy, seen): (_, Seen) = serve(vec![Step::Reset]).await;
    let proxy = ProxyOptions { http: Some(proxy.clone()), https: Some(proxy), no_proxy: None };
    let context = ClientContext {
        http: HttpPool::new(HttpOptions { proxy, ..HttpOptions::default() }),
        env: Some(Arc::new(|name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })),
        retry: once(),
        ..ClientContext::default()
    };
    let client = S3Client::new(options, &context).unwrap();
    // It leads nowhere, but where it should lead has been said.
    let _ = client.list(Level::L0, ltx::Txid::new(0), false).await;
    seen.lock().unwrap()[0].clone()
}

#[tokio::test]
async fn providers_are_reached_at_their_hosts() {
    for (url, host) in [
        ("s3://bkt.s3.amazonaws.com/p?region=eu-west-1", "bkt.s3.eu-west-1.amazonaws.com"),
        ("s3://bkt.s3.eu-west-1.amazonaws.com/p", "bkt.s3.eu-west-1.amazonaws.com"),
        ("s3://bkt/p?region=us-west-2", "bkt.s3.us-west-2.amazonaws.com"),
        ("s3://a.b.c/p?region=us-west-2", "s3.us-west-2.amazonaws.com"),
        ("s3://bkt/p?region=cn-north-1", "bkt.s3.cn-north-1.amazonaws.com.cn"),
        ("s3://bkt.nyc3.digitaloceanspaces.com/p", "bkt.nyc3.digitaloceanspaces.com"),
        ("s3://bkt.s3.us-west-004.backblazeb2.com/p", "s3.us-west-004.backblazeb2.com"),
        ("s3://bkt.s3.filebase.com/p", "s3.filebase.com"),
        ("s3://bkt.s3.fr-par.scw.cloud/p", "bkt.s3.fr-par.scw.cloud"),
        ("s3://bkt/p?endpoint=fly.storage.tigris.dev", "fly.storage.tigris.dev"),
        ("s3://bkt/p?endpoint=x.r2.cloudflarestorage.com&forcePathStyle=false", "bkt.x.r2.cloudflarestorage.com"),
        ("s3://bkt/p?endpoint=https://x.supabase.co/storage/v1/s3", "x.supabase.co"),
        ("s3://bkt/p?endpoint=hel1.your-objectstorage.com&force-path-style=f", "bkt.hel1.your-objectstorage.com"),
        ("s3://arn:aws:s3:us-east-2:1234:accesspoint/ap/p", "ap-1234.s3-accesspoint.us-east-2.amazonaws.com"),
    ] {
        let head = asked_of(of_url(url), &[]).await;
        assert!(head.starts_with(&format!("connect {host}:443 ")), "{url}: {head}");
    }
}

#[tokio::test]
async fn variables_choose_amazons_other_hosts() {
    for (variables, host) in [
        (&[("AWS_USE_DUALSTACK_ENDPOINT", "true")][..], "bkt.s3.dualstack.us-west-2.amazonaws.com:443"),
        (&[("AWS_USE_FIPS_ENDPOINT", "TRUE")], "bkt.s3-fips.us-west-2.amazonaws.com:443"),
        (&[("AWS_ENDPOINT_URL", "https://store.example:1")], "bkt.store.example:1"),
        (
            &[("AWS_ENDPOINT_URL", "https://no.example"), ("AWS_ENDPOINT_URL_S3", "https://s3.example")],
            "bkt.s3.example:443",
        ),
        (
            &[("AWS_REGION", "eu-west-1"), ("LITESTREAM_S3_ENDPOINT", "https://no.example")],
            "bkt.s3.us-west-2.amazonaws.com:443",
        ),
    ] {
        let head = asked_of(of_url("s3://bkt/p?region=us-west-2"), variables).await;
        assert!(head.starts_with(&format!("connect {host} ")), "{variables:?}: {head}");
    }
}

/// Names and addresses are told from a region and a style; a proxy for plain HTTP
/// sees the rest.
#[tokio::test]
async fn peculiar_stores_get_peculiar_requests() {
    let tigris = asked_of(of_url("s3://bkt/p?endpoint=http://t3.storage.dev"), &[]).await;
    assert!(tigris.contains("\r\nx-tigris-consistent: true\r\n"), "{tigris}");
    let google = asked_of(of_url("s3://bkt/p?endpoint=http://storage.googleapis.com"), &[]).await;
    let signed = |head: &str| {
        let (_, rest) = head.split_once("signedheaders=").unwrap();
        rest.split(',').next().unwrap().to_owned()
    };
    assert!(!signed(&google).contains("accept-encoding"), "{google}");
    for (url, is_signed) in [
        ("s3://bkt/p?endpoint=http://store.example", true),
        ("s3://bkt/p?endpoint=http://store.example&sign-accept-encoding=false", false),
        ("s3://bkt/p?endpoint=http://store.example&signAcceptEncoding=0", false),
        ("s3://bkt/p?endpoint=http://storage.googleapis.com&signAcceptEncoding=true", true),
    ] {
        let head = asked_of(of_url(url), &[]).await;
        assert_eq!(signed(&head).contains("accept-encoding"), is_signed, "{url}: {head}");
        assert!(!head.contains("x-tigris"), "{head}");
    }
    for (url, payload) in [
        ("s3://bkt/p?endpoint=http://store.example&sign-payload=false", "unsigned-payload"),
        ("s3://bkt/p?endpoint=http://store.example&signPayload=no", "unsigned-payload"),
        (
            "s3://bkt/p?endpoint=http://store.example",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
    ] {
        let head = asked_of(of_url(url), &[]).await;
        assert!(head.contains(&format!("\r\nx-amz-content-sha256: {payload}\r\n")), "{url}: {head}");
    }
    for (url, target) in [
        ("s3://bkt/p?endpoint=http://store.example", "get http://store.example/bkt?"),
        ("s3://bkt/p?endpoint=http://store.example&forcePathStyle=false", "get http://bkt.store.example/?"),
        ("s3://bkt.store.example:81/p", "get http://store.example:81/bkt?"),
    ] {
        let head = asked_of(of_url(url), &[]).await;
        assert!(head.starts_with(target), "{url}: {head}");
        assert!(head.contains("/us-east-1/s3/aws4_request"), "{url}: {head}");
    }
}

#[tokio::test]
async fn deletes_are_hashed_unless_told_otherwise() {
    for (query, is_sent) in [("", true), ("?require-content-md5=false", false), ("?requireContentMD5=0", false)] {
        let done = answer(200, "<DeleteResult><Deleted><Key>db/0000/x</Key></Deleted></DeleteResult>");
        let (endpoint, seen) = serve(vec![done]).await;
        let options = S3Options { endpoint: Some(endpoint), ..of_url(&format!("s3://bkt/db{query}")) };
        let context = ClientContext { retry: once(), ..ClientContext::default() };
        let _ = S3Client::new(options, &context).unwrap().delete(&[id(0, 1, 1)]).await;
        let head = seen.lock().unwrap()[0].clone();
        assert!(head.starts_with("post /bkt?delete"), "{head}");
        assert_eq!(head.contains("\r\ncontent-md5: "), is_sent, "{query}: {head}");
    }
}
