//! Inputs of a merge, read on a blocking thread.
//!
//! Remote files are read window by window, never as one long stream: a merge
//! drinks from each input in turn, and stores close streams that stand idle. It
//! also bounds what all inputs hold in memory together.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::TryStreamExt;
use litestream_replica::resume::resuming;
use litestream_replica::{Error, ErrorKind, FileInfo, ReplicaClient};
use ltx::FileName;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::fault::Culprits;
use super::{FAN_IN, Fault, Source};

/// Inputs not opened yet.
pub(super) struct Inputs {
    client: Arc<dyn ReplicaClient>,
    sources: Vec<Source>,
    fan_in: usize,
    cancel: CancellationToken,
    runtime: Handle,
}

impl Inputs {
    /// To be called on a runtime; its threads fetch what is remote.
    pub(super) fn new(
        client: Arc<dyn ReplicaClient>,
        sources: Vec<Source>,
        fan_in: usize,
        cancel: CancellationToken,
    ) -> Self {
        Self { client, sources, fan_in: fan_in.clamp(2, FAN_IN), cancel, runtime: Handle::current() }
    }

    /// How many of them may be open at once.
    pub(super) fn fan_in(&self) -> usize {
        self.fan_in
    }

    /// The names of all inputs. A hole between them costs no read.
    pub(super) fn names(&self) -> Result<Vec<FileName>, Fault> {
        let names: Vec<FileName> = self.sources.iter().map(Source::name).collect::<Result<_, _>>()?;
        for pair in names.windows(2) {
            if let [left, right] = *pair
                && (right.min > left.max.next() || right.max <= left.max)
            {
                return Err(Fault::Hole { left, right });
            }
        }
        Ok(names)
    }

    /// Readers that open their files when they are first read.
    pub(super) fn open(self) -> (Vec<Input>, Culprits) {
        let remote_count = self.sources.iter().filter(|source| matches!(source, Source::Remote(_))).count();
        let window_len = (WINDOW_BUDGET / remote_count.clamp(1, FAN_IN) as u64).clamp(WINDOW_MIN, WINDOW_MAX);
        let inputs = self.sources.iter().map(|source| {
            let reader = match source {
                Source::Local(path) => Reader::Closed(path.clone()),
                Source::Remote(info) => Reader::Remote(Remote {
                    client: Arc::clone(&self.client),
                    info: *info,
                    window_len,
                    window: Bytes::new(),
                    offset: 0,
                    runtime: self.runtime.clone(),
                    cancel: self.cancel.clone(),
                }),
            };
            Input { reader, cancel: self.cancel.clone() }
        });
        (inputs.collect(), Culprits::new(self.sources))
    }
}

/// One input.
pub(super) struct Input {
    reader: Reader,
    cancel: CancellationToken,
}

enum Reader {
    /// A local file, not opened yet.
    Closed(PathBuf),
    Local(File),
    Remote(Remote),
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        if let Reader::Closed(path) = &self.reader {
            self.reader = Reader::Local(File::open(path)?);
        }
        match &mut self.reader {
            Reader::Closed(_) => Ok(0),
            Reader::Local(file) => file.read(buffer),
            Reader::Remote(remote) => remote.read(buffer),
        }
    }
}

/// A file in the store, and the part of it that is at hand.
struct Remote {
    client: Arc<dyn ReplicaClient>,
    info: FileInfo,
    window_len: u64,
    window: Bytes,
    /// Where the next window begins.
    offset: u64,
    runtime: Handle,
    cancel: CancellationToken,
}

impl Remote {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.window.is_empty() && self.offset < self.info.size {
            self.window = self.fetch()?;
            self.offset += self.window.len() as u64;
        }
        let len = buffer.len().min(self.window.len());
        self.window.copy_to_slice(buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }

    fn fetch(&self) -> io::Result<Bytes> {
        let end = self.info.size.min(self.offset + self.window_len);
        let parts = resuming(Arc::clone(&self.client), self.info.id, self.offset, end).try_collect::<Vec<Bytes>>();
        let parts = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "compaction cancelled")),
                parts = parts => parts,
            }
        });
        let mut parts = parts.map_err(io::Error::other)?;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Bytes::from(parts.concat()) })
    }
}

fn cancelled() -> io::Error {
    io::Error::other(Error::new(ErrorKind::Cancelled, "compaction cancelled"))
}

/// Memory for windows of all remote inputs together.
const WINDOW_BUDGET: u64 = 16 << 20;
const WINDOW_MIN: u64 = 128 << 10;
const WINDOW_MAX: u64 = 4 << 20;
