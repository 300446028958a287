//! A proxy on loopback that writes down every HTTP request that passes.
//!
//! It stands between a client and a real server and changes no byte, so that
//! signatures, waiting for `100 Continue` and kept connections work as without
//! it. The client believes the recorder to be the server: the `Host` it sends and
//! signs is the recorder's. What a request says is for [`facts`](crate::facts) to
//! tell.
//!
//! HTTP/1 in clear, one request at a time on a connection; clients do not
//! pipeline.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// One request as it went over the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, …
    pub method: String,
    /// Path and query, exactly as sent.
    pub target: String,
    /// Names in lower case, in the order in which they were sent.
    pub headers: Vec<(String, String)>,
    /// The body without the framing of chunks.
    pub body: Vec<u8>,
    /// The status of the answer; 0 if none came.
    pub status: u16,
}

impl Request {
    /// The value of a header; the first, if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// A running recorder. Connections that are open when it is dropped go on until
/// one side closes them.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Recorder {
    /// A recorder without a server yet: connections are closed at once until
    /// [`forward_to`](Self::forward_to).
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if own.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = own.clone();
                thread::spawn(move || shared.carry(client));
            }
        });
        Ok(Self { address, shared })
    }

    /// A recorder for the server that `url` names, and the same URL through it:
    /// `http://127.0.0.1:80/x` → `http://127.0.0.1:<port>/x`. The URL must name
    /// its port.
    ///
    /// # Errors
    /// As [`start`](Self::start), and when the address means nothing.
    pub fn in_front_of(url: &str) -> Result<(Self, String)> {
        let (scheme, rest) = url.split_once("://").with_context(|| format!("{url} is no URL"))?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let recorder = Self::start()?;
        recorder.forward_to(host)?;
        let through = format!("{scheme}://{}{path}", recorder.address());
        Ok((recorder, through))
    }

    /// Where new connections lead from now on.
    ///
    /// # Errors
    /// When the address means nothing.
    pub fn forward_to(&self, server: impl ToSocketAddrs) -> Result<()> {
        self.shared.state().server = Some(server.to_socket_addrs()?.next().context("no address")?);
        Ok(())
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The requests since the last call, in the order in which they began. Those
    /// of a client that has ended are complete.
    pub fn take(&self) -> Vec<Request> {
        let mut state = self.shared.state();
        state.taken += state.requests.len();
        std::mem::take(&mut state.requests)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; fails only if that has ended.
        let _ = TcpStream::connect(self.address);
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    server: Option<SocketAddr>,
    requests: Vec<Request>,
    /// How many were handed out already; numbers of requests go on from there.
    taken: usize,
}

impl State {
    fn begin(&mut self, request: Request) -> usize {
        self.requests.push(request);
        self.taken + self.requests.len() - 1
    }

    /// A request by its number, unless it was handed out.
    fn request(&mut self, number: usize) -> Option<&mut Request> {
        self.requests.get_mut(number.checked_sub(self.taken)?)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries one connection until both sides have closed it. Whatever breaks is
    /// for client and server to notice.
    fn carry(self: Arc<Self>, client: TcpStream) {
        let Some(server) = self.state().server else { return };
        let Ok(server) = TcpStream::connect(server) else { return };
        // Heads and bodies are written apart; waiting for more costs 40 ms each, and
        // that is all that happens if it cannot be set.
        let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
        let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { return };
        let unanswered = Arc::new(Mutex::new(None));
        let mut answers = Answers { shared: self.clone(), unanswered: unanswered.clone(), begin: Vec::new() };
        let down = thread::spawn(move || pipe(from_server, to_client, |bytes| answers.read(bytes)));
        let mut requests = Requests { shared: self, unanswered, pending: Vec::new(), expected: Expected::Head };
        pipe(client, server, |bytes| requests.read(bytes));
        // A thread that panicked has said so.
        let _ = down.join();
    }
}

/// Copies one direction to its end. Every byte is shown before it is passed on,
/// so that an answer never overtakes what is known of its request.
fn pipe(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        let bytes = buffer.get(..count).unwrap_or_default();
        look(bytes);
        if bytes.is_empty() || to.write_all(bytes).is_err() {
            break;
        }
    }
    // Fails only when the other direction has ended it already.
    let _ = to.shutdown(Shutdown::Write);
}

/// Which request of a connection has no status yet.
type Unanswered = Arc<Mutex<Option<usize>>>;

/// Parts what a client sends into requests.
struct Requests {
    shared: Arc<Shared>,
    unanswered: Unanswered,
    pending: Vec<u8>,
    expected: Expected,
}

/// What comes next on a connection.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Head,
    /// So many bytes of a request's body.
    Body(usize, u64),
    /// The line with the length of a chunk.
    ChunkSize(usize),
    /// So many bytes of a chunk, the end of its line included.
    Chunk(usize, u64),
    /// Lines up to an empty one.
    Trailer,
}

