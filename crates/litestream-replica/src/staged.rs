//! Bodies that can be sent again: of known length, and readable from the start
//! any number of times.
//!
//! For stores that want to know the length first. What comes as a stream is kept
//! in memory while it is small and in a temporary file when it is not. The file
//! has no name for longer than it takes to make it, so nothing is left behind
//! however the program ends.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};

use crate::file::blocking;
use crate::http::Outgoing;
use crate::{Body, ByteStream, Error, ErrorKind, Result};

/// A complete body.
#[derive(Clone)]
pub(crate) struct Staged {
    len: u64,
    held: Held,
}

#[derive(Clone)]
enum Held {
    Bytes(Bytes),
    File(Arc<File>),
}

impl Staged {
    /// Takes the body over; a long stream goes to a file in `temp_dir`.
    ///
    /// # Errors
    /// The stream's own, and those of the local disk.
    pub(crate) async fn new(body: Body, temp_dir: PathBuf) -> Result<Self> {
        match body {
            Body::Bytes(bytes) => Ok(Self::bytes(bytes)),
            Body::File(path) => {
                blocking(move || {
                    let describe = |e| Error::io(format!("open {}", path.display()), e);
                    let file = File::open(&path).map_err(describe)?;
                    let len = file.metadata().map_err(describe)?.len();
                    Ok(Self { len, held: Held::File(Arc::new(file)) })
                })
                .await
            }
            Body::Stream(stream) => Self::gather(stream, temp_dir).await,
        }
    }

    async fn gather(mut stream: ByteStream, temp_dir: PathBuf) -> Result<Self> {
        let mut gathered = BytesMut::new();
        let mut file: Option<Arc<File>> = None;
        let mut len = 0;
        loop {
            let next = stream.next().await.transpose()?;
            if let Some(data) = &next {
                len += data.len() as u64;
                gathered.extend_from_slice(data);
            }
            if next.is_none() && file.is_none() {
                return Ok(Self::bytes(gathered.freeze()));
            }
            if next.is_none() || gathered.len() >= IN_MEMORY {
                let (data, target, dir) = (gathered.split().freeze(), file.take(), temp_dir.clone());
                let target = blocking(move || {
                    let target = match target {
                        Some(target) => target,
                        None => Arc::new(nameless_file(&dir)?),
                    };
                    (&*target).write_all(&data).map_err(|e| local("write temporary file in", &dir, e))?;
                    Ok(target)
                })
                .await?;
                if next.is_none() {
                    return Ok(Self { len, held: Held::File(target) });
                }
                file = Some(target);
            }
        }
    }

    fn bytes(bytes: Bytes) -> Self {
        Self { len: bytes.len() as u64, held: Held::Bytes(bytes) }
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The whole of it, to be sent.
    pub(crate) fn outgoing(&self) -> Outgoing {
        match &self.held {
            Held::Bytes(bytes) => Outgoing::Bytes(bytes.clone()),
            Held::File(file) => Outgoing::Stream(self.len, read(file.clone(), self.len)),
        }
    }

    /// How `other` compares with this.
    ///
    /// # Errors
    /// Those of `other`, and of the local disk.
    pub(crate) async fn compare(&self, mut other: ByteStream) -> Result<Comparison> {
        let mut own = match &self.held {
            Held::Bytes(bytes) => Box::pin(stream::iter([Ok(bytes.clone())])),
            Held::File(file) => read(file.clone(), self.len),
        };
        let (mut left, mut right) = (Bytes::new(), Bytes::new());
        loop {
            while left.is_empty() {
                match own.next().await.transpose()? {
                    Some(data) => left = data,
                    None => break,
                }
            }
            while right.is_empty() {
                match other.next().await.transpose()? {
                    Some(data) => right = data,
                    None => break,
                }
            }
            match (left.is_empty(), right.is_empty()) {
                (true, true) => return Ok(Comparison::Same),
                (false, true) => return Ok(Comparison::Beginning),
                (true, false) => return Ok(Comparison::Different),
                (false, false) => {}
            }
            let len = left.len().min(right.len());
            if left.split_to(len) != right.split_to(len) {
                return Ok(Comparison::Different);
            }
        }
    }
}

/// What another body is to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The same bytes.
    Same,
    /// The first of its bytes, not all: what an upload that broke off leaves.
    Beginning,
    /// Anything else.
    Different,
}

