//! One SFTP session: requests of many tasks at once over one connection, each
//! matched with its answer.
//!
//! A request is queued whole and at once, so a task that is dropped never leaves
//! half a packet on the line. Nothing here wakes up while nothing is asked. A
//! session ends once: when the connection breaks, or when no answer of any kind
//! arrives for as long as patience lasts; whatever waits then fails, and so does
//! whatever is asked later. The caller gets another session from
//! [`Connector`](super::connection::Connector).
//!
//! How much is asked at once is limited by the callers: transfers keep a window,
//! listings and deletions a few requests in flight.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::packet::{self, Attributes, Reply, Request};
use crate::{Error, ErrorKind, Result};

/// A session that is ready for requests.
pub(super) struct Session {
    queue: mpsc::UnboundedSender<Bytes>,
    shared: Arc<Shared>,
    /// How long nothing may arrive while something is asked.
    patience: Duration,
    /// What the server has added to the protocol.
    offers: Vec<String>,
    /// The same connection once more, to cut it.
    line: TcpStream,
    /// The connection ends when this is dropped.
    _connection: Box<dyn Send + Sync>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// Answers so far; that they go on coming is what shows life.
    answered: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    askers: HashMap<u32, oneshot::Sender<Reply>>,
    next_id: u32,
    /// Why the session has ended.
    ended: Option<(ErrorKind, String)>,
}

/// The channel and what keeps it alive.
pub(super) struct Line {
    pub(super) read: ChannelReadHalf,
    pub(super) write: ChannelWriteHalf<Msg>,
    pub(super) socket: TcpStream,
    pub(super) connection: Box<dyn Send + Sync>,
}

impl Session {
    /// Greets the server.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) when it does not answer;
    /// [`Setup`](ErrorKind::Setup) when what it answers is not SFTP.
    pub(super) async fn start(line: Line, patience: Duration) -> Result<Self> {
        let (queue, requests) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { waiting: Mutex::default(), answered: AtomicU64::new(0) });
        let (greeted, version) = oneshot::channel();
        shared.lock().askers.insert(0, greeted);
        shared.lock().next_id = 1;
        tokio::spawn(read_replies(line.read, shared.clone(), queue.downgrade()));
        tokio::spawn(send_requests(line.write, shared.clone(), requests));
        let mut session =
            Self { queue, shared, patience, offers: Vec::new(), line: line.socket, _connection: line.connection };
        // Fails only if the session has ended, which the answer then tells.
        let _ = session.queue.send(packet::greeting());
        match session.answer(version, patience).await? {
            Reply::Version(offers) => session.offers = offers,
            other => return Err(odd(&other)),
        }
        Ok(session)
    }

    /// Whether the server has added `name` to the protocol.
    pub(super) fn offers(&self, name: &str) -> bool {
        self.offers.iter().any(|offer| offer == name)
    }

    /// Whether requests can still be answered.
    pub(super) fn is_alive(&self) -> bool {
        self.shared.lock().ended.is_none()
    }

    /// How many answers have arrived: a number that grows is a sign of life.
    pub(super) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Ends the session; all who wait hear why.
    pub(super) fn end(&self, why: &str) {
        self.shared.end(ErrorKind::Transient, why);
        // Fails only when the connection is gone already.
        let _ = self.line.shutdown(Shutdown::Both);
    }

    /// Queues a request. What is queued later reaches the server later.
    pub(super) fn ask(self: &Arc<Self>, request: &Request) -> Question {
        let (asker, answer) = oneshot::channel();
        let mut waiting = self.shared.lock();
        if waiting.ended.is_none() {
            let id = waiting.next_id;
            // Zero is the greeting's.
            waiting.next_id = id.checked_add(1).unwrap_or(1);
            waiting.askers.insert(id, asker);
            // Queued under the lock, so that the order of identifiers is the order
            // on the line. Fails only when the session ends, which is told to all.
            let _ = self.queue.send(request.encode(id));
        }
        Question { session: self.clone(), answer, patience: self.patience }
    }

    async fn answer(&self, mut answer: oneshot::Receiver<Reply>, patience: Duration) -> Result<Reply> {
        for _ in 0..MOST_WAITS {
            let before = self.answered();
            match tokio::time::timeout(patience, &mut answer).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(_)) => return Err(self.shared.lock().why()),
                // Others get answers; ours is behind theirs.
                Err(_) if self.answered() != before => {}
                Err(_) => break,
            }
        }
        self.end(&format!("no answer for {}s", patience.as_secs_f32()));
        Err(self.shared.lock().why())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end("closed");
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, kind: ErrorKind, why: &str) {
        let mut waiting = self.lock();
        waiting.ended.get_or_insert_with(|| (kind, why.to_owned()));
        waiting.askers.clear();
    }
}