impl Requests {
    fn read(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        while let Some(next) = self.step() {
            self.expected = next;
        }
    }

    /// Takes what is expected from the bytes that are there; `None` if they do
    /// not suffice.
    fn step(&mut self) -> Option<Expected> {
        match self.expected {
            Expected::Head => {
                let head = self.take_until(b"\r\n\r\n")?;
                let request = parse_head(&String::from_utf8_lossy(&head));
                let len = request.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
                let is_chunked = request.header("transfer-encoding").is_some();
                let number = self.shared.state().begin(request);
                *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = Some(number);
                Some(if is_chunked { Expected::ChunkSize(number) } else { Expected::Body(number, len) })
            }
            Expected::Body(_, 0) => Some(Expected::Head),
            Expected::Body(number, len) => Some(Expected::Body(number, len - self.take_body(number, len)?)),
            Expected::ChunkSize(number) => {
                let line = self.take_until(b"\r\n")?;
                let text = String::from_utf8_lossy(&line);
                let len = u64::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
                Some(if len == 0 { Expected::Trailer } else { Expected::Chunk(number, len) })
            }
            Expected::Chunk(number, 0) => self.take_until(b"\r\n").map(|_| Expected::ChunkSize(number)),
            Expected::Chunk(number, len) => Some(Expected::Chunk(number, len - self.take_body(number, len)?)),
            Expected::Trailer => {
                let line = self.take_until(b"\r\n")?;
                Some(if line.is_empty() { Expected::Head } else { Expected::Trailer })
            }
        }
    }

    fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let at = self.pending.windows(end.len()).position(|window| window == end)?;
        let rest = self.pending.split_off(at + end.len());
        let mut taken = std::mem::replace(&mut self.pending, rest);
        taken.truncate(at);
        Some(taken)
    }

    /// Moves up to `len` bytes to the body of a request; returns how many.
    fn take_body(&mut self, number: usize, len: u64) -> Option<u64> {
        let count = usize::try_from(len).unwrap_or(usize::MAX).min(self.pending.len());
        let taken: Vec<u8> = self.pending.drain(..count).collect();
        if let Some(request) = self.shared.state().request(number) {
            request.body.extend_from_slice(&taken);
        }
        (count > 0).then_some(count as u64)
    }
}

fn parse_head(head: &str) -> Request {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Request { method, target, headers, ..Request::default() }
}

/// Finds the status of each answer: the first line that the server sends after a
/// request has begun, interim answers aside.
struct Answers {
    shared: Arc<Shared>,
    unanswered: Unanswered,
    begin: Vec<u8>,
}

impl Answers {
    fn read(&mut self, bytes: &[u8]) {
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = *unanswered else { return };
        self.begin.extend_from_slice(bytes);
        loop {
            let text = String::from_utf8_lossy(&self.begin);
            let Some((line, _)) = text.split_once("\r\n") else { return };
            let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
            if (100..200).contains(&status) {
                let Some(end) = self.begin.windows(4).position(|window| window == b"\r\n\r\n") else { return };
                self.begin.drain(..end + 4);
                continue;
            }
            if let Some(request) = self.shared.state().request(number) {
                request.status = status;
            }
            self.begin.clear();
            *unanswered = None;
            return;
        }
    }
}
