//! What the Azure client does about a server that misbehaves by script, and who
//! it says it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use litestream_replica::abs::{AbsClient, AbsOptions};
use litestream_replica::resume::resuming;
use litestream_replica::retry::RetryPolicy;
use litestream_replica::{Body, ClientContext, ErrorKind, FileId, Level, ReplicaClient, Result, WriteMode};
use ltx::Txid;

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

fn options(endpoint: &str) -> AbsOptions {
    AbsOptions {
        account_name: Some("acct".into()),
        bucket: Some("cont".into()),
        path: Some("db".into()),
        endpoint: Some(endpoint.to_owned()),
        ..AbsOptions::default()
    }
}

fn client(endpoint: &str) -> AbsClient {
    AbsClient::new(AbsOptions { account_key: Some("a2V5".into()), ..options(endpoint) }, &program(&[])).unwrap()
}

fn refused(status: u16, code: &str) -> Step {
    let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
    Step::Answer(status, format!("x-ms-error-code: {code}\r\n"), body.into_bytes())
}

fn created() -> Step {
    answer(201, "")
}

fn page(names: &[&str], next: &str) -> Step {
    let blobs: String = names
        .iter()
        .map(|name| {
            format!(
                "<Blob><Name>db/ltx/0/{name}.ltx</Name><Properties><Creation-Time>Sun, 22 Nov 2026 10:16:12 GMT\
                 </Creation-Time><Content-Length>3</Content-Length></Properties><Metadata/></Blob>"
            )
        })
        .collect();
    let body =
        format!("<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>");
    answer(200, &body)
}

const A: &str = "0000000000000001-0000000000000001";
const B: &str = "0000000000000002-0000000000000002";

async fn list_ids(client: &dyn ReplicaClient) -> Result<Vec<FileId>> {
    Ok(client.list(Level::L0, Txid::new(0), false).await?.iter().map(|file| file.id).collect())
}

fn overwrite(content: &'static [u8]) -> litestream_replica::WriteRequest {
    request_with(id(0, 1, 1), Body::Bytes(Bytes::from_static(content)), WriteMode::Overwrite)
}