impl Waiting {
    fn why(&self) -> Error {
        let (kind, why) = self.ended.clone().unwrap_or((ErrorKind::Transient, "closed".to_owned()));
        Error::new(kind, format!("connection lost: {why}"))
    }
}

/// A request on its way.
pub(super) struct Question {
    session: Arc<Session>,
    answer: oneshot::Receiver<Reply>,
    patience: Duration,
}

impl Question {
    /// For what may take a server long without a word, as writing to its disk.
    pub(super) fn patient(mut self) -> Self {
        self.patience *= 10;
        self
    }

    /// What the server says.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) when the session ends first.
    pub(super) async fn reply(self) -> Result<Reply> {
        self.session.answer(self.answer, self.patience).await
    }

    /// The answer of what only succeeds or fails.
    pub(super) async fn status(self) -> Result<Status> {
        match self.reply().await? {
            Reply::Status(code, text) => Ok(Status { code, text }),
            other => Err(odd(&other)),
        }
    }

    /// What was opened, or why not.
    pub(super) async fn handle(self) -> Result<Result<Handle, Status>> {
        let session = self.session.clone();
        match self.reply().await? {
            Reply::Handle(raw) => Ok(Ok(Handle { session, raw })),
            Reply::Status(code, text) => Ok(Err(Status { code, text })),
            other => Err(odd(&other)),
        }
    }

    /// Facts of a file, or why there are none.
    pub(super) async fn attributes(self) -> Result<Result<Attributes, Status>> {
        match self.reply().await? {
            Reply::Attributes(attributes) => Ok(Ok(attributes)),
            Reply::Status(code, text) => Ok(Err(Status { code, text })),
            other => Err(odd(&other)),
        }
    }
}

/// How a request ended.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) code: u32,
    text: String,
}

impl Status {
    pub(super) fn new(code: u32, text: String) -> Self {
        Self { code, text }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.code == packet::OK
    }

    /// The error for a request that did `what`, in words that say what to do.
    pub(super) fn error(&self, what: &str) -> Error {
        let (kind, advice) = match self.code {
            packet::NO_SUCH_FILE => (ErrorKind::NotFound, "no such file"),
            packet::PERMISSION_DENIED => (ErrorKind::Setup, "permission denied; the user may not do that there"),
            packet::UNSUPPORTED => (ErrorKind::Setup, "the server cannot do that"),
            // The protocol knows no more: a full disk, a quota, a file where a
            // directory should be.
            packet::FAILURE => (ErrorKind::Transient, "the server failed and does not say why (disk full?)"),
            _ => (ErrorKind::Transient, "refused"),
        };
        let text = if self.text.is_empty() { "no words" } else { &self.text };
        Error::new(kind, format!("{what}: {advice}: \"{text}\" ({})", self.code))
    }

    pub(super) fn check(&self, what: &str) -> Result<()> {
        if self.is_ok() { Ok(()) } else { Err(self.error(what)) }
    }
}

