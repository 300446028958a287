//! Whoever may connect may still be broken: too much, too slow, too many.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::{LIMIT, World, ours, wait_until};

impl World {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("ls.sock")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Sends bytes and gives the status line of the answer, empty if there is none.
    fn send(&self, pieces: impl IntoIterator<Item = Vec<u8>>) -> String {
        let mut stream = self.connect();
        for piece in pieces {
            // The other side may have had enough.
            if stream.write_all(&piece).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        // As above: what was sent and not read resets the connection.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    }

    fn open_files(&self) -> usize {
        let pid = self.daemon.as_ref().unwrap().id();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    #[track_caller]
    fn still_answers(&self) {
        assert_eq!(self.ask("GET", "/list", "").status, 200);
    }
}

#[test]
fn requests_without_end_are_refused_and_forgotten() {
    let world = World::running(ours());
    let megabyte = || vec![b'x'; 1 << 20];
    let head = |more: &str| format!("POST /sync HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n").into_bytes();
    // A body that is announced to be long, and one that is not announced at all.
    let long = std::iter::once(head("Content-Length: 99999999\r\n")).chain((0..8).map(|_| megabyte()));
    assert_eq!(world.send(long), "HTTP/1.1 400 Bad Request");
    let chunk = || [b"100000\r\n".to_vec(), megabyte(), b"\r\n".to_vec()].concat();
    let endless = std::iter::once(head("Transfer-Encoding: chunked\r\n")).chain((0..8).map(|_| chunk()));
    assert_eq!(world.send(endless), "HTTP/1.1 400 Bad Request");
    world.still_answers();

    // Headers: many, long, and no end of the first line.
    let many = (0..2000).map(|number| format!("X-{number}: y\r\n").into_bytes());
    let many = std::iter::once(b"GET /list HTTP/1.1\r\nHost: x\r\n".to_vec()).chain(many).chain([b"\r\n".to_vec()]);
    let long = [b"GET /list HTTP/1.1\r\nX: ".to_vec()].into_iter().chain((0..4).map(|_| megabyte()));
    let path = [b"GET /".to_vec()].into_iter().chain((0..4).map(|_| megabyte()));
    for refused in [world.send(many), world.send(long), world.send(path)] {
        assert!(
            matches!(
                refused.as_str(),
                "" | "HTTP/1.1 431 Request Header Fields Too Large" | "HTTP/1.1 414 URI Too Long"
            ),
            "{refused}"
        );
    }
    let noise =
        (0..64).map(|seed: u8| (0..200).map(|n: u8| n.wrapping_mul(seed).wrapping_add(seed)).collect::<Vec<u8>>());
    let refused = world.send(noise);
    assert!(matches!(refused.as_str(), "" | "HTTP/1.1 400 Bad Request"), "{refused}");
    world.still_answers();
}

#[test]
fn who_is_slow_holds_up_nobody() {
    let world = World::running(ours());
    let mut slow = Vec::new();
    for number in 0..50 {
        let mut stream = world.connect();
        let begun: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /list HTTP/1.1\r\nHost",
            _ => b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        };
        stream.write_all(begun).unwrap();
        slow.push(stream);
    }
    world.still_answers();
}

#[test]
fn connections_beyond_the_limit_wait_and_cost_the_daemon_nothing() {
    let world = World::running(ours());
    let before = world.open_files();
    let waiting: Vec<UnixStream> = (0..150).map(|_| world.connect()).collect();
    wait_until("the daemon has taken what it takes", || world.open_files() >= before + 60);
    let most = world.open_files();
    assert!(most <= before + 70, "{before} files open, then {most}");
    drop(waiting);
    world.still_answers();
    wait_until("they are closed", || world.open_files() <= before + 3);
}
