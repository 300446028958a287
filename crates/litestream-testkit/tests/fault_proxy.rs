//! The fault proxy does to a connection what it is told, and nothing else.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has found something")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use litestream_testkit::fault_proxy::{Fault, FaultProxy, Traffic};

/// A server that sends back what it gets, and a proxy before it.
fn echo() -> FaultProxy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || drop(std::io::copy(&mut stream.try_clone().unwrap(), &mut stream)));
        }
    });
    FaultProxy::start(address).unwrap()
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends `len` bytes and reads until the connection ends.
fn exchange(mut stream: TcpStream, len: usize) -> (usize, Option<ErrorKind>) {
    let mut writer = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        // A reset ends it early, which is what the reader sees too.
        let _ = writer.write_all(&vec![7; len]);
        let _ = writer.shutdown(Shutdown::Write);
    });
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).err().map(|error| error.kind());
    sending.join().unwrap();
    (got.len(), error)
}

#[test]
fn everything_passes_untouched_and_is_counted() {
    let proxy = echo();
    assert_eq!(exchange(connect(&proxy), 300_000), (300_000, None));
    assert_eq!(proxy.traffic(), [Traffic { up: 300_000, down: 300_000 }]);
}

#[test]
fn resets_come_after_so_many_bytes_and_once() {
    for (fault, at_most) in
        [(Fault::ResetUp(100_000), 100_000), (Fault::ResetDown(1), 1), (Fault::LoseReply(1), 0), (Fault::ResetUp(0), 0)]
    {
        let proxy = echo();
        proxy.script([fault]);
        let (got, error) = exchange(connect(&proxy), 300_000);
        assert!(got <= at_most && error == Some(ErrorKind::ConnectionReset), "{fault:?}: {got} {error:?}");
        assert_eq!(proxy.fired(), 1);
        assert_eq!(exchange(connect(&proxy), 300_000), (300_000, None), "{fault:?}");
    }
}

#[test]
fn bytes_count_from_when_the_fault_comes_to_the_front() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    let mut buffer = vec![0; 1000];
    stream.write_all(&buffer).unwrap();
    stream.read_exact(&mut buffer).unwrap();
    proxy.script([Fault::Truncate(1000), Fault::ResetUp(1000)]);
    stream.write_all(&buffer).unwrap();
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    assert_eq!(exchange(connect(&proxy), 5000).1, Some(ErrorKind::ConnectionReset));
    assert_eq!(proxy.fired(), 2);
}

#[test]
fn truncation_looks_like_an_orderly_end() {
    let proxy = echo();
    proxy.script([Fault::Truncate(1234)]);
    let (got, _) = exchange(connect(&proxy), 2000);
    assert_eq!(got, 1234);
}

#[test]
fn what_stalls_goes_on_when_it_is_released() {
    for fault in [Fault::StallUp(10_000), Fault::StallDown(10_000)] {
        let proxy = echo();
        proxy.script([fault]);
        let stream = connect(&proxy);
        let (done, ended) = mpsc::channel();
        thread::spawn(move || done.send(exchange(stream, 30_000)));
        proxy.wait_until_fired(1, Duration::from_secs(20)).unwrap();
        ended.recv_timeout(Duration::from_millis(50)).unwrap_err();
        proxy.release();
        assert_eq!(ended.recv_timeout(Duration::from_secs(20)).unwrap(), (30_000, None));
    }
}

#[test]
fn refused_port_stays_ours() {
    let proxy = echo();
    proxy.refuse();
    let error = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    proxy.pass();
    assert_eq!(exchange(connect(&proxy), 10), (10, None));
}

#[test]
fn black_hole_takes_connections_and_gives_nothing() {
    let proxy = echo();
    proxy.swallow();
    let stream = connect(&proxy);
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(exchange(stream, 1000)));
    ended.recv_timeout(Duration::from_millis(50)).unwrap_err();
    proxy.pass();
    assert_eq!(ended.recv_timeout(Duration::from_secs(20)).unwrap(), (1000, None));
}

#[test]
fn slow_close_holds_the_end_back() {
    let proxy = echo();
    proxy.close_slowly();
    let mut stream = connect(&proxy);
    stream.write_all(b"x").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(stream.read(&mut buffer).unwrap(), 1);
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    proxy.pass();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap(), 0);
}

#[test]
fn cut_resets_what_is_open() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    proxy.cut();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(exchange(connect(&proxy), 10), (10, None));
}

#[test]
fn wrong_length_is_announced_before_the_true_body() {
    let proxy = echo();
    for (by, says, ends) in [(3, "13", true), (-4, "6", false)] {
        proxy.script([Fault::WrongLength { at_least: 10, by }]);
        let mut stream = connect(&proxy);
        for short in ["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789", "HTTP/1.1 204 X\r\n\r\n"] {
            let mut buffer = vec![0; short.len()];
            stream.write_all(short.as_bytes()).unwrap();
            stream.read_exact(&mut buffer).unwrap();
            assert_eq!(buffer, short.as_bytes());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX: y\r\n\r\n1234567890").unwrap();
        let wanted = format!("HTTP/1.1 200 OK\r\nContent-Length: {says}\r\nX: y\r\n\r\n1234567890");
        let mut buffer = vec![0; wanted.len()];
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(String::from_utf8(buffer).unwrap(), wanted);
        if ends {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    }
}

#[test]
fn urls_lead_through_the_proxy() {
    let (proxy, url) = FaultProxy::in_front_of("webdav://me:p%40ss@127.0.0.1:9/a/b").unwrap();
    assert_eq!(url, format!("webdav://me:p%40ss@127.0.0.1:{}/a/b", proxy.port()));
}
