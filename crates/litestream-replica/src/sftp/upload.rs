//! Uploads: under a temporary name first, brought to the server's disk, then one
//! step that makes the file visible.
//!
//! Requests go out without waiting for their answers, and what is not yet
//! answered is kept: when the connection breaks, the upload goes on over the next
//! one where it stopped, so that a body that can be read only once survives. A
//! server that has restarted meanwhile may have lost what it had answered for;
//! a file that came over more than one connection is therefore read back and
//! compared before it gets its name.
//!
//! Spec: backends §7; store-and-restore §2, §3.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::download;
use super::packet::{self, Request};
use super::session::{FSYNC, HARDLINK, Handle, POSIX_RENAME, Question, Session};
use super::tree::{make_directories, stat};
use crate::parts::{Piece, Source, holds_same, total};
use crate::{Error, ErrorKind, Result, WriteMode};

/// One file on its way.
pub(super) struct Upload {
    /// With its final slash.
    pub(super) directory: String,
    pub(super) path: String,
    pub(super) temporary: String,
    pub(super) source: Source,
    /// Seconds since the epoch.
    pub(super) modified: u32,
    pub(super) mode: WriteMode,
    /// Requests in flight.
    pub(super) window: usize,
    pub(super) progress: Progress,
}

/// How far it has come; survives connections.
#[derive(Default)]
pub(super) struct Progress {
    stage: Stage,
    handle: Option<Handle>,
    /// Sent, not yet answered.
    sent: VecDeque<Sent>,
    /// Read from the source, not yet sent.
    rest: Bytes,
    /// Where `rest` goes.
    offset: u64,
    source_ended: bool,
    pieces: Vec<Piece>,
    /// Bytes that came over an earlier connection.
    carried_over: bool,
    /// Whether a temporary file may exist.
    pub(super) begun: bool,
    /// Answers to writes, to see whether an attempt came further.
    pub(super) answered: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Sending,
    /// Complete and on the server's disk, under its temporary name.
    Staged,
    /// Under its final name.
    Published,
}

struct Sent {
    offset: u64,
    data: Bytes,
    question: Question,
}

/// How an attempt ended that need not be repeated.
pub(super) enum Outcome {
    /// Stored, with this size.
    Stored(u64),
    /// Failed for good.
    Failed(Error),
}

impl Upload {
    /// Goes on over `session`, as far as it carries.
    ///
    /// # Errors
    /// What may pass over another session.
    pub(super) async fn attempt(&mut self, session: &Arc<Session>) -> Result<Outcome> {
        if self.progress.stage == Stage::Sending {
            if self.mode == WriteMode::CreateOnly && !self.progress.begun && stat(session, &self.path).await?.is_some()
            {
                if let Err(error) = self.read_to_the_end().await {
                    return Ok(Outcome::Failed(error));
                }
                return self.settle(session).await;
            }
            self.resume(session).await?;
            if let Err(error) = self.send().await? {
                return Ok(Outcome::Failed(error));
            }
            self.finish().await?;
            if self.progress.carried_over && !self.is_whole(session).await? {
                let what = self.what();
                let message = format!("{what}: the server has lost part of what it had received");
                return Ok(Outcome::Failed(Error::new(ErrorKind::Transient, message)));
            }
            self.progress.stage = Stage::Staged;
        }
        if self.progress.stage == Stage::Staged {
            match self.publish(session).await? {
                Published::Done => {}
                Published::Taken => return self.settle(session).await,
            }
            self.progress.stage = Stage::Published;
        }
        self.sync_directory(session).await?;
        Ok(Outcome::Stored(self.size()))
    }

    fn what(&self) -> String {
        format!("sftp: store {}", self.path)
    }

    fn size(&self) -> u64 {
        total(&self.progress.pieces)
    }

