//! Reading a file front to back: for files whose page index cannot be used.
//!
//! Slower, since one file is one stream and one thread, but it needs nothing
//! beyond the frames themselves.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use ltx::Decoder;
use tokio::sync::mpsc;

use super::Progress;
use super::assemble::Claims;
use super::fault::{Fault, task_failed};
use super::fetch::Fetcher;
use super::pages::RunWriter;
use super::source::Source;
use crate::{Error, FileInfo, Result};

/// Decodes and verifies the whole file, writes the pages it is the newest to
/// have, and gives the claims back.
pub(super) async fn read(
    source: &Source,
    claims: Claims,
    file: Arc<File>,
    fetcher: &Fetcher,
    progress: &dyn Progress,
) -> Result<Claims, Fault> {
    let info = source.info;
    if let Some(whole) = source.whole() {
        let decoded = tokio::task::spawn_blocking(move || decode(&info, whole.reader(), claims, &file));
        let claims = decoded.await.map_err(|e| Fault::Other(task_failed(e)))??;
        progress.advanced(info.size);
        return Ok(claims);
    }
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let reader = ChannelReader { receiver, current: Bytes::new(), ended: false };
    let decoded = tokio::task::spawn_blocking(move || decode(&info, reader, claims, &file));
    let feed = async {
        let _request = fetcher.request().await?;
        let mut stream = fetcher.stream(&info, 0, info.size);
        while let Some(bytes) = stream.next().await? {
            let len = bytes.len() as u64;
            // The decoder has hung up: it has found damage, and says so.
            if sender.send(Some(bytes)).await.is_err() {
                return Ok(());
            }
            progress.advanced(len);
        }
        let _ = sender.send(None).await; // as above
        Ok::<_, Error>(())
    };
    // On failure the sender goes with the future, and the decoder stops.
    feed.await.map_err(|error| Fault::reading(&info, error))?;
    drop(sender);
    decoded.await.map_err(|e| Fault::Other(task_failed(e)))?
}

fn decode(info: &FileInfo, reader: impl Read, mut claims: Claims, file: &File) -> Result<Claims, Fault> {
    let broken = |error: ltx::Error| match error.is_io() {
        true => Fault::Other(Error::with_source(crate::ErrorKind::Cancelled, "restore cancelled", error)),
        false => Fault::corrupt(info, error),
    };
    let mut decoder = Decoder::new(reader).map_err(broken)?;
    let page_size = decoder.header().page_size;
    let mut writer = RunWriter::new(file, page_size);
    let mut page = vec![0; page_size.len()];
    while let Some(pgno) = decoder.next_page(&mut page).map_err(broken)? {
        if claims.claim(pgno) {
            writer.write(pgno, &page).map_err(Fault::Other)?;
        }
    }
    writer.flush().map_err(Fault::Other)?;
    decoder.finish().map_err(broken)?;
    Ok(claims)
}

/// The blocking end of a stream. `None` is the end of the file; a sender that is
/// gone without it has failed.
struct ChannelReader {
    receiver: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Some(bytes)) => self.current = bytes,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("reader abandoned")),
            }
        }
        let len = self.current.len().min(buffer.len());
        self.current.copy_to_slice(buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }
}

/// Pieces between network and decoder.
const QUEUE_LEN: usize = 4;
