//! Fetching one address: redirects, refusals and servers that say nothing.

use std::time::Duration;

use litestream_replica::ErrorKind;
use litestream_replica::http::HttpPool;
use tokio::net::TcpListener;

use super::scripted::{Step, answer, serve};

fn redirect(location: &str) -> Step {
    Step::Answer(302, format!("location: {location}\r\n"), Vec::new())
}

async fn fetch(url: &str) -> Result<(), (ErrorKind, String)> {
    HttpPool::default().fetch(url, LIMIT).await.map_err(|error| (error.kind(), error.to_string()))
}

#[tokio::test]
async fn redirects_are_followed_to_the_end() {
    let (other, seen_by_other) = serve(vec![answer(200, "thanks")]).await;
    let (endpoint, seen) = serve(vec![redirect("b?c#d"), redirect("/e"), redirect(&format!("{other}/f"))]).await;
    fetch(&format!("{endpoint}/ping/a")).await.unwrap();
    let lines = |seen: &[String]| seen.iter().map(|head| head.lines().next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        lines(&seen.lock().unwrap()),
        ["get /ping/a http/1.1", "get /ping/b?c http/1.1", "get /e http/1.1"],
        "each relative to the address before"
    );
    let seen_by_other = seen_by_other.lock().unwrap();
    assert_eq!(lines(&seen_by_other), ["get /f http/1.1"]);
    let agent = format!("user-agent: litestream/{}\r\n", env!("CARGO_PKG_VERSION"));
    assert!(seen_by_other[0].contains(&agent), "{seen_by_other:?}");
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let (endpoint, seen) = serve(vec![redirect("/again")]).await;
    let wanted = (ErrorKind::Transient, "more than 10 redirects".to_owned());
    assert_eq!(fetch(&endpoint).await, Err(wanted));
    assert_eq!(seen.lock().unwrap().len(), 11);
}

#[tokio::test]
async fn every_other_answer_is_a_failure_and_not_repeated() {
    for (step, status) in [
        (answer(500, "x"), 500),
        (answer(404, "x"), 404),
        // Nowhere to go.
        (answer(302, ""), 302),
        // A place is told, but nobody is sent there.
        (Step::Answer(503, "location: /b\r\n".to_owned(), Vec::new()), 503),
    ] {
        let (endpoint, seen) = serve(vec![step]).await;
        let wanted = (ErrorKind::Transient, format!("unexpected status code: {status}"));
        assert_eq!(fetch(&endpoint).await, Err(wanted));
        assert_eq!(seen.lock().unwrap().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn addresses_that_are_none_are_refused_wherever_they_come_from() {
    let not_http = (ErrorKind::Setup, "address is not an http or https URL".to_owned());
    assert_eq!(fetch("ftp://127.0.0.1/").await, Err(not_http.clone()));
    let (kind, text) = fetch("http://not a host/").await.unwrap_err();
    assert_eq!(kind, ErrorKind::Setup);
    assert!(text.starts_with("address is not a valid URL: "), "{text}");
    let (endpoint, _) = serve(vec![redirect("file://localhost/etc/passwd")]).await;
    assert_eq!(fetch(&endpoint).await, Err(not_http));
}

/// The clock is virtual and jumps when nothing else can happen.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_left_when_the_time_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    assert_eq!(fetch(&url).await, Err((ErrorKind::Transient, "no answer within 10s".to_owned())));
}

const LIMIT: Duration = Duration::from_secs(10);
