//! A server that misbehaves by script, to see what the S3 client does about it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use litestream_replica::metered::Metered;
use litestream_replica::resume::resuming;
use litestream_replica::retry::RetryPolicy;
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::{ClientContext, ErrorKind, FileId, Level, ReplicaClient, WriteMode};
use tokio::net::TcpListener;

use super::scripted::{Step, answer, error, page, serve, stored};
use super::suite::{abandon_write, bytes_of, id, request, request_with};

fn client(endpoint: &str) -> S3Client {
    let options = S3Options {
        bucket: Some("bkt".into()),
        path: Some("db".into()),
        endpoint: Some(endpoint.to_owned()),
        access_key_id: Some("id".into()),
        secret_access_key: Some("secret".into()),
        ..S3Options::default()
    };
    let retry = RetryPolicy { base: Duration::from_millis(1), cap: Duration::from_millis(5), ..RetryPolicy::default() };
    S3Client::new(options, &ClientContext { retry, ..ClientContext::default() }).unwrap()
}

const A: &str = "0000000000000001-0000000000000001";
const B: &str = "0000000000000002-0000000000000002";

async fn list_ids(client: &dyn ReplicaClient) -> litestream_replica::Result<Vec<FileId>> {
    Ok(client.list(Level::L0, ltx::Txid::new(0), false).await?.iter().map(|file| file.id).collect())
}

fn overwrite(content: &'static [u8]) -> litestream_replica::WriteRequest {
    request_with(id(0, 1, 1), litestream_replica::Body::Bytes(Bytes::from_static(content)), WriteMode::Overwrite)
}

