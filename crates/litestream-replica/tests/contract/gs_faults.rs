//! What the Google client does about a server that misbehaves by script, and who
//! it says it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use litestream_replica::gs::{GsClient, GsOptions};
use litestream_replica::resume::resuming;
use litestream_replica::retry::RetryPolicy;
use litestream_replica::{Body, ClientContext, ErrorKind, FileId, Level, ReplicaClient, Result, WriteMode};
use ltx::Txid;
use serde_json::json;

use super::scripted::{Step, answer, serve};
use super::suite::{abandon_write, bytes_of, id, request, request_with};

fn program(variables: &[(&str, &str)]) -> ClientContext {
    let variables: HashMap<String, String> =
        variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    ClientContext {
        env: Some(Arc::new(move |name: &str| variables.get(name).cloned())),
        retry: RetryPolicy { base: Duration::from_millis(1), cap: Duration::from_millis(5), ..RetryPolicy::default() },
        ..ClientContext::default()
    }
}

fn client(endpoint: &str) -> GsClient {
    client_with(&[("STORAGE_EMULATOR_HOST", endpoint)])
}

fn client_with(variables: &[(&str, &str)]) -> GsClient {
    let options = GsOptions { bucket: Some("bkt".into()), path: Some("db".into()) };
    GsClient::new(options, &program(variables)).unwrap()
}

fn refused(status: u16, reason: &str) -> Step {
    answer(status, &json!({"error": {"message": "m", "errors": [{"reason": reason}]}}).to_string())
}

fn stored() -> Step {
    answer(200, "{}")
}

fn session(endpoint: &str) -> Step {
    Step::Answer(200, format!("location: {endpoint}/session/1\r\n"), Vec::new())
}

fn has(bytes: u64) -> Step {
    Step::Answer(308, format!("range: bytes=0-{}\r\n", bytes - 1), Vec::new())
}

fn page(names: &[&str], next: &str) -> Step {
    let items: Vec<_> = names
        .iter()
        .map(|name| json!({"name": format!("db/ltx/0/{name}.ltx"), "size": "3", "timeCreated": "2026-11-22T10:16:12Z"}))
        .collect();
    answer(200, &json!({"items": items, "nextPageToken": next}).to_string())
}

const A: &str = "0000000000000001-0000000000000001";
const B: &str = "0000000000000002-0000000000000002";

async fn list_ids(client: &dyn ReplicaClient) -> Result<Vec<FileId>> {
    Ok(client.list(Level::L0, Txid::new(0), false).await?.iter().map(|file| file.id).collect())
}

fn overwrite(content: Vec<u8>) -> litestream_replica::WriteRequest {
    request_with(id(0, 1, 1), Body::Bytes(content.into()), WriteMode::Overwrite)
}

/// Upstream does not repeat an upload of one request.
#[tokio::test]
async fn passing_refusals_are_asked_again() {
    let steps = vec![
        refused(503, "backendError"),
        refused(403, "rateLimitExceeded"),
        answer(429, ""),
        answer(408, ""),
        Step::Reset,
        stored(),
    ];
    let (endpoint, seen) = serve(steps).await;
    client(&endpoint).write(overwrite(b"x".to_vec())).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn lasting_refusals_are_not_asked_again() {
    for (status, reason, advice) in [
        (403, "forbidden", "the credentials need storage.objects.create"),
        (401, "authError", "the credentials are not accepted"),
        (404, "notFound", "bucket \"bkt\" does not exist at http://127.0.0.1"),
        (400, "invalid", "invalid: m (400)"),
    ] {
        let (endpoint, seen) = serve(vec![refused(status, reason)]).await;
        let error = client(&endpoint).write(overwrite(b"x".to_vec())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
        assert!(error.to_string().contains(advice), "{error}");
        assert_eq!(seen.lock().unwrap().len(), 1, "{reason}");
    }
}

#[tokio::test]
async fn torn_download_is_resumed_where_it_stopped() {
    let content = bytes_of(300_000, 1);
    let tear = |from: usize, sent: usize| {
        let range = format!("content-range: bytes {from}-299999/300000\r\n");
        Step::Tear(206, range, content[from..].to_vec(), sent)
    };
    let (endpoint, seen) = serve(vec![tear(0, 100_000), tear(100_000, 200_000)]).await;
    let chunks: Vec<Bytes> =
        resuming(Arc::new(client(&endpoint)), id(9, 1, 1), 0, 300_000).try_collect().await.unwrap();
    assert!(chunks.concat() == content);
    let seen = seen.lock().unwrap();
    assert!(seen[1].starts_with("get /storage/v1/b/bkt/o/db%2fltx%2f9%2f"), "{}", seen[1]);
    assert!(seen[1].contains("?alt=media ") && seen[1].contains("\nrange: bytes=100000-299999"), "{}", seen[1]);
}

/// L27: a listing that failed half-way once looked complete.
#[tokio::test]
async fn list_whose_second_page_fails_is_an_error() {
    let (endpoint, _) = serve(vec![page(&[A], "more"), refused(403, "forbidden")]).await;
    assert!(list_ids(&client(&endpoint)).await.is_err());
    let (endpoint, seen) = serve(vec![page(&[A], "more"), refused(500, "internalError"), page(&[B], "")]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1), id(0, 2, 2)]);
    assert!(seen.lock().unwrap()[2].contains("&pagetoken=more "));
}

