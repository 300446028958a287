//! A TCP proxy on loopback that breaks connections when it is told to.
//!
//! It stands between a client and a real server, knows nothing of what they
//! speak (but for [`Fault::WrongLength`]), and carries TLS as well. Faults are
//! set while it runs, in the order in which they shall happen; each happens once,
//! to the first connection that has carried enough bytes *since the fault came to
//! the front*, so that connections which a client keeps open are no obstacle.
//! Nothing here waits for time to pass: what stalls goes on when it is released.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

/// One thing that goes wrong, once. *Up* is from client to server. Bytes count
/// per connection, from the moment the fault is the first in the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both sides are reset when so many bytes have gone up.
    ResetUp(u64),
    /// Both sides are reset when so many bytes have come down.
    ResetDown(u64),
    /// Both sides are reset when so many bytes have gone up and the server begins
    /// to answer: it has acted, and nobody knows.
    LoseReply(u64),
    /// No more bytes go up after so many, until [`FaultProxy::release`].
    StallUp(u64),
    /// No more bytes come down after so many, until [`FaultProxy::release`].
    StallDown(u64),
    /// The connection ends in good order, but too soon: after so many bytes down.
    Truncate(u64),
    /// The next HTTP answer of at least `at_least` bytes announces `by` bytes more
    /// (or fewer) than it has. The connection ends after a body that is shorter
    /// than announced.
    WrongLength {
        /// Shorter answers are left alone.
        at_least: u64,
        /// Added to `Content-Length`.
        by: i64,
    },
}

/// Bytes that one connection has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From client to server.
    pub up: u64,
    /// From server to client.
    pub down: u64,
}

/// A running proxy. Its connections end when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    doors: mpsc::UnboundedSender<(Door, std::sync::mpsc::Sender<()>)>,
}

impl FaultProxy {
    /// A proxy for the server at `target`, which need not be there yet. Passes
    /// everything on until it is told otherwise.
    ///
    /// # Errors
    /// When the address means nothing or no port can be had.
    pub fn start(target: impl ToSocketAddrs) -> Result<Self> {
        let target = target.to_socket_addrs()?.next().context("no address")?;
        let shared =
            Arc::new(Shared { state: Mutex::default(), fired: Condvar::new(), gate: watch::Sender::default() });
        let (doors, orders) = mpsc::unbounded_channel();
        let (started, port) = std::sync::mpsc::channel();
        let own = shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                match Entrance::new() {
                    Ok(entrance) => {
                        // Whoever started us waits for this and nothing else.
                        let _ = started.send(Ok(entrance.port));
                        serve(entrance, target, orders, own).await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        });
        Ok(Self { port: port.recv()??, shared, doors })
    }