#[tokio::test]
async fn passing_refusals_are_asked_again() {
    let steps = vec![
        refused(503, "ServerBusy"),
        refused(500, "OperationTimedOut"),
        answer(429, ""),
        answer(408, ""),
        Step::Reset,
        created(),
    ];
    let (endpoint, seen) = serve(steps).await;
    client(&endpoint).write(overwrite(b"x")).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn lasting_refusals_are_not_asked_again() {
    for (status, code, advice) in [
        (403, "AuthenticationFailed", "the account-key does not belong to account \"acct\""),
        (403, "KeyBasedAuthenticationNotPermitted", "use sas-token or an identity"),
        (404, "ContainerNotFound", "container \"cont\" does not exist at http://127.0.0.1"),
        (400, "InvalidResourceName", "\"cont\" is not a container name"),
    ] {
        let (endpoint, seen) = serve(vec![refused(status, code)]).await;
        let error = client(&endpoint).write(overwrite(b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
        assert!(error.to_string().contains(advice), "{error}");
        assert_eq!(seen.lock().unwrap().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn attempts_run_out_and_the_last_error_is_told() {
    let (endpoint, seen) = serve(vec![refused(500, "InternalError")]).await;
    let error = client(&endpoint).write(overwrite(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("InternalError"), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 10);
}

#[tokio::test]
async fn wrong_clock_is_named() {
    let old = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nx-ms-error-code: AuthenticationFailed\r\n";
    let (endpoint, _) = serve(vec![Step::Answer(403, old.into(), Vec::new())]).await;
    let error = client(&endpoint).write(overwrite(b"x")).await.unwrap_err();
    assert!(error.to_string().contains("this machine's clock is "), "{error}");
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
    assert!(seen.lock().unwrap()[1].contains("x-ms-range: bytes=100000-299999"));
}

/// L27: a listing that failed half-way once looked complete.
#[tokio::test]
async fn list_whose_second_page_fails_is_an_error() {
    let (endpoint, _) = serve(vec![page(&[A], "more"), refused(403, "AuthorizationFailure")]).await;
    assert!(list_ids(&client(&endpoint)).await.is_err());
    let (endpoint, seen) = serve(vec![page(&[A], "more"), refused(500, "InternalError"), page(&[B], "")]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1), id(0, 2, 2)]);
    let seen = seen.lock().unwrap();
    assert!(
        seen[0].starts_with("get /cont?restype=container&comp=list&include=metadata&prefix=db%2fltx%2f0%2f "),
        "{}",
        seen[0]
    );
    assert!(seen[2].contains("&marker=more "), "{}", seen[2]);
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
async fn repeated_upload_meets_its_own_blob() {
    let (endpoint, seen) = serve(vec![Step::Reset, refused(409, "BlobAlreadyExists"), answer(200, "content")]).await;
    client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 3);
    let (endpoint, _) = serve(vec![refused(409, "BlobAlreadyExists"), answer(200, "other")]).await;
    let error = client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn account_without_tiers_is_found_out_once() {
    let (endpoint, seen) = serve(vec![refused(400, "UnsupportedHeader"), created()]).await;
    let client = client(&endpoint);
    client.write(overwrite(b"x")).await.unwrap();
    client.write(overwrite(b"y")).await.unwrap();
    let tiers: Vec<bool> = seen.lock().unwrap().iter().map(|head| head.contains("x-ms-access-tier: hot")).collect();
    assert_eq!(tiers, [true, false, false]);
}

#[tokio::test]
async fn refused_deletes_are_an_error_and_missing_blobs_are_none() {
    let (endpoint, seen) = serve(vec![refused(404, "BlobNotFound")]).await;
    client(&endpoint).delete(&[id(0, 1, 1), id(0, 2, 2)]).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2);
    let (endpoint, _) = serve(vec![refused(403, "AuthorizationPermissionMismatch")]).await;
    let error = client(&endpoint).delete(&[id(0, 1, 1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert!(error.to_string().starts_with("failed to delete files:\ndb/ltx/0/"), "{error}");
}

/// A directory of a hierarchical account goes when nothing is left in it.
#[tokio::test]
async fn directories_are_deleted_last_and_deepest_first() {
    let folder =
        |name: &str| format!("<Blob><Name>{name}</Name><Metadata><hdi_isfolder>true</hdi_isfolder></Metadata></Blob>");
    let blobs = format!("{}{}<Blob><Name>db/ltx/0/x</Name></Blob>", folder("db/ltx"), folder("db/ltx/0"));
    let listing = answer(200, &format!("<EnumerationResults><Blobs>{blobs}</Blobs></EnumerationResults>"));
    let (endpoint, seen) = serve(vec![listing, answer(202, "")]).await;
    client(&endpoint).delete_all().await.unwrap();
    let targets: Vec<String> =
        seen.lock().unwrap()[1..].iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(targets, ["/cont/db/ltx/0/x", "/cont/db/ltx/0", "/cont/db/ltx"]);
}

#[tokio::test]
async fn abandoned_upload_commits_nothing() {
    let (endpoint, seen) = serve(vec![created()]).await;
    abandon_write(&client(&endpoint), id(9, 1, 1)).await;
    assert!(!seen.lock().unwrap().iter().any(|head| head.contains("comp=blocklist")));
}

#[tokio::test]
async fn every_upload_says_what_it_is() {
    let (endpoint, seen) = serve(vec![created()]).await;
    client(&endpoint).write(request(id(0, 1, 1), b"x")).await.unwrap();
    let head = seen.lock().unwrap()[0].clone();
    for part in [
        "put /cont/db/ltx/0/0000000000000001-0000000000000001.ltx http/1.1",
        "content-length: 1\r",
        "x-ms-blob-type: blockblob",
        "x-ms-blob-content-type: application/octet-stream",
        "x-ms-meta-litestreamtimestamp: 2020-09-13t12:26:40.25z",
        "x-ms-access-tier: hot",
        "if-none-match: *",
        "content-md5: ",
        "authorization: sharedkey acct:",
        "x-ms-version: 2021-12-02",
        "user-agent: litestream/",
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
}

const TOKEN: &str = r#"{"access_token":"cloudtoken","expires_in":3600,"token_type":"Bearer"}"#;

/// A client without keys on a machine with these variables.
fn identity_client(endpoint: &str, variables: &[(&str, &str)]) -> AbsClient {
    AbsClient::new(options(endpoint), &program(variables)).unwrap()
}

#[tokio::test]
async fn every_identity_of_a_machine_gives_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let federated = file("federated", "kubernetestoken\n");
    let certificate = file("certificate.pem", include_str!("testdata/certificate.pem"));
    let principal = [("AZURE_TENANT_ID", "tenant"), ("AZURE_CLIENT_ID", "client")];
    for (name, variables, asked_for) in [
        ("secret", vec![("AZURE_CLIENT_SECRET", "s3cret")], "post /tenant/oauth2/v2.0/token"),
        (
            "certificate",
            vec![("AZURE_CLIENT_CERTIFICATE_PATH", certificate.as_str())],
            "post /tenant/oauth2/v2.0/token",
        ),
        ("workload", vec![("AZURE_FEDERATED_TOKEN_FILE", federated.as_str())], "post /tenant/oauth2/v2.0/token"),
        (
            "app service",
            vec![("IDENTITY_HEADER", "appheader"), ("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")],
            "x-identity-header: appheader",
        ),
        ("machine", vec![("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")], "metadata: true"),
    ] {
        let (store, seen) = serve(vec![page(&[], "")]).await;
        let (issuer, asked) = serve(vec![answer(503, ""), answer(200, TOKEN)]).await;
        let issuer_of = match name {
            "app service" => vec![("IDENTITY_ENDPOINT", issuer.as_str())],
            _ => {
                vec![("AZURE_AUTHORITY_HOST", issuer.as_str()), ("AZURE_POD_IDENTITY_AUTHORITY_HOST", issuer.as_str())]
            }
        };
        // The metadata service is nobody's on most machines, so a fault there
        // ends the search rather than being repeated.
        if name == "machine" {
            let fresh = serve(vec![answer(200, TOKEN)]).await;
            let all = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", fresh.0.as_str())];
            list_ids(&identity_client(&store, &[&all[..], &variables].concat())).await.unwrap();
            assert!(fresh.1.lock().unwrap()[0].contains(asked_for), "{name}");
        } else {
            let all = [&principal[..], &issuer_of, &variables].concat();
            let client = identity_client(&store, &all);
            list_ids(&client).await.unwrap();
            list_ids(&client).await.unwrap();
            let asked = asked.lock().unwrap();
            assert_eq!(asked.len(), 2, "{name}: asked again once, then kept");
            assert!(asked[1].contains(asked_for), "{name}: {}", asked[1]);
        }
        assert!(seen.lock().unwrap()[0].contains("authorization: bearer cloudtoken"), "{name}");
    }
}

#[tokio::test]
async fn refused_identity_is_explained_without_its_secret() {
    let (store, seen) = serve(vec![page(&[], "")]).await;
    let said = r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired.\r\nTrace ID: x"}"#;
    let (issuer, asked) = serve(vec![answer(401, said)]).await;
    let client = identity_client(
        &store,
        &[
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_CLIENT_SECRET", "hunter2"),
            ("AZURE_AUTHORITY_HOST", &issuer),
        ],
    );
    let error = list_ids(&client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    let text = error.to_string();
    assert!(
        text.contains("EnvironmentCredential: Microsoft Entra ID refused: invalid_client: AADSTS7000222"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!((asked.lock().unwrap().len(), seen.lock().unwrap().len()), (1, 0));
}

#[tokio::test]
async fn missing_credentials_are_explained() {
    let (store, _) = serve(vec![page(&[], "")]).await;
    let (nobody, _) = serve(vec![answer(404, "")]).await;
    let variables = [("AZURE_TOKEN_CREDENTIALS", "prod"), ("AZURE_POD_IDENTITY_AUTHORITY_HOST", nobody.as_str())];
    let text = list_ids(&identity_client(&store, &variables)).await.unwrap_err().to_string();
    for part in [
        "DefaultAzureCredential: failed to acquire a token.\nAttempted credentials:",
        "\n\tEnvironmentCredential: AZURE_TENANT_ID and AZURE_CLIENT_ID are not set",
        "\n\tManagedIdentityCredential: ",
        "set account-key or sas-token",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[tokio::test]
async fn tokens_do_not_travel_in_clear() {
    let client = identity_client("http://store.invalid", &[]);
    let error = list_ids(&client).await.unwrap_err();
    assert!(error.to_string().contains("tokens are sent over https only"), "{error}");
}
