//! An HTTP server that does what a script says, one step per request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with one request.
#[derive(Clone)]
pub(crate) enum Step {
    /// Answers: status, headers, body.
    Answer(u16, String, Vec<u8>),
    /// Announces the whole body, sends the first bytes of it, and hangs up.
    Tear(u16, String, Vec<u8>, usize),
    /// Hangs up without a word.
    Reset,
}

/// Requests seen so far: method, target and headers in lower case.
pub(crate) type Seen = Arc<Mutex<Vec<String>>>;

/// Serves one step per request and repeats the last one for ever.
pub(crate) async fn serve(steps: Vec<Step>) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let steps = Arc::new(Mutex::new(VecDeque::from(steps)));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, steps.clone(), log.clone()));
        }
    });
    (endpoint, seen)
}

async fn converse(mut stream: TcpStream, steps: Arc<Mutex<VecDeque<Step>>>, seen: Seen) {
    while let Some(head) = read_request(&mut stream).await {
        let is_head = head.starts_with("head ");
        seen.lock().unwrap().push(head);
        let step = {
            let mut steps = steps.lock().unwrap();
            if steps.len() > 1 { steps.pop_front().unwrap() } else { steps[0].clone() }
        };
        let (status, headers, mut body, sent) = match step {
            Step::Reset => return,
            Step::Answer(status, headers, body) => (status, headers, body, usize::MAX),
            Step::Tear(status, headers, body, sent) => (status, headers, body, sent),
        };
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        stream.write_all(text.as_bytes()).await.unwrap();
        body.truncate(sent);
        if !is_head {
            stream.write_all(&body).await.unwrap();
        }
        if sent != usize::MAX {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&chunk[..read]),
            _ => return None,
        }
    };
    let head = String::from_utf8(bytes[..head_len].to_vec()).unwrap().to_lowercase();
    let body_len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |len| len.trim().parse::<usize>().unwrap());
    let mut rest = vec![0; (head_len + body_len).saturating_sub(bytes.len())];
    stream.read_exact(&mut rest).await.ok()?;
    Some(head)
}

pub(crate) fn answer(status: u16, body: &str) -> Step {
    Step::Answer(status, String::new(), body.as_bytes().to_vec())
}

pub(crate) fn stored() -> Step {
    Step::Answer(200, "etag: \"e\"\r\n".into(), Vec::new())
}

pub(crate) fn error(status: u16, code: &str) -> Step {
    answer(status, &format!("<Error><Code>{code}</Code><Message>m</Message></Error>"))
}

pub(crate) fn page(keys: &[&str], next: &str) -> Step {
    let contents: String = keys
        .iter()
        .map(|key| {
            format!(
                "<Contents><Key>db/0000/{key}.ltx</Key><LastModified>2026-11-22T10:16:12.000Z</LastModified>\
                 <Size>3</Size></Contents>"
            )
        })
        .collect();
    answer(
        200,
        &format!(
            "<ListBucketResult><IsTruncated>{}</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>\
             {contents}</ListBucketResult>",
            !next.is_empty()
        ),
    )
}
