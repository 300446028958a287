//! The recorder against a server that answers what it is told to.

#![allow(clippy::unwrap_used, reason = "what a test needs and cannot have fails the test")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use litestream_testkit::recorder::Recorder;

/// Reads up to and with `end`.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

/// A server of one connection: after each text that ends so, it sends that answer.
/// Returns what it read.
fn server(exchanges: Vec<(&'static str, &'static str)>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut exchange = |(end, answer): (&'static str, &'static str)| {
            let read = read_until(&mut stream, end);
            stream.write_all(answer.as_bytes()).unwrap();
            read
        };
        exchanges.into_iter().map(&mut exchange).collect()
    });
    (url, thread)
}

#[test]
fn requests_of_one_connection_are_parted_and_no_byte_is_changed() {
    let put = "PUT /a//b/./%7E?x=1&y HTTP/1.1\r\nHost: signed\r\nX-Name:  v \r\nContent-Length: 4\r\n\r\nbody";
    let head = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = "3;note=x\r\nabc\r\n1\r\nd\r\n0\r\nTrailer-Field: t\r\n\r\n";
    let get = "GET /last HTTP/1.1\r\nRange: bytes=0-\r\n\r\n";
    let stored = "HTTP/1.1 201 Created\r\nContent-Length: 12\r\n\r\nHTTP/1.1 500";
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let partial = "HTTP/1.1 206 Partial Content\r\nContent-Length: 0\r\n\r\n";
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    let exchanges = [(put, stored), (head, go_on), (chunks, missing), (get, partial)];
    let (url, server) = server(exchanges.to_vec());
    let (recorder, through) = Recorder::in_front_of(&url).unwrap();
    assert_eq!(through, format!("http://{}/base", recorder.address()));

    let mut client = TcpStream::connect(recorder.address()).unwrap();
    for (sent, answer) in exchanges {
        client.write_all(sent.as_bytes()).unwrap();
        assert_eq!(read_until(&mut client, answer), answer);
    }

    assert_eq!(server.join().unwrap(), [put, head, chunks, get]);
    let requests = recorder.take();
    let facts: Vec<_> = requests
        .iter()
        .map(|request| (request.method.as_str(), request.target.as_str(), request.body.as_slice(), request.status))
        .collect();
    assert_eq!(
        facts,
        [("PUT", "/a//b/./%7E?x=1&y", &b"body"[..], 201), ("POST", "/", b"abcd", 404), ("GET", "/last", b"", 206),]
    );
    assert_eq!(requests[0].header("host"), Some("signed"));
    assert_eq!(requests[0].header("x-name"), Some("v"));
    assert!(recorder.take().is_empty());
}

#[test]
fn without_a_server_connections_are_closed() {
    let recorder = Recorder::start().unwrap();
    let mut client = TcpStream::connect(recorder.address()).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(recorder.take().is_empty());
}
