//! Bodies: what is sent, in pieces that show progress, and what arrives.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::{Error, ErrorKind, Result};

/// Counts pieces handed to the connection, which takes the next one only when
/// the last is on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes to send. Their number is known, so every request has a
/// `Content-Length`; several stores refuse or lose chunked bodies.
pub(crate) struct Payload {
    rest: Bytes,
    progress: Progress,
}

impl Payload {
    pub(super) fn new(body: Bytes, progress: Progress) -> Self {
        Self { rest: body, progress }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(PIECE_LEN);
        let piece = self.rest.split_to(len);
        self.progress.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
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