/// An open file or directory. Closed when dropped.
pub(super) struct Handle {
    session: Arc<Session>,
    raw: Bytes,
}

impl Handle {
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Asks for something that starts with the handle.
    pub(super) fn ask(&self, kind: u8, rest: impl FnOnce(Request) -> Request) -> Question {
        self.session.ask(&rest(Request::new(kind).bytes(&self.raw)))
    }

    /// Asks the server to bring the file or directory to its disk.
    pub(super) fn sync(&self) -> Question {
        self.session.ask(&Request::extended(FSYNC).bytes(&self.raw)).patient()
    }

    /// Closes it; the answer tells whether the server kept what was written.
    pub(super) fn close(mut self) -> Question {
        let question = self.ask(packet::CLOSE, |request| request);
        self.raw.clear();
        question
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.raw.is_empty() {
            // Nobody waits for the answer.
            drop(self.ask(packet::CLOSE, |request| request));
        }
    }
}

async fn send_requests(line: ChannelWriteHalf<Msg>, shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Bytes>) {
    while let Some(first) = requests.recv().await {
        // Small requests that are queued together travel together.
        let mut batch = BytesMut::from(first);
        while batch.len() < BATCH {
            let Ok(next) = requests.try_recv() else { break };
            batch.extend_from_slice(&next);
        }
        if let Err(error) = line.data_bytes(batch.freeze()).await {
            return shared.end(ErrorKind::Transient, &error.to_string());
        }
    }
}

async fn read_replies(mut line: ChannelReadHalf, shared: Arc<Shared>, queue: mpsc::WeakUnboundedSender<Bytes>) {
    let mut buffer = BytesMut::new();
    loop {
        match line.wait().await {
            Some(ChannelMsg::Data { data }) => buffer.extend_from_slice(&data),
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => {
                return shared.end(ErrorKind::Transient, "the server hung up");
            }
            // To the request for the subsystem.
            Some(ChannelMsg::Failure) => {
                let why = "the server does not offer sftp to this user; enable its sftp subsystem";
                return shared.end(ErrorKind::Setup, why);
            }
            Some(_) => continue,
        }
        loop {
            let (id, reply) = match packet::take(&mut buffer) {
                Ok(Some(reply)) => reply,
                Ok(None) => break,
                Err(error) => return shared.end(error.kind(), &error.to_string()),
            };
            shared.answered.fetch_add(1, Ordering::Relaxed);
            let asker = shared.lock().askers.remove(&id);
            let unheard = match asker {
                Some(asker) => asker.send(reply).err(),
                None => None,
            };
            // Whoever opened this has been dropped; it must not stay open.
            if let (Some(Reply::Handle(raw)), Some(queue)) = (unheard, queue.upgrade()) {
                let mut waiting = shared.lock();
                let id = waiting.next_id;
                waiting.next_id = id.checked_add(1).unwrap_or(1);
                // As in `ask`; the answer finds nobody.
                let _ = queue.send(Request::new(packet::CLOSE).bytes(&raw).encode(id));
            }
        }
    }
}

fn odd(reply: &Reply) -> Error {
    let kind = match reply {
        Reply::Status(code, text) => return Status { code: *code, text: text.clone() }.error("refused"),
        Reply::Handle(_) => "a handle",
        Reply::Data(_) => "data",
        Reply::Names(_) => "names",
        Reply::Attributes(_) => "attributes",
        Reply::Version(_) => "a greeting",
    };
    Error::new(ErrorKind::Transient, format!("the server answers with {kind} where that makes no sense"))
}

pub(super) const FSYNC: &str = "fsync@openssh.com";
pub(super) const POSIX_RENAME: &str = "posix-rename@openssh.com";
pub(super) const HARDLINK: &str = "hardlink@openssh.com";

/// Requests that wait are sent together up to this many bytes.
const BATCH: usize = 128 << 10;
/// How often one request may find that only others were answered meanwhile.
const MOST_WAITS: u32 = 40;