/// The first `len` bytes of a file; the file's own position does not matter.
fn read(file: Arc<File>, len: u64) -> ByteStream {
    Box::pin(stream::try_unfold((file, 0), move |(file, offset)| async move {
        if offset == len {
            return Ok(None);
        }
        blocking(move || {
            let mut piece = vec![0; usize::try_from(len - offset).unwrap_or(usize::MAX).min(READ_LEN)];
            file.read_exact_at(&mut piece, offset).map_err(|e| Error::io("read local file for upload", e))?;
            let next = offset + piece.len() as u64;
            Ok(Some((Bytes::from(piece), (file, next))))
        })
        .await
    }))
}

fn nameless_file(dir: &Path) -> Result<File> {
    let path = dir.join(format!("litestream-upload-{}-{:016x}", std::process::id(), fastrand::u64(..)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(|e| local("create temporary file in", dir, e))?;
    std::fs::remove_file(&path).map_err(|e| local("create temporary file in", dir, e))?;
    Ok(file)
}

fn local(what: &str, dir: &Path, source: std::io::Error) -> Error {
    let error = Error::io(format!("{what} {} (TMPDIR says where)", dir.display()), source);
    match error.kind() {
        // Not to be taken for an object that is absent.
        ErrorKind::NotFound => Error::new(ErrorKind::Setup, error.to_string()),
        _ => error,
    }
}

/// What is kept in memory at most.
const IN_MEMORY: usize = 1 << 20;
/// Bytes per read of a local file.
const READ_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    fn chunks(content: &[u8], len: usize) -> ByteStream {
        let chunks: Vec<_> = content.chunks(len).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Box::pin(stream::iter(chunks))
    }

    async fn sent(staged: &Staged) -> Vec<u8> {
        match staged.outgoing() {
            Outgoing::Bytes(bytes) => bytes.to_vec(),
            Outgoing::Stream(len, stream) => {
                let all = stream.try_collect::<Vec<Bytes>>().await.unwrap().concat();
                assert_eq!(all.len() as u64, len);
                all
            }
        }
    }

    #[tokio::test]
    async fn streams_of_any_length_can_be_sent_twice() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0, 1, IN_MEMORY - 1, IN_MEMORY, 3 * IN_MEMORY + 7] {
            let content: Vec<u8> = (0..=250).cycle().take(len).collect();
            let body = Body::Stream(chunks(&content, 100_000));
            let staged = Staged::new(body, dir.path().to_owned()).await.unwrap();
            assert_eq!(staged.len(), len as u64);
            for _ in 0..2 {
                assert!(sent(&staged).await == content, "{len} bytes");
            }
            assert_eq!(staged.compare(chunks(&content, 77_777)).await.unwrap(), Comparison::Same);
            let longer = [content.as_slice(), b"x"].concat();
            assert_eq!(staged.compare(chunks(&longer, 77_777)).await.unwrap(), Comparison::Different);
            if let Some((_, shorter)) = content.split_last() {
                assert_eq!(staged.compare(chunks(shorter, 77_777)).await.unwrap(), Comparison::Beginning);
            }
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "temporary files have no names");
        }
    }

    #[tokio::test]
    async fn missing_directory_for_temporary_files_is_not_an_absent_object() {
        let body = Body::Stream(chunks(&vec![0; 2 * IN_MEMORY], 4096));
        let error = Staged::new(body, "/no/such/directory".into()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Setup);
        assert!(error.to_string().contains("TMPDIR"), "{error}");
    }
}
