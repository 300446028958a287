//! The suite against a server that checks signatures, and faults by script.

use std::sync::Arc;
use std::time::Duration;

use litestream_replica::oss::{OssClient, OssOptions};
use litestream_replica::retry::RetryPolicy;
use litestream_replica::{Body, ClientContext, ErrorKind, FileId, Level, ReplicaClient, ReplicaUrl, WriteMode};
use litestream_testkit::oss_server::{self, ACCESS_KEY, BUCKET, Place, REGION, SECRET_KEY};

use super::faults_tcp;
use super::scripted::{Seen, Step, answer, error, page, serve, stored};
use super::suite::{self, Replica, abandon_write, bytes_of, id, read, request, request_with};

struct Server(Place);

impl Server {
    fn options(&self, path: &str) -> OssOptions {
        OssOptions {
            bucket: Some(BUCKET.into()),
            path: Some(format!("{}/{path}", self.0.path)),
            region: Some(REGION.into()),
            endpoint: Some(self.0.endpoint.clone()),
            access_key_id: Some(ACCESS_KEY.into()),
            secret_access_key: Some(SECRET_KEY.into()),
            ..OssOptions::default()
        }
    }
}

impl Replica for Server {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(OssClient::new(self.options(path), &ClientContext::default()).unwrap())
    }
}

impl faults_tcp::Remote for Server {
    fn address(&self) -> String {
        self.0.endpoint.replace("http://", "")
    }

    fn through(&self, address: &str, path: &str, context: ClientContext) -> Arc<dyn ReplicaClient> {
        let endpoint = Some(format!("http://{address}"));
        Arc::new(OssClient::new(OssOptions { endpoint, ..self.options(path) }, &context).unwrap())
    }
}

async fn server() -> Server {
    Server(tokio::task::spawn_blocking(oss_server::fresh_place).await.unwrap().unwrap())
}

suite::for_replica!(server);
faults_tcp::for_remote!(server);

#[tokio::test]
async fn replica_urls_open_the_same_place() {
    let server = server().await;
    suite::Replica::open(&server, "a/b").write(request(id(0, 1, 1), b"x")).await.unwrap();
    let Place { endpoint, path } = &server.0;
    let url = format!("oss://{BUCKET}/{path}/a//b/?endpoint={endpoint}");
    let env = |name: &str| match name {
        "OSS_ACCESS_KEY_ID" => Some(ACCESS_KEY.to_owned()),
        "OSS_ACCESS_KEY_SECRET" => Some(SECRET_KEY.to_owned()),
        _ => None,
    };
    let context = ClientContext { env: Some(Arc::new(env)), ..ClientContext::default() };
    let client = ReplicaUrl::parse(&url).unwrap().into_client(&context).unwrap();
    assert_eq!(suite::ids(&*client, Level::L0).await, [id(0, 1, 1)]);
    assert_eq!(client.location(), format!("oss://{BUCKET}/{path}/a/b"));
}

