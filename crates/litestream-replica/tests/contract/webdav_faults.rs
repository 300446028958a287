//! A server that misbehaves by script, to see what the WebDAV client does about it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use litestream_replica::retry::RetryPolicy;
use litestream_replica::webdav::{WebDavClient, WebDavOptions};
use litestream_replica::{Body, ClientContext, ErrorKind, FileId, Level, ReplicaClient, WriteMode};

use super::scripted::{Seen, Step, answer, serve};
use super::suite::{abandon_write, bytes_of, id, request, request_with};

fn client_of(options: WebDavOptions) -> WebDavClient {
    let retry = RetryPolicy { base: Duration::from_millis(1), cap: Duration::from_millis(5), ..RetryPolicy::default() };
    WebDavClient::new(options, &ClientContext { retry, ..ClientContext::default() }).unwrap()
}

fn client(endpoint: &str) -> WebDavClient {
    client_of(WebDavOptions {
        url: Some(format!("{endpoint}/dav")),
        username: Some("me".into()),
        password: Some("s3cret".into()),
        path: Some("db".into()),
    })
}

const A: &str = "0000000000000001-0000000000000001";
const B: &str = "0000000000000002-0000000000000002";

/// A listing of these files at level 0.
fn listing(names: &[&str]) -> Step {
    let rows: String = names
        .iter()
        .map(|name| {
            format!(
                "<response><href>/dav/db/ltx/0/{name}.ltx</href><propstat><prop><resourcetype/>\
                 <getcontentlength>3</getcontentlength><getlastmodified>Sun, 22 Nov 2026 10:16:12 GMT</getlastmodified>\
                 </prop><status>HTTP/1.1 200 OK</status></propstat></response>"
            )
        })
        .collect();
    answer(207, &format!("<multistatus xmlns=\"DAV:\">{rows}</multistatus>"))
}

/// What a write asks before its file: who we are, and for the collection.
fn hello() -> Vec<Step> {
    vec![answer(404, ""), answer(201, "")]
}

/// The answer to the look at what was stored.
fn size(len: usize) -> Step {
    Step::Answer(200, String::new(), vec![b'x'; len])
}

fn first_lines(seen: &Seen) -> Vec<String> {
    let seen = seen.lock().unwrap();
    seen.iter().map(|head| head.lines().next().unwrap().trim_end_matches(" http/1.1").to_owned()).collect()
}