    /// Opens the temporary file, unless it is open, and repeats what an earlier
    /// connection left unanswered.
    async fn resume(&mut self, session: &Arc<Session>) -> Result<()> {
        if self.progress.handle.as_ref().is_some_and(|handle| Arc::ptr_eq(handle.session(), session)) {
            return Ok(());
        }
        let what = self.what();
        let open =
            Request::new(packet::OPEN).text(&self.temporary).number(packet::OPEN_WRITE | packet::OPEN_CREATE).number(0);
        self.progress.begun = true;
        let mut opened = session.ask(&open).handle().await.map_err(|e| e.context(&what))?;
        if opened.as_ref().is_err_and(|status| status.code == packet::NO_SUCH_FILE) {
            make_directories(session, &self.directory).await?;
            opened = session.ask(&open).handle().await.map_err(|e| e.context(&what))?;
        }
        let handle = opened.map_err(|status| match status.error(&what) {
            // Not to be taken for an object that is absent.
            error if error.kind() == ErrorKind::NotFound => Error::new(ErrorKind::Transient, error.to_string()),
            error => error,
        })?;
        for sent in &mut self.progress.sent {
            sent.question = write(&handle, sent.offset, &sent.data);
        }
        self.progress.handle = Some(handle);
        Ok(())
    }

    /// Sends the body. The inner error is the source's, which cannot be repeated.
    async fn send(&mut self) -> Result<Result<()>> {
        let what = self.what();
        let Upload { source, window, progress, .. } = self;
        let Some(handle) = &progress.handle else { return Ok(Ok(())) };
        loop {
            while progress.sent.len() < *window {
                if progress.rest.is_empty() {
                    if progress.source_ended {
                        break;
                    }
                    match source.next(PIECE).await {
                        Err(error) => return Ok(Err(error)),
                        Ok(data) if data.is_empty() => {
                            progress.source_ended = true;
                            break;
                        }
                        Ok(data) => {
                            progress.pieces.push(Piece::of(&data));
                            progress.rest = data;
                        }
                    }
                }
                let data = progress.rest.split_to(progress.rest.len().min(WRITE_LEN));
                let (offset, len) = (progress.offset, data.len() as u64);
                let question = write(handle, offset, &data);
                progress.sent.push_back(Sent { offset, data, question });
                progress.offset += len;
            }
            let Some(Sent { offset, data, question }) = progress.sent.pop_front() else { return Ok(Ok(())) };
            let answer = question.status().await.and_then(|status| status.check("write"));
            if let Err(error) = answer {
                // Kept, to be sent again; asking twice for the same does no harm.
                let question = write(handle, offset, &data);
                progress.sent.push_front(Sent { offset, data, question });
                progress.carried_over |= progress.answered > 0;
                return Err(error.context(what));
            }
            progress.answered += 1;
        }
    }

    /// Gives the file its time, brings it to the disk, looks at its size, closes it.
    async fn finish(&mut self) -> Result<()> {
        let what = self.what();
        let Some(handle) = self.progress.handle.take() else { return Ok(()) };
        let session = handle.session().clone();
        // If the connection breaks from here on, all of it was received, and how
        // much of that is on the disk is not known.
        self.progress.carried_over |= self.progress.answered > 0;
        let times = handle.ask(packet::FSETSTAT, |request| request.times(self.modified));
        let synced = session.offers(FSYNC).then(|| handle.sync());
        let facts = handle.ask(packet::FSTAT, |request| request);
        let closed = handle.close();
        let by_handle = times.status().await.map_err(|e| e.context(&what))?;
        if let Some(synced) = synced {
            synced.status().await?.check(&format!("{what}: write to disk"))?;
        }
        let size = facts.attributes().await?.ok().and_then(|facts| facts.size);
        closed.status().await?.check(&format!("{what}: close"))?;
        if !by_handle.is_ok() {
            let set = Request::new(packet::SETSTAT).text(&self.temporary).times(self.modified);
            session.ask(&set).status().await?.check(&format!("{what}: set its time"))?;
        }
        if size.is_some_and(|size| size != self.size()) {
            let kept = size.unwrap_or_default();
            let message = format!("{what}: the server kept {kept} of {} bytes", self.size());
            return Err(Error::new(ErrorKind::Transient, message));
        }
        Ok(())
    }