#[tokio::test]
async fn list_starts_at_an_offset_and_not_in_the_prefix() {
    let (endpoint, seen) = serve(vec![page(&[A, B], "")]).await;
    let files = client(&endpoint).list(Level::L0, Txid::new(2), false).await.unwrap();
    assert_eq!(
        files.iter().map(|file| file.id).collect::<Vec<_>>(),
        [id(0, 2, 2)],
        "offsets that are ignored do no harm"
    );
    let head = seen.lock().unwrap()[0].clone();
    assert!(head.contains("?prefix=db%2fltx%2f0%2f&"), "{head}");
    assert!(head.contains("&startoffset=db%2fltx%2f0%2f0000000000000002 "), "{head}");
}

#[tokio::test]
async fn list_that_cannot_go_on_is_an_error() {
    let (endpoint, _) = serve(vec![page(&[A], "again")]).await;
    let error = list_ids(&client(&endpoint)).await.unwrap_err();
    assert!(error.to_string().contains("does not say how to go on"), "{error}");
}

#[tokio::test]
async fn order_of_the_store_is_not_trusted() {
    let (endpoint, _) = serve(vec![page(&[B], "more"), page(&[A, "junk"], "")]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1), id(0, 2, 2)]);
}

#[tokio::test]
async fn repeated_upload_meets_its_own_object() {
    let (endpoint, seen) = serve(vec![Step::Reset, refused(412, "conditionNotMet"), answer(200, "content")]).await;
    client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap();
    assert!(seen.lock().unwrap()[0].contains("&ifgenerationmatch=0 "));
    let (endpoint, _) = serve(vec![refused(412, "conditionNotMet"), answer(200, "other")]).await;
    let error = client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn object_that_arrived_changed_is_removed() {
    let (endpoint, seen) = serve(vec![answer(200, r#"{"crc32c":"AAAAAA=="}"#), answer(204, "")]).await;
    let error = client(&endpoint).write(overwrite(b"x".to_vec())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(seen.lock().unwrap()[1].starts_with("delete /storage/v1/b/bkt/o/db%2fltx%2f0%2f"));
}

/// The store keeps part of a chunk, then loses an answer: only what is missing
/// is sent again, and the upload still ends once.
#[tokio::test]
async fn large_uploads_go_on_where_the_store_is() {
    const MIB: u64 = 1 << 20;
    // The session is wherever the store says.
    let steps = vec![refused(503, "backendError"), has(3 * MIB), has(8 * MIB), Step::Reset, stored()];
    let (elsewhere, went_on) = serve(steps).await;
    let (endpoint, seen) = serve(vec![session(&elsewhere)]).await;
    client(&endpoint).write(overwrite(bytes_of(9 << 20, 1))).await.unwrap();
    let start = seen.lock().unwrap()[0].clone();
    assert!(start.starts_with("post /upload/storage/v1/b/bkt/o?uploadtype=resumable&name=db%2fltx%2f0%2f"), "{start}");
    let ranges: Vec<String> = went_on
        .lock()
        .unwrap()
        .iter()
        .map(|head| head.lines().find_map(|line| line.strip_prefix("content-range: bytes ")).unwrap().to_owned())
        .collect();
    assert_eq!(
        ranges,
        ["0-8388607/*", "0-8388607/*", "3145728-8388607/*", "8388608-9437183/9437184", "8388608-9437183/9437184",]
    );
}

#[tokio::test]
async fn failed_upload_ends_its_session() {
    let (elsewhere, went_on) = serve(vec![refused(403, "forbidden"), answer(499, "")]).await;
    let (endpoint, _) = serve(vec![session(&elsewhere)]).await;
    let error = client(&endpoint).write(overwrite(bytes_of(9 << 20, 1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
    assert!(!error.to_string().contains("/session/"), "{error}");
    assert!(went_on.lock().unwrap()[1].starts_with("delete /session/1 "));
}

#[tokio::test]
async fn abandoned_upload_ends_its_session() {
    let (elsewhere, went_on) = serve(vec![has(8 << 20)]).await;
    let (endpoint, _) = serve(vec![session(&elsewhere)]).await;
    abandon_write(&client(&endpoint), id(9, 1, 1)).await;
    let ended = async {
        while !went_on.lock().unwrap().iter().any(|head| head.starts_with("delete /session/1 ")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
}

const TOKEN: &str = r#"{"access_token":"cloudtoken","expires_in":3600,"token_type":"Bearer"}"#;
const KEY: &str = include_str!("testdata/certificate.pem");

/// What reaches the store when no emulator is named cannot be seen here, since
/// that is Google itself: the token's issuer is asked, and a proxy that refuses
/// tunnels ends it.
async fn asks_issuer(variables: &[(&str, &str)]) -> litestream_replica::Error {
    use litestream_replica::http::{HttpOptions, HttpPool, ProxyOptions};
    let proxy = ProxyOptions { https: Some("http://127.0.0.1:9".into()), ..ProxyOptions::default() };
    let retry = RetryPolicy { attempts: 2, base: Duration::from_millis(1), ..RetryPolicy::default() };
    let http = HttpPool::new(HttpOptions { proxy, ..HttpOptions::default() });
    let context = ClientContext { http, retry, ..program(variables) };
    let options = GsOptions { bucket: Some("bkt".into()), path: Some("db".into()) };
    list_ids(&GsClient::new(options, &context).unwrap()).await.unwrap_err()
}

#[tokio::test]
async fn every_kind_of_credentials_gives_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let subject = dir.path().join("subject");
    std::fs::write(&subject, "kubernetestoken\n").unwrap();
    let (issuer, asked) = serve(vec![answer(200, TOKEN)]).await;
    let impersonated = r#"{"accessToken":"actingtoken","expireTime":"2999-01-01T00:00:00Z"}"#;
    let (impersonator, acted) = serve(vec![answer(200, impersonated)]).await;
    let account = json!({"type": "service_account", "client_email": "me@x", "private_key": KEY, "token_uri": issuer});
    let user = json!({
        "type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r", "token_uri": issuer,
    });
    let federated = |source: serde_json::Value| {
        json!({
            "type": "external_account", "audience": "//iam/x", "subject_token_type": "urn:jwt", "token_url": issuer,
            "credential_source": source,
        })
    };
    let url_source = json!({"url": issuer, "format": {"type": "json", "subject_token_field_name": "access_token"}});
    let acting = json!({
        "type": "impersonated_service_account", "source_credentials": user, "service_account_impersonation_url": impersonator,
    });
    for (n, (file, requests, acts)) in [
        (account, 1, false),
        (user.clone(), 1, false),
        (federated(json!({"file": subject})), 1, false),
        (federated(url_source), 2, false),
        (acting, 1, true),
    ]
    .into_iter()
    .enumerate()
    {
        asked.lock().unwrap().clear();
        acted.lock().unwrap().clear();
        let path = dir.path().join(format!("{n}.json"));
        std::fs::write(&path, file.to_string()).unwrap();
        let error = asks_issuer(&[("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap())]).await;
        // The token was there, so the store itself was dialled.
        assert!(error.to_string().contains("cannot connect to storage.googleapis.com:443"), "{file}: {error}");
        assert_eq!(asked.lock().unwrap().len(), requests, "{file}: asked once for all attempts");
        assert_eq!(acted.lock().unwrap().len(), usize::from(acts), "{file}");
        if acts {
            assert!(acted.lock().unwrap()[0].contains("authorization: bearer cloudtoken"));
        }
    }
}

#[tokio::test]
async fn machine_is_asked_when_there_is_no_file() {
    let (metadata, asked) = serve(vec![answer(200, TOKEN)]).await;
    let host = metadata.trim_start_matches("http://");
    let error = asks_issuer(&[("GCE_METADATA_HOST", host), ("HOME", "/nonexistent")]).await;
    assert!(error.to_string().contains("cannot connect to storage.googleapis.com:443"), "{error}");
    let head = asked.lock().unwrap()[0].clone();
    assert!(head.starts_with("get /computemetadata/v1/instance/service-accounts/default/token"), "{head}");
    assert!(head.contains("metadata-flavor: google"), "{head}");
}

#[tokio::test]
async fn missing_and_refused_credentials_are_explained_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let (nobody, _) = serve(vec![answer(404, "")]).await;
    let host = nobody.trim_start_matches("http://");
    let said = r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#;
    let (issuer, asked) = serve(vec![answer(400, said)]).await;
    let path = dir.path().join("adc.json");
    let file = json!({
        "type": "authorized_user", "client_id": "c", "client_secret": "hunter2", "refresh_token": "hunter3", "token_uri": issuer,
    });
    std::fs::write(&path, file.to_string()).unwrap();
    let broken = dir.path().join("broken.json");
    std::fs::write(&broken, "{\"private_key\": \"hunter2\", ").unwrap();
    let given = |path: &std::path::Path| [("GOOGLE_APPLICATION_CREDENTIALS", path.display().to_string())];
    let as_text = |pairs: &[(&'static str, String)]| pairs.iter().map(|(n, v)| (*n, v.clone())).collect::<Vec<_>>();
    for (variables, wanted) in [
        (vec![("GCE_METADATA_HOST", host.to_owned())], "google: could not find default credentials. See https://"),
        (as_text(&given(&path)), "refused: invalid_grant: Token has been expired or revoked. (400)"),
        (as_text(&given(&broken)), "is not JSON"),
        (as_text(&given(std::path::Path::new("/nonexistent/adc.json"))), "read /nonexistent/adc.json: "),
    ] {
        let variables: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let error = asks_issuer(&variables).await;
        assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
        let text = error.to_string();
        assert!(text.contains(wanted) && !text.contains("hunter"), "{text}");
    }
    assert_eq!(asked.lock().unwrap().len(), 1, "a refusal is not repeated");
}
