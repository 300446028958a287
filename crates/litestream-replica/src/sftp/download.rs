//! Reads: many requests in flight, so that a distant server costs its bandwidth
//! and not its distance.
//!
//! The window starts small and doubles with each answer, so a reader of a hundred
//! bytes does not ask for megabytes. What has arrived and is not taken waits here,
//! never on the line, where it would hold up others.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;

use super::packet::{self, Reply, Request};
use super::session::{Handle, Question, Session};
use crate::{ByteStream, Error, ErrorKind, Result};

/// Opens `path` and streams `len` bytes from `offset`; `len == 0` means to the
/// end.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when there is no such file.
pub(super) async fn read(session: &Arc<Session>, path: &str, offset: u64, len: u64) -> Result<ByteStream> {
    let what = format!("sftp: read {path}");
    let open = Request::new(packet::OPEN).text(path).number(packet::OPEN_READ).number(0);
    let opened = session.ask(&open).handle().await.map_err(|e| e.context(&what))?;
    let handle = opened.map_err(|status| status.error(&what))?;
    let end = if len == 0 { u64::MAX } else { offset.saturating_add(len) };
    let download = Download { handle, what, next: offset, end, window: 2, asked: VecDeque::new() };
    Ok(Box::pin(stream::try_unfold(download, |mut download| async move {
        Ok(download.next().await?.map(|data| (data, download)))
    })))
}

struct Download {
    handle: Handle,
    what: String,
    /// Where the next request starts.
    next: u64,
    /// Where the last one ends at most.
    end: u64,
    window: usize,
    asked: VecDeque<Asked>,
}

/// A stretch that the server was asked for.
struct Asked {
    offset: u64,
    len: u32,
    question: Question,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            while self.asked.len() < self.window && self.next < self.end {
                let len = READ_LEN.min(u32::try_from(self.end - self.next).unwrap_or(READ_LEN));
                let asked = self.ask(self.next, len);
                self.asked.push_back(asked);
                self.next += u64::from(len);
            }
            let Some(Asked { offset, len, question }) = self.asked.pop_front() else { return Ok(None) };
            let reply = question.reply().await.map_err(|e| e.context(&self.what))?;
            match reply {
                Reply::Data(data) => {
                    let got = u32::try_from(data.len()).unwrap_or(u32::MAX);
                    if got > len || got == 0 {
                        let message = format!("{}: the server sends {got} of {len} bytes", self.what);
                        return Err(Error::new(ErrorKind::Transient, message));
                    }
                    if got < len {
                        // Servers may send less; the rest comes before what follows.
                        let rest = self.ask(offset + u64::from(got), len - got);
                        self.asked.push_front(rest);
                    }
                    self.window = (self.window * 2).min(WINDOW);
                    return Ok(Some(data));
                }
                Reply::Status(packet::END, _) => {
                    // Whatever was asked beyond is beyond the end as well.
                    self.asked.clear();
                    self.next = self.end;
                }
                Reply::Status(code, text) => {
                    return Err(super::session::Status::new(code, text).error(&self.what));
                }
                _ => return Err(Error::new(ErrorKind::Transient, format!("{}: odd answer", self.what))),
            }
        }
    }

    fn ask(&self, offset: u64, len: u32) -> Asked {
        let question = self.handle.ask(packet::READ, |request| request.offset(offset).number(len));
        Asked { offset, len, question }
    }
}

/// Bytes per request: what every server can send at once.
const READ_LEN: u32 = 32 << 10;
/// Requests in flight per file.
const WINDOW: usize = 64;