#[tokio::test]
async fn unavailable_store_is_asked_again() {
    let (endpoint, seen) = serve(vec![error(503, "SlowDown"), answer(503, ""), Step::Reset, stored()]).await;
    client(&endpoint).write(overwrite(b"x")).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn too_many_requests_and_timeouts_are_asked_again() {
    let (endpoint, seen) = serve(vec![answer(429, ""), answer(408, ""), error(400, "RequestTimeout"), stored()]).await;
    client(&endpoint).write(overwrite(b"x")).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn denied_access_is_not_asked_again() {
    let (endpoint, seen) = serve(vec![error(403, "AccessDenied")]).await;
    let error = client(&endpoint).write(overwrite(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert!(error.to_string().contains("the credentials need s3:PutObject on bucket \"bkt\""), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn attempts_run_out_and_the_last_error_is_told() {
    let (endpoint, seen) = serve(vec![error(500, "InternalError")]).await;
    let error = client(&endpoint).write(overwrite(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("InternalError"), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 10);
}

#[tokio::test]
async fn nobody_listening_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = client(&format!("http://127.0.0.1:{port}")).write(overwrite(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains(&format!("cannot connect to 127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn store_may_ask_for_patience() {
    let wait = Step::Answer(503, "retry-after: 1\r\n".into(), Vec::new());
    let (endpoint, seen) = serve(vec![wait, stored()]).await;
    let start = tokio::time::Instant::now();
    client(&endpoint).write(overwrite(b"x")).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn torn_download_is_resumed_where_it_stopped() {
    let content = bytes_of(300_000, 1);
    let tear = |from: usize, sent: usize| {
        let range = format!("content-range: bytes {from}-299999/300000\r\n");
        Step::Tear(206, range, content[from..].to_vec(), sent)
    };
    let (endpoint, seen) = serve(vec![tear(0, 100_000), tear(100_000, 50_000), tear(150_000, 150_000)]).await;
    let metered = Arc::new(Metered::new(Arc::new(client(&endpoint))));
    let chunks: Vec<Bytes> = resuming(metered.clone(), id(9, 1, 1), 0, 300_000).try_collect().await.unwrap();
    assert!(chunks.concat() == content);
    let ranges: Vec<String> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|head| head.lines().find_map(|line| line.strip_prefix("range: ")).unwrap().to_owned())
        .collect();
    assert_eq!(ranges, ["bytes=0-299999", "bytes=100000-299999", "bytes=150000-299999"]);
    let counts = metered.snapshot().get;
    assert_eq!((counts.count, counts.bytes, counts.errors), (3, 300_000, 2));
}

#[tokio::test]
async fn drops_without_progress_are_given_up_after_three_retries() {
    let tear = Step::Tear(206, "content-range: bytes 0-9/10\r\n".into(), vec![7; 10], 0);
    let (endpoint, seen) = serve(vec![tear]).await;
    let error = resuming(Arc::new(client(&endpoint)), id(9, 1, 5), 0, 10).try_collect::<Vec<_>>().await.unwrap_err();
    let text = error.to_string();
    let wanted =
        "max retries exceeded reading ltx file (level=9, min=0000000000000001, max=0000000000000005, offset=0): ";
    assert!(text.starts_with(wanted), "{text}");
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn file_that_vanished_is_not_asked_for_again() {
    let (endpoint, seen) = serve(vec![error(404, "NoSuchKey")]).await;
    let error = resuming(Arc::new(client(&endpoint)), id(9, 1, 5), 0, 10).try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn bytes_of_another_range_are_refused() {
    let wrong = Step::Answer(206, "content-range: bytes 0-9/100\r\n".into(), vec![7; 10]);
    let (endpoint, _) = serve(vec![wrong]).await;
    let error = client(&endpoint).open(id(0, 1, 1), 50, 10).await.err().unwrap();
    assert!(error.to_string().contains("asked for bytes from 50, got them from 0"), "{error}");
}

/// `rclone serve s3` answers ranged reads so; skipping the offset once more made
/// restores end early.
#[tokio::test]
async fn range_under_status_200_is_not_cut_twice() {
    let range = Step::Answer(200, "content-range: bytes 3-6/10\r\n".into(), b"3456".to_vec());
    let (endpoint, _) = serve(vec![range]).await;
    let chunks: Vec<Bytes> = client(&endpoint).open(id(0, 1, 1), 3, 4).await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"3456");
}

#[tokio::test]
async fn store_without_ranges_is_cut_here() {
    let (endpoint, _) = serve(vec![answer(200, "0123456789")]).await;
    let chunks: Vec<Bytes> = client(&endpoint).open(id(0, 1, 1), 3, 4).await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"3456");
}

#[tokio::test]
async fn list_whose_second_page_fails_is_an_error() {
    let (endpoint, _) = serve(vec![page(&[A], "more"), error(403, "AccessDenied")]).await;
    assert!(list_ids(&client(&endpoint)).await.is_err());
    let (endpoint, seen) = serve(vec![page(&[A], "more"), error(500, "InternalError"), page(&[B], "")]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1), id(0, 2, 2)]);
    assert!(seen.lock().unwrap()[2].contains("continuation-token=more"));
}

#[tokio::test]
async fn list_that_cannot_go_on_is_an_error() {
    let endless = page(&[A], "again");
    let (endpoint, _) = serve(vec![endless]).await;
    let error = list_ids(&client(&endpoint)).await.unwrap_err();
    assert!(error.to_string().contains("does not say how to go on"), "{error}");
}

#[tokio::test]
async fn order_of_the_store_is_not_trusted() {
    let (endpoint, _) = serve(vec![page(&[B], "more"), page(&[A, "junk"], "")]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1), id(0, 2, 2)]);
}

#[tokio::test]
async fn torn_listing_is_asked_for_again() {
    let torn = Step::Tear(200, String::new(), b"<ListBucketResult></ListBucketResult>".to_vec(), 10);
    let (endpoint, seen) = serve(vec![torn, page(&[A], "")]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1)]);
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn refused_keys_of_a_delete_are_an_error() {
    let refused = "<DeleteResult><Error><Key>db/0000/a</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
                   <Error><Key>db/0000/b</Key><Code>NoSuchKey</Code></Error></DeleteResult>";
    let (endpoint, seen) = serve(vec![answer(200, refused)]).await;
    let error = client(&endpoint).delete(&[id(0, 1, 1)]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Setup, "failed to delete files:\ndb/0000/a: no")
    );
    let head = seen.lock().unwrap()[0].clone();
    assert!(head.starts_with("post /bkt?delete= "), "{head}");
    assert!(head.contains("content-md5: "), "{head}");
}

#[tokio::test]
async fn repeated_upload_meets_its_own_object() {
    // The store took the object, but its answer was lost.
    let (endpoint, seen) = serve(vec![
        answer(404, ""),                                       // is it there?
        Step::Reset,                                           // put, answer lost
        error(412, "PreconditionFailed"),                      // put again
        Step::Answer(200, String::new(), b"content".to_vec()), // what is there?
    ])
    .await;
    client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn store_without_conditions_is_looked_at_before_each_write() {
    let (endpoint, seen) = serve(vec![
        answer(404, ""),
        error(501, "NotImplemented"),
        stored(), // without the condition
        answer(404, ""),
        stored(),
        Step::Answer(200, String::new(), Vec::new()), // third write: something is there
        Step::Answer(200, String::new(), b"other".to_vec()),
    ])
    .await;
    let client = client(&endpoint);
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    client.write(request(id(0, 2, 2), b"x")).await.unwrap();
    let error = client.write(request(id(0, 3, 3), b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let conditions: Vec<bool> = seen.lock().unwrap().iter().map(|head| head.contains("if-none-match")).collect();
    assert_eq!(conditions, [false, true, false, false, false, false, false]);
}

#[tokio::test]
async fn store_that_ignores_conditions_is_found_out() {
    let (endpoint, seen) = serve(vec![answer(404, ""), stored(), stored(), answer(404, ""), stored()]).await;
    let client = client(&endpoint);
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    client.write(request(id(0, 2, 2), b"x")).await.unwrap();
    let methods: Vec<String> = seen.lock().unwrap().iter().map(|head| head[..4].to_owned()).collect();
    assert_eq!(methods, ["head", "put ", "put ", "head", "put "]);
}

#[tokio::test]
async fn failed_upload_removes_its_parts() {
    let created = answer(200, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>");
    let (endpoint, seen) = serve(vec![created, error(403, "AccessDenied"), answer(204, "")]).await;
    let body = litestream_replica::Body::Bytes(bytes_of(5 << 20, 1).into());
    let error = client(&endpoint).write(request_with(id(0, 1, 1), body, WriteMode::Overwrite)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    let last = seen.lock().unwrap().last().unwrap().clone();
    assert!(last.starts_with("delete /bkt/db/0000/") && last.contains("uploadid=u1"), "{last}");
}

#[tokio::test]
async fn completion_that_fails_late_is_repeated() {
    let created = answer(200, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>");
    let completed = answer(200, "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>");
    let (endpoint, seen) = serve(vec![created, stored(), error(200, "InternalError"), completed]).await;
    let body = litestream_replica::Body::Bytes(bytes_of(5 << 20, 1).into());
    client(&endpoint).write(request_with(id(0, 1, 1), body, WriteMode::Overwrite)).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn every_request_is_signed_over_what_is_sent() {
    let (endpoint, seen) = serve(vec![stored()]).await;
    client(&endpoint).write(overwrite(b"x")).await.unwrap();
    let head = seen.lock().unwrap()[0].clone();
    for part in [
        "put /bkt/db/0000/0000000000000001-0000000000000001.ltx http/1.1",
        "content-length: 1",
        "content-type: application/octet-stream",
        "x-amz-meta-litestream-timestamp: 2020-09-13t12:26:40.25z",
        // SHA-256 of `x`.
        "x-amz-content-sha256: 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "signedheaders=accept-encoding;content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta-litestream-timestamp",
        "accept-encoding: identity",
        "user-agent: litestream/",
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert!(!head.contains("aws-chunked") && !head.contains("trailer"));
}

/// A store keeps the parts of an upload, and charges for them, until it is told
/// that nobody will finish it.
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