    /// Whether the temporary file is what was sent.
    async fn is_whole(&mut self, session: &Arc<Session>) -> Result<bool> {
        match download::read(session, &self.temporary, 0, 0).await {
            Ok(stored) => holds_same(stored, &self.progress.pieces).await,
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn publish(&mut self, session: &Arc<Session>) -> Result<Published> {
        let what = self.what();
        let (from, to) = (self.temporary.as_str(), self.path.as_str());
        let pair = |request: Request| session.ask(&request.text(from).text(to));
        let taken = || async { Ok::<_, Error>(stat(session, to).await?.is_some()) };
        if self.mode == WriteMode::CreateOnly {
            // A second name fails where the name exists, on every server that can
            // give one. What a plain rename does there is the server's choice.
            if session.offers(HARDLINK) && pair(Request::extended(HARDLINK)).status().await?.is_ok() {
                let removed = session.ask(&Request::new(packet::REMOVE).text(from)).status().await?;
                return removed.check(&format!("{what}: remove its temporary name")).map(|()| Published::Done);
            }
            if taken().await? {
                return Ok(Published::Taken);
            }
        } else if session.offers(POSIX_RENAME) {
            let renamed = pair(Request::extended(POSIX_RENAME)).status().await?;
            if renamed.is_ok() {
                return Ok(Published::Done);
            }
        }
        let renamed = pair(Request::new(packet::RENAME)).status().await?;
        if renamed.is_ok() {
            return Ok(Published::Done);
        }
        if !taken().await? {
            return Err(match renamed.error(&format!("{what}: rename")) {
                error if error.kind() == ErrorKind::NotFound => Error::new(ErrorKind::Transient, error.to_string()),
                error => error,
            });
        }
        if self.mode == WriteMode::CreateOnly || stat(session, from).await?.is_none() {
            return Ok(Published::Taken);
        }
        // For a moment neither is there; this server leaves no choice.
        session.ask(&Request::new(packet::REMOVE).text(to)).status().await?.check(&format!("{what}: replace"))?;
        pair(Request::new(packet::RENAME)).status().await?.check(&format!("{what}: rename"))?;
        Ok(Published::Done)
    }

    /// The name is taken, perhaps by an earlier attempt of this very upload whose
    /// answer was lost: success if it holds the same bytes.
    async fn settle(&mut self, session: &Arc<Session>) -> Result<Outcome> {
        let same = match download::read(session, &self.path, 0, 0).await {
            Ok(stored) => holds_same(stored, &self.progress.pieces).await?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message = format!("{}: it has vanished meanwhile", self.what());
                return Err(Error::new(ErrorKind::Transient, message));
            }
            Err(error) => return Err(error),
        };
        if same {
            if self.progress.begun {
                // It may be the other name of this very file. One that is gone, or
                // stays, does no harm.
                session.ask(&Request::new(packet::REMOVE).text(&self.temporary)).status().await?;
            }
            // Its writer may have failed before it was durable.
            self.sync_directory(session).await?;
            return Ok(Outcome::Stored(self.size()));
        }
        let kind = if self.mode == WriteMode::CreateOnly { ErrorKind::Conflict } else { ErrorKind::Transient };
        let message = format!("{}: another file of this name exists", self.what());
        Ok(Outcome::Failed(Error::new(kind, message)))
    }

    async fn read_to_the_end(&mut self) -> Result<()> {
        while !self.progress.source_ended {
            let data = self.source.next(PIECE).await?;
            self.progress.source_ended = data.is_empty();
            if !data.is_empty() {
                self.progress.pieces.push(Piece::of(&data));
            }
        }
        Ok(())
    }

    /// Brings the new name to the server's disk, where that is possible: not every
    /// server opens directories, and those that do not need not be asked again.
    async fn sync_directory(&mut self, session: &Arc<Session>) -> Result<()> {
        if !session.offers(FSYNC) {
            return Ok(());
        }
        let directory = self.directory.trim_end_matches('/');
        let open = Request::new(packet::OPEN).text(directory).number(packet::OPEN_READ).number(0);
        if let Ok(handle) = session.ask(&open).handle().await? {
            // A refusal says that this server cannot, not that the file is lost.
            handle.sync().status().await?;
        }
        Ok(())
    }
}

enum Published {
    Done,
    /// There is something under the name that may or may not be ours.
    Taken,
}

fn write(handle: &Handle, offset: u64, data: &[u8]) -> Question {
    handle.ask(packet::WRITE, |request| request.offset(offset).bytes(data))
}

/// Bytes per request: what every server can take at once.
const WRITE_LEN: usize = 32 << 10;
/// Bytes taken from the source at once.
const PIECE: u64 = 1 << 20;