#[tokio::test]
async fn wrong_keys_and_buckets_are_explained_and_not_shown() {
    let server = server().await;
    let right = server.options("db");
    let secret = OssOptions { secret_access_key: Some("not-the-secret".into()), ..right.clone() };
    let key = OssOptions { access_key_id: Some("not-the-key".into()), ..right.clone() };
    let bucket = OssOptions { bucket: Some("no-such-bucket".into()), ..right };
    for (options, words) in [
        (secret, "the secret-access-key does not belong to the access-key-id"),
        (key, "does not know the access-key-id"),
        (bucket, "bucket \"no-such-bucket\" does not exist"),
    ] {
        let client = OssClient::new(options, &ClientContext::default()).unwrap();
        let listing = client.list(Level::L0, ltx::Txid::new(0), false).await.map(drop);
        let body = Body::Bytes(b"x".as_slice().into());
        let writing = client.write(request_with(id(0, 1, 1), body, WriteMode::Overwrite)).await.map(drop);
        for result in [listing, writing] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
            let text = error.to_string();
            assert!(text.contains(words), "{text}");
            for hidden in ["not-the-", ACCESS_KEY, SECRET_KEY, "string to sign"] {
                assert!(!text.contains(hidden), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn parts_of_another_size_arrive_whole() {
    let server = server().await;
    let options = OssOptions { part_size: Some(200 << 10), concurrency: Some(5), ..server.options("parts") };
    let client = OssClient::new(options, &ClientContext::default()).unwrap();
    let content = bytes_of((1 << 20) + 17, 4);
    client.write(request(id(9, 1, 1), &content)).await.unwrap();
    assert!(read(&client, id(9, 1, 1), 0, 0).await.unwrap() == content);

    let small = OssOptions { part_size: Some(50_000), ..server.options("parts") };
    let client = OssClient::new(small, &ClientContext::default()).unwrap();
    let error = client.write(request(id(0, 1, 1), b"x")).await.unwrap_err();
    assert!(error.to_string().contains("part size must be at least 102400 bytes"), "{error}");
}

fn client(endpoint: &str) -> OssClient {
    let options = OssOptions {
        bucket: Some("bkt".into()),
        path: Some("db".into()),
        endpoint: Some(endpoint.to_owned()),
        access_key_id: Some("keyid".into()),
        secret_access_key: Some("secret".into()),
        ..OssOptions::default()
    };
    let retry = RetryPolicy { base: Duration::from_millis(1), cap: Duration::from_millis(5), ..RetryPolicy::default() };
    OssClient::new(options, &ClientContext { retry, ..ClientContext::default() }).unwrap()
}

fn overwrite(content: &'static [u8]) -> litestream_replica::WriteRequest {
    request_with(id(0, 1, 1), Body::Bytes(content.into()), WriteMode::Overwrite)
}

fn methods(seen: &Seen) -> Vec<String> {
    seen.lock().unwrap().iter().map(|head| head.split(' ').next().unwrap().to_owned()).collect()
}

const A: &str = "0000000000000001-0000000000000001";
const B: &str = "0000000000000002-0000000000000002";

async fn list_ids(client: &OssClient) -> litestream_replica::Result<Vec<FileId>> {
    Ok(client.list(Level::L0, ltx::Txid::new(0), false).await?.iter().map(|file| file.id).collect())
}

#[tokio::test]
async fn unavailable_store_is_asked_again_and_refusals_are_not() {
    let (endpoint, seen) = serve(vec![
        answer(503, ""),
        answer(429, ""),
        answer(408, ""),
        error(500, "InternalError"),
        Step::Reset,
        stored(),
    ])
    .await;
    client(&endpoint).write(overwrite(b"x")).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 6);

    for (status, code, words) in [
        (403, "AccessDenied", "the user needs oss:PutObject on bucket \"bkt\""),
        (403, "RequestTimeTooSkewed", "this machine's clock is wrong; set it"),
        (403, "SecurityTokenExpired", "the session token is no longer valid"),
        (403, "", "access denied"),
        (301, "", "sends us elsewhere"),
    ] {
        let step = if code.is_empty() { answer(status, "") } else { error(status, code) };
        let (endpoint, seen) = serve(vec![step]).await;
        let error = client(&endpoint).write(overwrite(b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(seen.lock().unwrap().len(), 1, "{status} {code}");
    }
}

#[tokio::test]
async fn small_files_take_one_request() {
    let (endpoint, seen) = serve(vec![stored()]).await;
    client(&endpoint).write(overwrite(b"x")).await.unwrap();
    let head = seen.lock().unwrap()[0].clone();
    for part in [
        "put /bkt/db/0000/0000000000000001-0000000000000001.ltx http/1.1",
        "content-length: 1",
        "x-oss-meta-litestream-timestamp: 2020-09-13t12:26:40.25z",
        "x-oss-content-sha256: unsigned-payload",
        "authorization: oss4-hmac-sha256 credential=keyid/",
        "/cn-hangzhou/oss/aliyun_v4_request,signature=",
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn bucket_that_overwrites_is_found_out() {
    let (endpoint, seen) = serve(vec![answer(404, ""), stored(), stored(), answer(404, ""), stored()]).await;
    let client = client(&endpoint);
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    client.write(request(id(0, 2, 2), b"x")).await.unwrap();
    assert_eq!(methods(&seen), ["head", "put", "put", "head", "put"]);
    let guarded: Vec<bool> =
        seen.lock().unwrap().iter().map(|head| head.contains("x-oss-forbid-overwrite: true")).collect();
    assert_eq!(guarded, [false, true, true, false, false]);
}

#[tokio::test]
async fn repeated_upload_meets_its_own_object() {
    let (endpoint, seen) = serve(vec![
        answer(404, ""),                                       // is it there?
        Step::Reset,                                           // put, answer lost
        error(409, "FileAlreadyExists"),                       // put again
        Step::Answer(200, String::new(), b"content".to_vec()), // what is there?
    ])
    .await;
    client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn bytes_that_changed_on_the_way_are_noticed() {
    let other = Step::Answer(200, "etag: \"e\"\r\nx-oss-hash-crc64ecma: 77\r\n".into(), Vec::new());
    let (endpoint, _) = serve(vec![other]).await;
    let error = client(&endpoint).write(overwrite(b"x")).await.unwrap_err();
    assert!(error.to_string().contains("received other bytes than were sent"), "{error}");
}

#[tokio::test]
async fn keys_that_are_not_confirmed_are_not_deleted() {
    let partial = format!(
        "<DeleteResult><EncodingType>url</EncodingType><Deleted><Key>db%2F0000%2F{A}.ltx</Key></Deleted></DeleteResult>"
    );
    let (endpoint, seen) = serve(vec![answer(200, &partial)]).await;
    client(&endpoint).delete(&[id(0, 1, 1)]).await.unwrap();
    let error = client(&endpoint).delete(&[id(0, 1, 1), id(0, 2, 2)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert!(error.to_string().starts_with(&format!("failed to delete files:\ndb/0000/{B}.ltx: ")), "{error}");
    let head = seen.lock().unwrap()[0].clone();
    assert!(head.starts_with("post /bkt/?delete&encoding-type=url ") && head.contains("content-md5: "), "{head}");
}

#[tokio::test]
async fn list_that_does_not_end_well_is_an_error() {
    let (endpoint, _) = serve(vec![page(&[A], "more"), error(403, "AccessDenied")]).await;
    assert!(list_ids(&client(&endpoint)).await.is_err());
    let (endpoint, _) = serve(vec![page(&[A], "again")]).await;
    let endless = list_ids(&client(&endpoint)).await.unwrap_err();
    assert!(endless.to_string().contains("does not say how to go on"), "{endless}");
    let (endpoint, seen) = serve(vec![page(&[B], "more"), error(500, "InternalError"), page(&[A], "")]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1), id(0, 2, 2)]);
    assert!(seen.lock().unwrap()[2].contains("continuation-token=more"));
}

/// A failed look at an object's time must not move it to another moment.
#[tokio::test]
async fn times_that_cannot_be_read_are_an_error() {
    let (endpoint, _) = serve(vec![page(&[A], ""), answer(403, "")]).await;
    assert!(client(&endpoint).list(Level::L0, ltx::Txid::new(0), true).await.is_err());
}

#[tokio::test]
async fn abandoned_upload_removes_its_parts() {
    let created = answer(200, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>");
    let (endpoint, seen) = serve(vec![created, stored()]).await;
    abandon_write(&client(&endpoint), id(9, 1, 1)).await;
    let removed = async {
        while !seen.lock().unwrap().iter().any(|head| head.starts_with("delete ") && head.contains("uploadid=u1")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), removed).await.unwrap();
    assert!(
        !seen.lock().unwrap().iter().any(|head| head.starts_with("post /bkt/db/0009") && head.contains("?uploadid"))
    );
}

#[tokio::test]
async fn session_tokens_are_sent_and_signed() {
    let (endpoint, seen) = serve(vec![page(&[], "")]).await;
    let env = |name: &str| match name {
        "OSS_ACCESS_KEY_ID" => Some("envid".to_owned()),
        "OSS_ACCESS_KEY_SECRET" => Some("envsecret".to_owned()),
        "OSS_SESSION_TOKEN" => Some("envtoken".to_owned()),
        _ => None,
    };
    let context = ClientContext { env: Some(Arc::new(env)), ..ClientContext::default() };
    let options = OssOptions { bucket: Some("bkt".into()), endpoint: Some(endpoint), ..OssOptions::default() };
    list_ids(&OssClient::new(options, &context).unwrap()).await.unwrap();
    let head = seen.lock().unwrap()[0].clone();
    assert!(head.contains("x-oss-security-token: envtoken") && head.contains("credential=envid/"), "{head}");
    assert!(!head.contains("envsecret"));
}
