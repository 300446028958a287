//! Replicas in a local directory.
//!
//! A file becomes visible by one atomic step, and only after its bytes, its
//! times and its mode are on the disk: temporary name, fsync, link or rename,
//! fsync of the directory. Temporary names end in `.tmp`, which no listing
//! reads, and are unique, so that two writers never share one.
//!
//! Spec: backends §2, store-and-restore §2.

mod staging;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use ltx::{FileName, Txid};
use tokio::sync::mpsc;

pub(crate) use self::staging::is_temporary_name;
use self::staging::{CallerGone, GoneOnDrop, Staging, TEMPORARY};
use crate::flushes::PIECE_LEN;
use crate::layout::{check_object_key, level_dir};
use crate::{
    Body, ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest,
};

/// Settings of a `file` replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// The replica's directory; made when the first file is written.
    pub path: PathBuf,
    /// Mode of new files; normally the database file's. Unset: `0600`.
    pub file_mode: Option<u32>,
    /// Mode of new directories; normally that of the database's. Unset: `0700`.
    pub dir_mode: Option<u32>,
    /// User and group of new files and directories; normally the database's.
    /// Ignored where the process may not give files away.
    pub owner: Option<(u32, u32)>,
}

impl FileOptions {
    /// A replica in `path`, everything else by default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Fills what is open, except the path, from `defaults`.
    #[must_use]
    pub fn with_defaults(mut self, defaults: &Self) -> Self {
        self.file_mode = self.file_mode.or(defaults.file_mode);
        self.dir_mode = self.dir_mode.or(defaults.dir_mode);
        self.owner = self.owner.or(defaults.owner);
        self
    }
}

/// A [`ReplicaClient`] over a local directory.
#[derive(Clone, Debug)]
pub struct FileClient {
    options: Arc<FileOptions>,
    /// Done by the first write.
    swept: Arc<Once>,
}

impl FileClient {
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) when the path is empty.
    pub fn new(options: FileOptions) -> Result<Self> {
        if options.path.as_os_str().is_empty() {
            return Err(Error::new(ErrorKind::Setup, "file replica path required"));
        }
        Ok(Self { options: Arc::new(options), swept: Arc::new(Once::new()) })
    }

    fn path_of(&self, id: FileId) -> PathBuf {
        level_dir(&self.options.path, id.level).join(id.name().to_string())
    }

    /// Copies a local file; checks for cancellation between stretches.
    async fn write_file(&self, staging: Staging, source: PathBuf) -> Result<u64> {
        blocking(move || {
            let mut from = File::open(&source).map_err(|e| Error::io(format!("open {}", source.display()), e))?;
            let mut temp = staging.create()?;
            loop {
                staging.check_cancelled()?;
                // `io::copy` between two files uses copy_file_range, which
                // clones extents where the filesystem can.
                let copied = io::copy(&mut (&mut from).take(COPY_STRETCH), &mut temp.file)
                    .map_err(|e| staging.error("write", e))?;
                temp.grown(&staging, copied)?;
                if copied < COPY_STRETCH {
                    return temp.publish(&staging);
                }
            }
        })
        .await
    }

    /// Writes chunks that arrive from the network or a compaction. The file is
    /// only ever touched by the blocking task, which also removes it when the
    /// channel closes before the end was announced.
    async fn write_stream(&self, staging: Staging, mut body: ByteStream) -> Result<u64> {
        let (sender, mut receiver) = mpsc::channel::<Chunk>(STREAM_QUEUE);
        let writer = blocking(move || {
            let mut temp = staging.create()?;
            let mut gathered = Vec::new();
            loop {
                match receiver.blocking_recv() {
                    Some(Chunk::Data(data)) if gathered.is_empty() && data.len() >= WRITE_LEN => {
                        temp.append(&staging, &data)?;
                    }
                    Some(Chunk::Data(data)) => {
                        gathered.extend_from_slice(&data);
                        if gathered.len() >= WRITE_LEN {
                            temp.append(&staging, &gathered)?;
                            gathered.clear();
                        }
                    }
                    Some(Chunk::End) => {
                        temp.append(&staging, &gathered)?;
                        return temp.publish(&staging);
                    }
                    None => return Err(Error::new(ErrorKind::Cancelled, "write abandoned")),
                }
            }
        });
        let feeder = async move {
            while let Some(data) = body.next().await {
                // A closed channel means that the writer failed; it says why.
                if sender.send(Chunk::Data(data?)).await.is_err() {
                    return Ok(());
                }
            }
            let _ = sender.send(Chunk::End).await; // as above
            Ok(())
        };
        // The feeder's error is the cause; the writer then only reports that it
        // was abandoned, and has removed its file by the time it does.
        let (fed, written) = tokio::join!(feeder, writer);
        fed.and(written)
    }
}

#[async_trait::async_trait]
impl ReplicaClient for FileClient {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn location(&self) -> String {
        self.options.path.display().to_string()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        vec![("path", self.location())]
    }

    async fn init(&self) -> Result<()> {
        Ok(())
    }

