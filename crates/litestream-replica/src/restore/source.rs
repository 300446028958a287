//! One file of the plan, opened: its header, its footer, and what of its bytes
//! came along.

use std::sync::Arc;

use bytes::Bytes;
use ltx::{Digest, Footer, Header};

use super::fault::Fault;
use super::fetch::{Fetcher, MemoryShare};
use crate::{FileInfo, Result};

/// A file whose header has been read and fits its name.
pub(super) struct Source {
    pub(super) info: FileInfo,
    pub(super) header: Header,
    /// Digest of the header as stored.
    pub(super) head: Digest,
    /// `None` when the last bytes name no place an index could be.
    pub(super) footer: Option<Footer>,
    /// The end of the file, or all of it when it is small.
    resident: Bytes,
    /// Where `resident` starts in the file.
    resident_offset: u64,
    /// The memory of a small file. Its chunks share it.
    pub(super) share: Option<Arc<MemoryShare>>,
}

impl Source {
    /// Opens a file. A small one takes one request, a larger one two at once.
    pub(super) async fn open(fetcher: Arc<Fetcher>, info: FileInfo) -> Result<Self, Fault> {
        Self::fetch(&fetcher, info).await.map_err(|error| Fault::reading(&info, error))?.parse()
    }

    async fn fetch(fetcher: &Fetcher, info: FileInfo) -> Result<Opening> {
        if info.size <= WHOLE_FILE_LEN {
            let share = fetcher.reserve(info.size).await?;
            let resident = fetcher.read(&info, 0, info.size).await?;
            return Ok(Opening { info, head: resident.clone(), resident, resident_offset: 0, share: Some(share) });
        }
        let resident_offset = info.size - TAIL_LEN;
        let (head, resident) = tokio::try_join!(
            fetcher.read(&info, 0, Header::LEN as u64),
            fetcher.read(&info, resident_offset, TAIL_LEN),
        )?;
        Ok(Opening { info, head, resident, resident_offset, share: None })
    }

    /// The whole file, when it is small.
    pub(super) fn whole(&self) -> Option<Bytes> {
        (self.resident_offset == 0).then(|| self.resident.clone())
    }

    /// The bytes `offset .. offset + len`, when they came along.
    pub(super) fn resident(&self, offset: u64, len: u64) -> Option<Bytes> {
        let start = usize::try_from(offset.checked_sub(self.resident_offset)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (end <= self.resident.len()).then(|| self.resident.slice(start..end))
    }

    /// Bytes from `offset` on, at least one and not beyond `end`: what came along,
    /// or a window fetched for the purpose.
    pub(super) async fn window(&self, fetcher: &Fetcher, offset: u64, end: u64) -> Result<Bytes> {
        if offset >= self.resident_offset {
            return Ok(self.resident(offset, end - offset).unwrap_or_default());
        }
        let end = end.min(self.resident_offset).min(offset.saturating_add(WINDOW_LEN));
        fetcher.read(&self.info, offset, end - offset).await
    }
}

/// The bytes of a file being opened.
struct Opening {
    info: FileInfo,
    head: Bytes,
    resident: Bytes,
    resident_offset: u64,
    share: Option<MemoryShare>,
}

impl Opening {
    fn parse(self) -> Result<Source, Fault> {
        let Self { info, head, resident, resident_offset, share } = self;
        let header = Header::parse(&head).map_err(|error| Fault::corrupt(&info, error))?;
        if (header.min, header.max) != (info.id.min, info.id.max) {
            let problem = format!("its header says {}-{}", header.min, header.max);
            return Err(Fault::corrupt(&info, problem));
        }
        if header.commit == 0 {
            return Err(Fault::corrupt(&info, ltx::Error::CommitZero));
        }
        Ok(Source {
            info,
            head: Digest::of(head.get(..Header::LEN).unwrap_or_default()),
            header,
            footer: Footer::parse(&resident, info.size).ok(),
            resident,
            resident_offset,
            share: share.map(Arc::new),
        })
    }
}

/// Files up to this size are read whole: almost all of level 0, in one request.
pub(super) const WHOLE_FILE_LEN: u64 = 1 << 20;

/// What is read of the end of a larger file: the index of some 6,000 pages.
const TAIL_LEN: u64 = 64 << 10;

/// A stretch of an index too long for that.
const WINDOW_LEN: u64 = 512 << 10;
