//! Fetches LTX files and verifies all of them before anybody sees a page.
//!
//! Spec: store-and-restore §14.4 point 5; ltx §11.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use litestream_replica::resume::resuming;
use litestream_replica::{ByteStream, Error, ErrorKind, FileInfo, ReplicaClient, Result};
use ltx::{Decoder, Header, PageSize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::apply::Batch;
use super::spill::Spill;

/// Why there is no batch.
#[derive(Debug)]
pub(super) enum Fault {
    /// This file is corrupt or gone; others may cover it.
    File(FileInfo, Error),
    /// This file's pages have another size than the copy's.
    PageSize(PageSize),
    /// Nothing another choice of files would change.
    Other(crate::Error),
}

/// Reads files from one store for one copy.
pub(super) struct Fetcher {
    pub(super) client: Arc<dyn ReplicaClient>,
    pub(super) output: PathBuf,
    pub(super) cancel: CancellationToken,
}

impl Fetcher {
    /// Fetches and verifies `files`, which continue one another, up to about
    /// `limit` bytes of pages, the first file in any case.
    ///
    /// `page_size` is the copy's; `None` takes that of the first file, for a
    /// batch that is the `whole` database.
    pub(super) async fn batch(
        &self,
        files: &[FileInfo],
        page_size: Option<PageSize>,
        is_whole: bool,
        limit: u64,
    ) -> Result<Batch, Fault> {
        let mut batch: Option<Batch> = None;
        for file in files {
            if batch.as_ref().is_some_and(|batch| batch.pages.len() >= limit) {
                break;
            }
            let (spill, count) = match batch.take() {
                Some(batch) => (Some(batch.pages), batch.file_count),
                None => (None, 0),
            };
            let expected = spill.as_ref().map(Spill::page_size).or(page_size);
            let (pages, header) = self.file(file, spill, expected).await?;
            batch = Some(Batch {
                pages,
                commit: header.commit,
                to: file.id.max,
                timestamp: header.timestamp,
                file_count: count + 1,
                is_whole,
            });
        }
        let nothing = || crate::Error::from(Error::new(ErrorKind::Unavailable, "no files to apply"));
        batch.ok_or_else(|| Fault::Other(nothing()))
    }

    /// Fetches and verifies one file, appending to `spill`.
    pub(super) async fn file(
        &self,
        file: &FileInfo,
        spill: Option<Spill>,
        page_size: Option<PageSize>,
    ) -> Result<(Spill, Header), Fault> {
        let reader = StreamReader {
            runtime: Handle::current(),
            stream: resuming(Arc::clone(&self.client), file.id, 0, file.size),
            cancel: self.cancel.clone(),
            current: Bytes::new(),
            failure: None,
        };
        let (file, output) = (*file, self.output.clone());
        let read = tokio::task::spawn_blocking(move || decode(&file, reader, &output, spill, page_size));
        let ended = |e| Fault::Other(crate::Error::from(Error::with_source(ErrorKind::Cancelled, "fetch ended", e)));
        read.await.map_err(ended)?
    }
}

fn decode(
    file: &FileInfo,
    mut reader: StreamReader,
    output: &Path,
    spill: Option<Spill>,
    page_size: Option<PageSize>,
) -> Result<(Spill, Header), Fault> {
    let result = decode_pages(file, &mut reader, output, spill, page_size);
    // What the store said is the cause of whatever the decoder made of it.
    match reader.failure.take() {
        Some(error) => Err(sort(file, error)),
        None => result,
    }
}

fn decode_pages(
    file: &FileInfo,
    reader: &mut StreamReader,
    output: &Path,
    spill: Option<Spill>,
    page_size: Option<PageSize>,
) -> Result<(Spill, Header), Fault> {
    let corrupt = |error: ltx::Error| sort(file, Error::new(ErrorKind::Corrupt, error.to_string()));
    let mut decoder = Decoder::new(reader).map_err(corrupt)?;
    let header = decoder.header().clone();
    if (header.min, header.max) != (file.id.min, file.id.max) {
        let problem = format!("its header says {}-{}", header.min, header.max);
        return Err(sort(file, Error::new(ErrorKind::Corrupt, problem)));
    }
    if page_size.is_some_and(|expected| expected != header.page_size) {
        return Err(Fault::PageSize(header.page_size));
    }
    let mut spill = spill.unwrap_or_else(|| Spill::new(output, header.page_size));
    let mut page = vec![0; header.page_size.len()];
    while let Some(pgno) = decoder.next_page(&mut page).map_err(corrupt)? {
        spill.push(pgno, &page).map_err(Fault::Other)?;
    }
    decoder.finish().map_err(corrupt)?;
    Ok((spill, header))
}

fn sort(file: &FileInfo, error: Error) -> Fault {
    let error = error.context(format!("ltx file {}", file.id));
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Corrupt => Fault::File(*file, error),
        _ => Fault::Other(error.into()),
    }
}

/// The blocking end of a stream.
struct StreamReader {
    runtime: Handle,
    stream: ByteStream,
    cancel: CancellationToken,
    current: Bytes,
    failure: Option<Error>,
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let next = async {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => Some(Err(Error::new(ErrorKind::Cancelled, "follow cancelled"))),
                    next = self.stream.next() => next,
                }
            };
            match self.runtime.block_on(next) {
                Some(Ok(bytes)) => self.current = bytes,
                None => return Ok(0),
                Some(Err(error)) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("stream failed"));
                }
            }
        }
        let len = self.current.len().min(buffer.len());
        self.current.copy_to_slice(buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }
}