fn methods(seen: &Seen) -> Vec<String> {
    first_lines(seen).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

async fn list_ids(client: &WebDavClient) -> litestream_replica::Result<Vec<FileId>> {
    Ok(client.list(Level::L0, ltx::Txid::new(0), false).await?.iter().map(|file| file.id).collect())
}

#[tokio::test]
async fn files_get_their_name_by_one_step_at_the_end() {
    let (endpoint, seen) = serve([hello(), vec![answer(201, ""), size(7), answer(201, ""), size(7)]].concat()).await;
    client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap();
    let lines = first_lines(&seen);
    let temporary = lines[2].strip_prefix("put ").unwrap().to_owned();
    assert!(temporary.starts_with(&format!("/dav/db/ltx/0/{A}.ltx.")) && temporary.ends_with(".tmp"), "{temporary}");
    let wanted = [
        "propfind /dav/db/",
        "mkcol /dav/db/ltx/0/",
        &format!("put {temporary}"),
        &format!("head {temporary}"),
        &format!("move {temporary}"),
        &format!("head /dav/db/ltx/0/{A}.ltx"),
    ];
    assert_eq!(lines, wanted);
    let heads = seen.lock().unwrap();
    assert!(heads[2].contains("content-length: 7") && !heads[2].contains("chunked"), "{}", heads[2]);
    assert!(heads[2].contains("x-oc-mtime: 1600000000"), "{}", heads[2]);
    let destination = format!("destination: {endpoint}/dav/db/ltx/0/{A}.ltx");
    assert!(heads[4].contains(&destination) && heads[4].contains("overwrite: f"), "{}", heads[4]);
}

#[tokio::test]
async fn password_is_sent_only_to_who_asks_for_it() {
    let challenge = Step::Answer(401, "www-authenticate: Basic realm=\"x\"\r\n".into(), Vec::new());
    let (endpoint, seen) = serve(vec![challenge, listing(&[A]), listing(&[A])]).await;
    let client = client(&endpoint);
    assert_eq!(list_ids(&client).await.unwrap(), [id(0, 1, 1)]);
    assert_eq!(list_ids(&client).await.unwrap(), [id(0, 1, 1)]);
    let sent: Vec<bool> =
        seen.lock().unwrap().iter().map(|head| head.contains("authorization: basic bwu6cznjcmv0")).collect();
    assert_eq!(sent, [false, true, true]);
}

#[tokio::test]
async fn refused_password_is_not_tried_again_and_again() {
    let challenge = Step::Answer(401, "www-authenticate: Basic realm=\"x\"\r\n".into(), Vec::new());
    let (endpoint, seen) = serve(vec![challenge]).await;
    let error = list_ids(&client(&endpoint)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert!(!error.to_string().contains("s3cret"), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 2);

    let digest =
        Step::Answer(401, "www-authenticate: Digest realm=\"x\", nonce=\"n\", qop=\"auth\"\r\n".into(), Vec::new());
    let (endpoint, seen) = serve(vec![digest]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap_err().kind(), ErrorKind::Setup);
    assert_eq!(seen.lock().unwrap().len(), 2);

    let kerberos = Step::Answer(401, "www-authenticate: Negotiate\r\n".into(), Vec::new());
    let (endpoint, _) = serve(vec![kerberos]).await;
    let error = list_ids(&client(&endpoint)).await.unwrap_err();
    assert!(error.to_string().contains("asks for Negotiate; only Basic and Digest are supported"), "{error}");
}

#[tokio::test]
async fn unavailable_server_is_asked_again() {
    let (endpoint, seen) =
        serve(vec![answer(503, ""), answer(429, ""), answer(408, ""), answer(500, ""), Step::Reset, listing(&[A])])
            .await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1)]);
    assert_eq!(seen.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn refusals_are_explained_and_not_asked_again() {
    for (status, kind, words) in [
        (403, ErrorKind::Setup, "access denied"),
        (405, ErrorKind::Setup, "does not allow PROPFIND there; enable WebDAV or correct webdav-url"),
        (301, ErrorKind::Setup, "sends us to https://elsewhere/dav/; correct webdav-url"),
        (423, ErrorKind::Setup, "another client has locked it"),
        (507, ErrorKind::Setup, "no space left on"),
        (200, ErrorKind::Setup, "does not speak WebDAV there"),
    ] {
        let step = Step::Answer(status, "location: https://elsewhere/dav/?token=t\r\n".into(), b"<html>".to_vec());
        let (endpoint, seen) = serve(vec![step]).await;
        let error = list_ids(&client(&endpoint)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.to_string().contains(words) && !error.to_string().contains("token"), "{status}: {error}");
        assert_eq!(seen.lock().unwrap().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn absent_collection_is_empty_only_where_its_server_is_right() {
    let (endpoint, seen) = serve(vec![answer(404, ""), answer(207, "<multistatus xmlns=\"DAV:\"/>")]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), []);
    assert_eq!(first_lines(&seen), ["propfind /dav/db/ltx/0/", "propfind /dav/"]);
    let (endpoint, _) = serve(vec![answer(404, "")]).await;
    let error = list_ids(&client(&endpoint)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert!(error.to_string().contains("/dav does not exist; create it or correct webdav-url"), "{error}");
}

#[tokio::test]
async fn torn_and_partial_listings_are_no_lists() {
    let torn = Step::Tear(207, String::new(), b"<multistatus xmlns=\"DAV:\"></multistatus>".to_vec(), 10);
    let (endpoint, seen) = serve(vec![torn, listing(&[B, A])]).await;
    assert_eq!(list_ids(&client(&endpoint)).await.unwrap(), [id(0, 1, 1), id(0, 2, 2)]);
    assert_eq!(seen.lock().unwrap().len(), 2);

    let partial = "<multistatus xmlns=\"DAV:\"><response><href>/dav/db/ltx/0/</href>\
                   <status>HTTP/1.1 507 Insufficient Storage</status></response></multistatus>";
    let (endpoint, _) = serve(vec![answer(207, partial)]).await;
    let error = list_ids(&client(&endpoint)).await.unwrap_err();
    assert!(error.to_string().contains("the list is not complete (507)"), "{error}");
}

#[tokio::test]
async fn sizes_and_times_that_a_listing_leaves_out_are_asked_for() {
    let bare = format!(
        "<multistatus xmlns=\"DAV:\"><response><href>/dav/db/ltx/0/{A}.ltx</href><propstat><prop/>\
         <status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
    );
    let head = Step::Answer(200, "last-modified: Sun, 22 Nov 2026 10:16:12 GMT\r\n".into(), vec![1; 77]);
    let (endpoint, _) = serve(vec![answer(207, &bare), head]).await;
    let listed = client(&endpoint).list(Level::L0, ltx::Txid::new(0), false).await.unwrap();
    assert_eq!((listed[0].size, listed[0].created_at.to_string().as_str()), (77, "2026-11-22T10:16:12Z"));
}

#[tokio::test]
async fn server_without_ranges_is_cut_here() {
    let (endpoint, _) = serve(vec![answer(200, "0123456789")]).await;
    let chunks: Vec<Bytes> = client(&endpoint).open(id(0, 1, 1), 3, 4).await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"3456");
    let wrong = Step::Answer(206, "content-range: bytes 0-9/100\r\n".into(), vec![7; 10]);
    let (endpoint, _) = serve(vec![wrong]).await;
    let error = client(&endpoint).open(id(0, 1, 1), 50, 10).await.err().unwrap();
    assert!(error.to_string().contains("asked for bytes from 50, got them from 0"), "{error}");
}

/// Behind a proxy that ends TLS, a server refuses its own public address.
#[tokio::test]
async fn server_that_does_not_know_its_own_address_is_told_the_path() {
    let stored = [answer(201, ""), size(1), answer(502, ""), answer(201, ""), size(1)];
    let (endpoint, seen) = serve([hello(), stored.to_vec(), vec![answer(201, "")]].concat()).await;
    let client = client(&endpoint);
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    client.write(request(id(0, 2, 2), b"x")).await.unwrap();
    let destinations: Vec<String> = seen
        .lock()
        .unwrap()
        .iter()
        .filter_map(|head| head.lines().find_map(|line| line.strip_prefix("destination: ")).map(str::to_owned))
        .collect();
    let path = |name: &str| format!("/dav/db/ltx/0/{name}.ltx");
    assert_eq!(destinations, [format!("{endpoint}{}", path(A)), path(A), path(B)]);
}

#[tokio::test]
async fn server_without_renames_gets_files_in_place() {
    let steps = vec![
        answer(201, ""), // put under a temporary name
        size(1),
        answer(405, ""), // move
        answer(204, ""), // delete
        answer(404, ""), // is the name taken?
        answer(201, ""), // put
        answer(404, ""), // second file: is the name taken?
        answer(201, ""),
    ];
    let (endpoint, seen) = serve([hello(), steps].concat()).await;
    let client = client(&endpoint);
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    client.write(request(id(0, 2, 2), b"x")).await.unwrap();
    let wanted = ["propfind", "mkcol", "put", "head", "move", "delete", "head", "put", "head", "put"];
    assert_eq!(methods(&seen), wanted);
    assert_eq!(first_lines(&seen)[9], format!("put /dav/db/ltx/0/{B}.ltx"));
    assert!(seen.lock().unwrap()[9].contains("if-none-match: *"));
}

#[tokio::test]
async fn server_that_moves_files_elsewhere_is_found_out() {
    let steps = vec![
        answer(201, ""),
        size(1),
        answer(201, ""), // move
        answer(404, ""), // but it is not there
        answer(404, ""), // delete
        answer(404, ""), // is the name taken?
        answer(201, ""),
    ];
    let (endpoint, seen) = serve([hello(), steps].concat()).await;
    client(&endpoint).write(request(id(0, 1, 1), b"x")).await.unwrap();
    assert_eq!(methods(&seen)[2..], ["put", "head", "move", "head", "delete", "head", "put"]);
}

#[tokio::test]
async fn upload_that_broke_off_in_place_is_completed() {
    let steps = vec![
        answer(201, ""),
        size(7),
        answer(501, ""),                                   // move
        answer(204, ""),                                   // delete
        size(3),                                           // something is there already
        Step::Answer(200, String::new(), b"con".to_vec()), // the beginning of it
        answer(204, ""),
    ];
    let (endpoint, seen) = serve([hello(), steps].concat()).await;
    client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap();
    assert_eq!(methods(&seen)[6..], ["head", "get", "put"]);
}

#[tokio::test]
async fn repeated_rename_meets_its_own_file() {
    // The server renamed the file, but its answer was lost.
    let steps = vec![
        answer(201, ""),
        size(7),
        Step::Reset,
        answer(404, ""),
        Step::Answer(200, String::new(), b"content".to_vec()),
    ];
    let (endpoint, seen) = serve([hello(), steps].concat()).await;
    client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap();
    assert_eq!(methods(&seen)[2..], ["put", "head", "move", "move", "get"]);

    let other = vec![answer(201, ""), size(7), answer(412, ""), answer(204, ""), answer(200, "another")];
    let (endpoint, seen) = serve([hello(), other].concat()).await;
    let error = client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(methods(&seen)[5], "delete", "its temporary file is removed");
}

#[tokio::test]
async fn server_that_keeps_nothing_is_found_out() {
    let (endpoint, seen) = serve([hello(), vec![answer(201, ""), size(0), answer(204, "")]].concat()).await;
    let error = client(&endpoint).write(request(id(0, 1, 1), b"content")).await.unwrap_err();
    assert!(error.to_string().contains("the server kept 0 of 7 bytes"), "{error}");
    let removed = async {
        while methods(&seen).last().unwrap() != "delete" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), removed).await.unwrap();
}

#[tokio::test]
async fn collections_are_made_from_the_top_and_again_when_they_vanish() {
    let steps = vec![
        answer(404, ""), // who we are
        answer(409, ""), // ltx/0: the one above is missing
        answer(409, ""), // ltx
        answer(201, ""), // db
        answer(201, ""), // ltx
        answer(201, ""), // ltx/0
        answer(201, ""),
        size(1),
        answer(201, ""),
        size(1),
        answer(409, ""), // second file: somebody has removed the collection
        answer(201, ""),
        answer(201, ""),
        answer(201, ""),
    ];
    let (endpoint, seen) = serve(steps).await;
    let client = client(&endpoint);
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    client.write(request(id(0, 2, 2), b"x")).await.unwrap();
    let lines = first_lines(&seen);
    let paths = ["db/ltx/0/", "db/ltx/", "db/", "db/ltx/", "db/ltx/0/"].map(|path| format!("mkcol /dav/{path}"));
    assert_eq!(lines[1..6], paths);
    assert_eq!(methods(&seen)[10..], ["put", "mkcol", "put", "move"]);
}

#[tokio::test]
async fn long_streams_have_a_length() {
    let content = bytes_of(3 << 20, 4);
    let chunks = content.chunks(70_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect::<Vec<_>>();
    let body = Body::Stream(Box::pin(futures_util::stream::iter(chunks)));
    let steps = vec![answer(503, ""), answer(201, ""), size(3 << 20), answer(201, ""), size(3 << 20)];
    let (endpoint, seen) = serve([hello(), steps].concat()).await;
    client(&endpoint).write(request_with(id(9, 1, 1), body, WriteMode::Overwrite)).await.unwrap();
    let heads = seen.lock().unwrap();
    for head in &heads[2..4] {
        assert!(head.starts_with("put ") && head.contains(&format!("content-length: {}", 3 << 20)), "{head}");
    }
    assert!(heads[5].contains("overwrite: t"));
}

#[tokio::test]
async fn abandoned_write_sends_nothing_under_the_final_name() {
    let (endpoint, seen) = serve([hello(), vec![answer(201, "")]].concat()).await;
    abandon_write(&client(&endpoint), id(9, 1, 1)).await;
    assert!(!methods(&seen).iter().any(|method| method == "move"), "{:?}", first_lines(&seen));
}

#[tokio::test]
async fn what_killed_writers_left_is_removed_by_the_next_write() {
    let row = |name: &str, time: &str| {
        format!(
            "<response><href>/dav/db/ltx/0/{name}</href><propstat><prop><getcontentlength>3</getcontentlength>\
             <getlastmodified>{time}</getlastmodified></prop></propstat></response>"
        )
    };
    let (old, new) = ("Fri, 20 Nov 2026 10:16:12 GMT", "Sun, 22 Nov 2026 10:16:12 GMT");
    let ours = format!("{B}.ltx.77-00000000000000aa.tmp");
    let rows = [
        row(&format!("{A}.ltx"), new),
        row(&ours, old),
        row(&format!("{B}.ltx.78-00000000000000ab.tmp"), new),
        row(&format!("{B}.ltx.tmp"), old),
    ];
    let list = answer(207, &format!("<multistatus xmlns=\"DAV:\">{}</multistatus>", rows.concat()));
    let steps = vec![
        list,
        answer(404, ""),
        answer(204, ""),
        answer(201, ""),
        answer(201, ""),
        size(1),
        answer(201, ""),
        size(1),
    ];
    let (endpoint, seen) = serve(steps).await;
    let client = client(&endpoint);
    assert_eq!(list_ids(&client).await.unwrap(), [id(0, 1, 1)]);
    client.write(request(id(0, 2, 2), b"x")).await.unwrap();
    let deleted: Vec<String> = first_lines(&seen).into_iter().filter(|line| line.starts_with("delete ")).collect();
    assert_eq!(deleted, [format!("delete /dav/db/ltx/0/{ours}")]);
}

#[tokio::test]
async fn files_that_cannot_be_deleted_are_named() {
    let (endpoint, _) = serve(vec![answer(204, ""), answer(403, ""), answer(404, "")]).await;
    let files = [id(0, 1, 1), id(0, 2, 2), id(0, 3, 3)];
    let error = client(&endpoint).delete(&files).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert!(error.to_string().starts_with("failed to delete files:\ndb/ltx/0/"), "{error}");
    assert!(error.to_string().contains("access denied; the user may not delete there"), "{error}");
}