    async fn list(&self, level: Level, seek: Txid, _metadata: bool) -> Result<Vec<FileInfo>> {
        let dir = level_dir(&self.options.path, level);
        blocking(move || list_dir(&dir, level, seek)).await
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        read_range(self.path_of(id), format!("ltx file {id}"), offset, len).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        if !prefix.is_empty() {
            check_object_key(prefix.strip_suffix('/').unwrap_or(prefix))?;
        }
        let (root, prefix) = (self.options.path.clone(), prefix.to_owned());
        blocking(move || {
            let mut found = Vec::new();
            list_tree(&root.join(&prefix), &prefix, WALK_DEPTH, &mut found)?;
            found.sort_unstable();
            Ok(found)
        })
        .await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        check_object_key(key)?;
        read_range(self.options.path.join(key), format!("object {key}"), offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        let WriteRequest { id, timestamp, mode, body } = request;
        let gone = CallerGone::default();
        let staging = Staging {
            path: self.path_of(id),
            options: self.options.clone(),
            swept: self.swept.clone(),
            timestamp,
            mode,
            gone: gone.clone(),
        };
        let _guard = GoneOnDrop(gone);
        let size = match body {
            Body::File(source) => self.write_file(staging, source).await?,
            Body::Stream(body) => self.write_stream(staging, body).await?,
            Body::Bytes(bytes) => {
                blocking(move || {
                    let mut temp = staging.create()?;
                    temp.append(&staging, &bytes)?;
                    temp.publish(&staging)
                })
                .await?
            }
        };
        Ok(FileInfo { id, size, created_at: timestamp })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let paths: Vec<PathBuf> = files.iter().map(|&id| self.path_of(id)).collect();
        blocking(move || paths.iter().try_for_each(|path| absent_is_fine(fs::remove_file(path), "delete", path))).await
    }

    async fn delete_all(&self) -> Result<()> {
        let root = self.options.path.clone();
        blocking(move || {
            if root.file_name().is_none() {
                return Err(Error::new(
                    ErrorKind::Setup,
                    format!("refusing to delete everything in {}", root.display()),
                ));
            }
            absent_is_fine(fs::remove_dir_all(&root), "delete", &root)
        })
        .await
    }
}

fn list_dir(dir: &Path, level: Level, seek: Txid) -> Result<Vec<FileInfo>> {
    let describe = |e| Error::io(format!("list {}", dir.display()), e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(describe(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(describe)?;
        let Some(FileName { min, max }) = entry.file_name().to_str().and_then(FileName::parse) else { continue };
        if min < seek {
            continue;
        }
        let metadata = match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            // Retention removed it since the directory was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(describe(e)),
        };
        files.push(FileInfo { id: FileId { level, min, max }, size: metadata.len(), created_at: modified(&metadata) });
    }
    files.sort_unstable_by_key(|file| file.id);
    Ok(files)
}

/// Collects the files below `dir`; `prefix` is what their keys start with.
/// Directories may be links: people move old backups to other disks.
fn list_tree(dir: &Path, prefix: &str, depth: u32, found: &mut Vec<ObjectInfo>) -> Result<()> {
    let describe = |e| Error::io(format!("list {}", dir.display()), e);
    if depth == 0 {
        let message = format!("list {}: directories are nested too deeply, perhaps in a circle", dir.display());
        return Err(Error::new(ErrorKind::Setup, message));
    }
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(describe(e)),
    };
    for entry in entries {
        let entry = entry.map_err(describe)?;
        let name = entry.file_name();
        // What is no text cannot be a name that any layout gives.
        let Some(name) = name.to_str().filter(|name| !name.ends_with(TEMPORARY)) else { continue };
        let metadata = match fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(describe(e)),
        };
        if metadata.is_dir() {
            list_tree(&entry.path(), &format!("{prefix}{name}/"), depth - 1, found)?;
        } else if metadata.is_file() {
            let key = format!("{prefix}{name}");
            found.push(ObjectInfo { key, size: metadata.len(), modified: modified(&metadata) });
        }
    }
    Ok(())
}

fn modified(metadata: &fs::Metadata) -> Timestamp {
    let nanoseconds = i32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    Timestamp::new(metadata.mtime(), nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Streams a range of a file; `what` names it in errors while reading.
async fn read_range(path: PathBuf, what: String, offset: u64, len: u64) -> Result<ByteStream> {
    let (file, remaining) = blocking(move || {
        let describe = |e| Error::io(format!("open {}", path.display()), e);
        let mut file = File::open(&path).map_err(describe)?;
        let available = file.metadata().map_err(describe)?.len().saturating_sub(offset);
        file.seek(SeekFrom::Start(offset)).map_err(describe)?;
        Ok((file, if len == 0 { available } else { available.min(len) }))
    })
    .await?;
    Ok(Box::pin(stream::try_unfold((file, remaining, what), |(mut file, remaining, what)| async move {
        if remaining == 0 {
            return Ok(None);
        }
        blocking(move || {
            let wanted = remaining.min(READ_LEN);
            let mut chunk = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
            let read =
                (&mut file).take(wanted).read_to_end(&mut chunk).map_err(|e| Error::io(format!("read {what}"), e))?;
            // A file that became shorter ends early; the reader notices.
            let remaining = if read == 0 { 0 } else { remaining - read as u64 };
            Ok((read > 0).then(|| (Bytes::from(chunk), (file, remaining, what))))
        })
        .await
    })))
}

enum Chunk {
    Data(Bytes),
    End,
}

fn absent_is_fine(result: io::Result<()>, what: &str, path: &Path) -> Result<()> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("{what} {}", path.display()), e)),
        _ => Ok(()),
    }
}

/// Runs local file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(Error::with_source(ErrorKind::Cancelled, "file task stopped", stopped)),
    }
}

/// Directories below one another that a listing enters; no layout has as many.
const WALK_DEPTH: u32 = 16;
/// Bytes per read: large enough that the hop to a blocking thread costs nothing.
const READ_LEN: u64 = 1 << 20;
/// Small chunks of a stream are gathered up to this many bytes.
const WRITE_LEN: usize = 1 << 20;
/// A copy looks for cancellation this often, in bytes.
const COPY_STRETCH: u64 = PIECE_LEN;
/// Chunks of a stream in flight between network and disk.
const STREAM_QUEUE: usize = 4;
