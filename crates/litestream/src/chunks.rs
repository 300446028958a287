//! From a thread that writes to a store that reads: bytes cross as chunks.
//!
//! The rule that must never break: a stream that ends without an error is
//! complete. So the producer says when it is done; one that vanishes without a
//! word has failed, and so does its stream.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::stream;
use litestream_replica::{ByteStream, Error, ErrorKind};
use tokio::sync::mpsc;

/// A writer for a blocking thread, and the stream that gives what it wrote.
///
/// At most `depth` chunks wait. The writer blocks while the reader is slower and
/// fails with `BrokenPipe` once the stream is gone; the stream fails with
/// [`Cancelled`](ErrorKind::Cancelled) once the writer is gone unfinished.
pub(crate) fn chunks(depth: usize) -> (ChunkWriter, ByteStream) {
    let (sender, receiver) = mpsc::channel(depth);
    let stream = stream::unfold(Some(receiver), async |receiver: Option<mpsc::Receiver<Chunk>>| {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Chunk::Data(data)) => Some((Ok(data), Some(receiver))),
            Some(Chunk::End) => None,
            None => Some((Err(Error::new(ErrorKind::Cancelled, "the producer of this file failed")), None)),
        }
    });
    (ChunkWriter { sender }, Box::pin(stream))
}

/// The producer's end.
pub(crate) struct ChunkWriter {
    sender: mpsc::Sender<Chunk>,
}

enum Chunk {
    Data(Bytes),
    End,
}

impl ChunkWriter {
    /// Ends the stream: everything was written.
    ///
    /// # Errors
    /// `BrokenPipe` when the stream is gone.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.send(Chunk::End)
    }

    fn send(&self, chunk: Chunk) -> io::Result<()> {
        let sent = self.sender.blocking_send(chunk);
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload ended early"))
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(Chunk::Data(Bytes::copy_from_slice(bytes)))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
