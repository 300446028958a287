//! Bodies: what is sent, in pieces that show progress, and what arrives.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::{ByteStream, Error, ErrorKind, Result};

/// Counts pieces handed to the connection, which takes the next one only when
/// the last is on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What to send: a number of bytes that is known, so that every request has a
/// `Content-Length`; several stores refuse or lose chunked bodies.
pub(crate) enum Outgoing {
    /// Bytes in memory.
    Bytes(Bytes),
    /// So many bytes, read from somewhere while they are sent.
    #[cfg_attr(not(feature = "webdav"), allow(dead_code, reason = "the other stores take large files in parts"))]
    Stream(u64, ByteStream),
}

impl From<Bytes> for Outgoing {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// An [`Outgoing`] on its way.
pub(crate) struct Payload {
    rest: Outgoing,
    progress: Progress,
}

impl Payload {
    pub(super) fn new(body: Outgoing, progress: Progress) -> Self {
        Self { rest: body, progress }
    }

    fn rest_len(&self) -> u64 {
        match &self.rest {
            Outgoing::Bytes(rest) => rest.len() as u64,
            Outgoing::Stream(len, _) => *len,
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        if self.rest_len() == 0 {
            return Poll::Ready(None);
        }
        let piece = match &mut self.rest {
            Outgoing::Bytes(rest) => rest.split_to(rest.len().min(PIECE_LEN)),
            Outgoing::Stream(len, stream) => match ready!(stream.as_mut().poll_next(cx)) {
                Some(Ok(piece)) if piece.len() as u64 <= *len => {
                    *len -= piece.len() as u64;
                    piece
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // More or less than was announced must not reach the store.
                Some(Ok(_)) | None => {
                    let error = Error::new(ErrorKind::Transient, "the body is not as long as announced");
                    return Poll::Ready(Some(Err(error)));
                }
            },
        };
        self.progress.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest_len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest_len())
    }
}

/// An answer's body, with a limit on the wait for each piece. The wait counts
/// only while somebody asks for the piece.
pub(crate) struct ResponseBody {
    inner: Incoming,
    idle_timeout: Duration,
}

impl ResponseBody {
    pub(super) fn new(inner: Incoming, idle_timeout: Duration) -> Self {
        Self { inner, idle_timeout }
    }

    /// The next piece; `None` at the end that the server announced.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = match tokio::time::timeout(self.idle_timeout, self.inner.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    let seconds = self.idle_timeout.as_secs();
                    return Err(Error::new(ErrorKind::Transient, format!("no data for {seconds}s")));
                }
            };
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
                Some(Err(error)) => {
                    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                    let message = format!("connection lost: {error}{}", cause.unwrap_or_default());
                    return Err(Error::new(ErrorKind::Transient, message));
                }
            }
        }
    }

    /// All of it, up to `limit` bytes; more is an error.
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(data) = self.next().await? {
            if all.len() + data.len() > limit {
                return Err(Error::new(ErrorKind::Transient, format!("answer is longer than {limit} bytes")));
            }
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    }

    /// Bytes `skip .. skip + take` as they arrive. Dropping it closes the connection.
    pub(crate) fn into_stream(self, skip: u64, take: u64) -> impl Stream<Item = Result<Bytes>> + Send {
        stream::try_unfold((self, skip, take), |(mut body, mut skip, mut take)| async move {
            while take > 0 {
                let Some(mut data) = body.next().await? else { break };
                let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(data.len());
                drop(data.split_to(skipped));
                skip -= skipped as u64;
                data.truncate(usize::try_from(take).unwrap_or(usize::MAX));
                if !data.is_empty() {
                    take -= data.len() as u64;
                    return Ok(Some((data, (body, skip, take))));
                }
            }
            Ok(None)
        })
    }
}

/// Bytes per piece of an upload: small enough to show progress on a slow line.
const PIECE_LEN: usize = 64 << 10;