    /// A proxy in front of the server that `url` names, and the same URL through
    /// the proxy: `http://127.0.0.1:80/x` → `http://127.0.0.1:<port>/x`. The URL
    /// must name its port.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn in_front_of(url: &str) -> Result<(Self, String)> {
        let (scheme, rest) = url.split_once("://").with_context(|| format!("{url} is no URL"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let proxy = Self::start(host)?;
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let through = format!("{scheme}://{user}{}{path}", proxy.address());
        Ok((proxy, through))
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Adds faults to the script.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.shared.state();
        let was_empty = state.script.is_empty();
        state.script.extend(faults);
        if was_empty {
            // What was carried before does not count.
            state.front += 1;
        }
    }

    /// How many faults of the script have happened.
    pub fn fired(&self) -> usize {
        self.shared.state().fired
    }

    /// Blocks until so many faults have happened in all.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_until_fired(&self, count: usize, limit: Duration) -> Result<()> {
        let start = Instant::now();
        let mut state = self.shared.state();
        while state.fired < count {
            let Some(rest) = limit.checked_sub(start.elapsed()) else {
                bail!("{} of {count} faults happened within {limit:?}; to come: {:?}", state.fired, state.script);
            };
            state = self.shared.fired.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// What each connection has carried so far, in the order in which they came.
    pub fn traffic(&self) -> Vec<Traffic> {
        self.shared.state().traffic.clone()
    }

    /// Lets all that has stalled go on.
    pub fn release(&self) {
        self.shared.gate.send_modify(|gate| gate.releases += 1);
    }

    /// Resets every connection that is open now.
    pub fn cut(&self) {
        self.shared.gate.send_modify(|gate| gate.cuts += 1);
    }

    /// New connections are refused, as if no server ran; open ones stay.
    pub fn refuse(&self) {
        self.set_door(Door::Shut);
    }

    /// A black hole: connections are accepted, and no byte passes on any, in no
    /// direction, until [`pass`](Self::pass).
    pub fn swallow(&self) {
        self.shared.gate.send_modify(|gate| gate.swallows = true);
    }

    /// Connections end late: when one side closes, the other hears of it only
    /// after [`pass`](Self::pass).
    pub fn close_slowly(&self) {
        self.shared.gate.send_modify(|gate| gate.closes_slowly = true);
    }

    /// Ends [`refuse`](Self::refuse), [`swallow`](Self::swallow) and
    /// [`close_slowly`](Self::close_slowly): what was held back goes on.
    pub fn pass(&self) {
        self.set_door(Door::Open);
        self.shared.gate.send_modify(|gate| {
            gate.swallows = false;
            gate.closes_slowly = false;
        });
    }

    fn set_door(&self, door: Door) {
        let (done, wait) = std::sync::mpsc::channel();
        // Both fail only when the thread is gone, and with it the listener.
        let _ = self.doors.send((door, done));
        let _ = wait.recv();
    }
}

#[derive(Clone, Copy, Debug)]
enum Door {
    Open,
    Shut,
}

/// The port, whether or not anybody listens on it.
struct Entrance {
    port: u16,
    /// Bound and never listening: keeps the port ours while connections to it are
    /// refused.
    _reserved: TcpSocket,
    listener: Option<TcpListener>,
}

impl Entrance {
    fn new() -> Result<Self> {
        let reserved = Self::socket(0)?;
        let port = reserved.local_addr()?.port();
        let listener = Some(Self::socket(port)?.listen(128)?);
        Ok(Self { port, _reserved: reserved, listener })
    }

    fn socket(port: u16) -> std::io::Result<TcpSocket> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
        Ok(socket)
    }

    fn set(&mut self, door: Door) {
        self.listener = match (door, self.listener.take()) {
            (Door::Shut, _) => None,
            (Door::Open, Some(listener)) => Some(listener),
            (Door::Open, None) => Self::socket(self.port).and_then(|socket| socket.listen(128)).ok(),
        };
    }

    async fn accept(&self) -> Option<TcpStream> {
        match &self.listener {
            Some(listener) => listener.accept().await.ok().map(|(stream, _)| stream),
            None => std::future::pending().await,
        }
    }
}

async fn serve(
    mut entrance: Entrance,
    target: SocketAddr,
    mut orders: mpsc::UnboundedReceiver<(Door, std::sync::mpsc::Sender<()>)>,
    shared: Arc<Shared>,
) {
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some((door, done)) = order else { return };
                entrance.set(door);
                // Nobody waits any more if the test has failed meanwhile.
                let _ = done.send(());
            }
            client = entrance.accept() => {
                if let Some(client) = client {
                    tokio::spawn(Connection::new(shared.clone()).carry(client, target));
                }
            }
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    fired: Condvar,
    gate: watch::Sender<Gate>,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Fault>,
    /// Grows whenever another fault becomes the first of the script.
    front: u64,
    fired: usize,
    traffic: Vec<Traffic>,
}

/// What connections wait for.
#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    releases: u64,
    cuts: u64,
    swallows: bool,
    closes_slowly: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for(&self, wanted: impl FnMut(&Gate) -> bool) {
        // The sender is in `self`, so it cannot be gone.
        let _ = self.gate.subscribe().wait_for(wanted).await;
    }
}

struct Connection {
    shared: Arc<Shared>,
    number: usize,
    /// What has been carried since `front`.
    since: Mutex<(u64, Traffic)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// How a connection is ended before either side wants it.
enum End {
    Reset,
    Close,
}

/// What follows some bytes.
enum Next {
    Go,
    Stall,
    End(End),
}

impl Connection {
    fn new(shared: Arc<Shared>) -> Self {
        let number = {
            let mut state = shared.state();
            state.traffic.push(Traffic::default());
            state.traffic.len() - 1
        };
        Self { shared, number, since: Mutex::default() }
    }

    async fn carry(self, mut client: TcpStream, target: SocketAddr) {
        let cuts = self.shared.gate.borrow().cuts;
        self.shared.wait_for(|gate| !gate.swallows || gate.cuts > cuts).await;
        let Ok(mut server) = TcpStream::connect(target).await else {
            reset(&client);
            return;
        };
        let end = {
            let (client_reads, client_writes) = client.split();
            let (server_reads, server_writes) = server.split();
            let both = async {
                tokio::try_join!(
                    self.pump(Direction::Up, client_reads, server_writes),
                    self.pump(Direction::Down, server_reads, client_writes)
                )
            };
            tokio::select! {
                end = both => end.err(),
                () = self.shared.wait_for(|gate| gate.cuts > cuts) => Some(End::Reset),
            }
        };
        if let Some(End::Reset) = end {
            reset(&client);
            reset(&server);
        }
    }

    async fn pump(
        &self,
        direction: Direction,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Result<(), End> {
        let mut buffer = vec![0; 64 << 10];
        // After an answer that announced too much: how much of it there is.
        let mut left: Option<u64> = None;
        loop {
            let read = from.read(&mut buffer).await.map_err(|_| End::Reset)?;
            self.shared.wait_for(|gate| !gate.swallows).await;
            if read == 0 {
                self.shared.wait_for(|gate| !gate.closes_slowly).await;
                // The other side may have gone first.
                let _ = to.shutdown().await;
                return Ok(());
            }
            let mut rest = buffer.get(..read).unwrap_or_default().to_vec();
            if direction == Direction::Down
                && let Some((told, len)) = self.wrong_length(&rest)
            {
                left = len;
                rest = told;
            }
            while !rest.is_empty() {
                let (allowed, next) = self.judge(direction, rest.len());
                let now: Vec<u8> = rest.drain(..allowed).collect();
                // Whoever has read the bytes must find them counted.
                self.count(direction, now.len());
                to.write_all(&now).await.map_err(|_| End::Reset)?;
                match next {
                    Next::Go => {}
                    Next::Stall => {
                        let releases = self.shared.gate.borrow().releases;
                        self.fire();
                        self.shared.wait_for(|gate| gate.releases > releases).await;
                    }
                    Next::End(end) => {
                        self.fire();
                        return Err(end);
                    }
                }
                if let Some(len) = &mut left {
                    *len = len.saturating_sub(now.len() as u64);
                    if *len == 0 {
                        return Err(End::Close);
                    }
                }
            }
        }
    }

    /// How many of the next `len` bytes may pass, and what comes then.
    fn judge(&self, direction: Direction, len: usize) -> (usize, Next) {
        use Direction::{Down, Up};
        let mut state = self.shared.state();
        let carried = self.since(state.front);
        let Some(fault) = state.script.front() else { return (len, Next::Go) };
        let (watched, limit, next) = match *fault {
            Fault::ResetUp(limit) => (Up, limit, Next::End(End::Reset)),
            Fault::StallUp(limit) => (Up, limit, Next::Stall),
            Fault::ResetDown(limit) => (Down, limit, Next::End(End::Reset)),
            Fault::StallDown(limit) => (Down, limit, Next::Stall),
            Fault::Truncate(limit) => (Down, limit, Next::End(End::Close)),
            Fault::LoseReply(up) if carried.up >= up => (Down, 0, Next::End(End::Reset)),
            Fault::LoseReply(_) | Fault::WrongLength { .. } => return (len, Next::Go),
        };
        let so_far = if watched == Up { carried.up } else { carried.down };
        if direction != watched || so_far.saturating_add(len as u64) < limit {
            return (len, Next::Go);
        }
        state.script.pop_front();
        state.front += 1;
        (usize::try_from(limit.saturating_sub(so_far)).unwrap_or(len).min(len), next)
    }

    /// Tells those who wait that a fault has happened.
    fn fire(&self) {
        self.shared.state().fired += 1;
        self.shared.fired.notify_all();
    }

    /// The answer in `chunk` with a length that is not true, and how many bytes it
    /// has with its head, if it has fewer than it says now.
    fn wrong_length(&self, chunk: &[u8]) -> Option<(Vec<u8>, Option<u64>)> {
        let by = {
            let mut state = self.shared.state();
            let Some(&Fault::WrongLength { at_least, by }) = state.script.front() else { return None };
            let len = content_length(chunk)?.1;
            if len < at_least {
                return None;
            }
            state.script.pop_front();
            state.front += 1;
            by
        };
        let (digits, len) = content_length(chunk)?;
        let mut told = chunk.to_vec();
        let wrong = len.saturating_add_signed(by).to_string();
        told.splice(digits, wrong.into_bytes());
        let head = told.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
        self.fire();
        Some((told, (by > 0).then_some(head as u64 + len)))
    }

    /// What has been carried since the fault in front became the first.
    fn since(&self, front: u64) -> Traffic {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.0 != front {
            *since = (front, Traffic::default());
        }
        since.1
    }

    fn count(&self, direction: Direction, len: usize) {
        let mut state = self.shared.state();
        let add = |traffic: &mut Traffic| match direction {
            Direction::Up => traffic.up += len as u64,
            Direction::Down => traffic.down += len as u64,
        };
        add(&mut self.since.lock().unwrap_or_else(PoisonError::into_inner).1);
        if let Some(traffic) = state.traffic.get_mut(self.number) {
            add(traffic);
        }
    }
}

/// Where an HTTP answer says how long it is, and what it says.
fn content_length(chunk: &[u8]) -> Option<(std::ops::Range<usize>, u64)> {
    if !chunk.starts_with(b"HTTP/1.") {
        return None;
    }
    let head_len = chunk.windows(4).position(|end| end == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(chunk.get(..head_len)?).to_ascii_lowercase();
    let name = "\r\ncontent-length:";
    let start = head.find(name)? + name.len();
    let value = head.get(start..)?.lines().next()?;
    let start = start + value.len() - value.trim_start().len();
    let value = value.trim();
    Some((start..start + value.len(), value.parse().ok()?))
}

/// The next close sends a reset and drops what the other side has not read yet.
fn reset(stream: &TcpStream) {
    // Fails only when the connection is gone already.
    let _ = stream.set_zero_linger();
}
