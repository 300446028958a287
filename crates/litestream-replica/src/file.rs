//! Replicas in a local directory.
//!
//! A file becomes visible by one atomic step, and only after its bytes, its
//! times and its mode are on the disk: temporary name, fsync, link or rename,
//! fsync of the directory. Temporary names end in `.tmp`, which no listing
//! reads, and are unique, so that two writers never share one.
//!
//! Spec: backends §2, store-and-restore §2.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use ltx::{FileName, Txid};
use tokio::sync::mpsc;

use crate::layout::{check_object_key, level_dir};
use crate::{
    Body, ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteMode,
    WriteRequest,
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
                temp.size += copied;
                if copied < COPY_STRETCH {
                    return temp.publish(&staging);
                }
                // Piece by piece: one large flush would hold up everybody else's.
                temp.file.sync_data().map_err(|e| staging.error("write", e))?;
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

/// Everything needed to bring one file to its final name.
struct Staging {
    path: PathBuf,
    options: Arc<FileOptions>,
    swept: Arc<Once>,
    timestamp: Timestamp,
    mode: WriteMode,
    gone: CallerGone,
}

/// `true` once the caller has dropped its future. Held across the one step that
/// makes the file visible, so that nothing appears afterwards.
type CallerGone = Arc<Mutex<bool>>;

struct GoneOnDrop(CallerGone);

impl Drop for GoneOnDrop {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

enum Chunk {
    Data(Bytes),
    End,
}

impl Staging {
    fn error(&self, what: &str, source: io::Error) -> Error {
        Error::io(format!("{what} {}", self.path.display()), source)
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn check_cancelled(&self) -> Result<()> {
        match *self.gone.lock().unwrap_or_else(PoisonError::into_inner) {
            true => Err(Error::new(ErrorKind::Cancelled, format!("write {}", self.path.display()))),
            false => Ok(()),
        }
    }

    /// Creates the temporary file, and its directory if need be.
    fn create(&self) -> Result<Temp> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        self.swept.call_once(|| sweep(&self.options.path));
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".{}-{count}-{:08x}{TEMPORARY}", std::process::id(), fastrand::u32(..)));
        let path = self.path.with_file_name(name);

        let open = || OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&path);
        let file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let dir = self.dir();
                self.create_dir(dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
                open()
            }
            other => other,
        };
        let file = file.map_err(|e| self.error("create", e))?;
        // Tells a sweep by another process that this file is in use. Filesystems
        // without locks cannot tell, and are not swept either.
        let _ = file.try_lock();
        Ok(Temp { path, file, size: 0, armed: true })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(Path::new("."));
        self.create_dir(parent)?;
        let mode = self.options.dir_mode.unwrap_or(0o700);
        match fs::DirBuilder::new().mode(mode).create(dir) {
            // Another writer was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        }
        // The umask does not apply to a mode that copies the database's.
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
        if let Some((user, group)) = self.options.owner {
            give_away(std::os::unix::fs::chown(dir, Some(user), Some(group)))?;
        }
        sync_dir(parent)
    }
}

/// Removes temporary files of ours whose writers were killed: an unfinished image
/// may be as large as the database. Failures are dropped, for a file that stays
/// only takes space, and the next start tries again.
fn sweep(root: &Path) {
    for level in Level::all() {
        for entry in fs::read_dir(level_dir(root, level)).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(is_temporary_name) {
                continue;
            }
            // Its writer holds a lock for as long as it lives.
            let unused = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            if unused && fs::remove_file(entry.path()).is_ok() {
                tracing::debug!(path = %entry.path().display(), "removed a file whose writer was killed");
            }
        }
    }
}

/// `<min>-<max>.ltx.<process>-<count>-<random>.tmp`. Upstream's are never touched:
/// it does not lock them.
pub(crate) fn is_temporary_name(name: &str) -> bool {
    let Some(name) = name.strip_suffix(TEMPORARY) else { return false };
    name.rsplit_once('.').is_some_and(|(file, writer)| FileName::parse(file).is_some() && writer.contains('-'))
}

/// A temporary file, removed when dropped unless it was published.
struct Temp {
    path: PathBuf,
    file: File,
    size: u64,
    armed: bool,
}

impl Temp {
    fn append(&mut self, staging: &Staging, data: &[u8]) -> Result<()> {
        self.file.write_all(data).map_err(|e| staging.error("write", e))?;
        self.size += data.len() as u64;
        Ok(())
    }

    /// Makes the file durable, then visible. Returns its size.
    fn publish(mut self, staging: &Staging) -> Result<u64> {
        self.finish(&staging.options, staging.timestamp).map_err(|e| staging.error("write", e))?;
        {
            let gone = staging.gone.lock().unwrap_or_else(PoisonError::into_inner);
            if *gone {
                return Err(Error::new(ErrorKind::Cancelled, format!("write {}", staging.path.display())));
            }
            let moved = match staging.mode {
                WriteMode::Overwrite => fs::rename(&self.path, &staging.path).map(|()| Moved::Renamed),
                WriteMode::CreateOnly => rename_new(&self.path, &staging.path),
            };
            match moved {
                Ok(Moved::Renamed) => self.armed = false,
                Ok(Moved::Linked) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    drop(gone);
                    return self.compare_with_existing(staging);
                }
                Err(e) => return Err(staging.error("rename", e)),
            }
        }
        sync_dir(staging.dir()).map_err(|e| staging.error("fsync directory of", e))?;
        Ok(self.size)
    }

    /// Times, mode and owner are set before the fsync, so that a crash cannot
    /// leave a file that carries the wrong moment.
    fn finish(&mut self, options: &FileOptions, timestamp: Timestamp) -> io::Result<()> {
        let time =
            rustix::fs::Timespec { tv_sec: timestamp.as_second(), tv_nsec: timestamp.subsec_nanosecond().into() };
        self.file.set_permissions(fs::Permissions::from_mode(options.file_mode.unwrap_or(0o600)))?;
        if let Some((user, group)) = options.owner {
            give_away(std::os::unix::fs::fchown(&self.file, Some(user), Some(group)))?;
        }
        rustix::fs::futimens(&self.file, &rustix::fs::Timestamps { last_access: time, last_modification: time })?;
        self.file.sync_all()
    }

    /// The name is taken: success if it holds the same bytes.
    fn compare_with_existing(&mut self, staging: &Staging) -> Result<u64> {
        let same = (|| {
            let mut existing = File::open(&staging.path)?;
            if existing.metadata()?.len() != self.size {
                return Ok(false);
            }
            self.file.seek(SeekFrom::Start(0))?;
            let same = same_content(&mut existing, &mut self.file)?;
            if same {
                // Its writer may have failed between rename and fsync.
                existing.sync_all()?;
                sync_dir(staging.dir())?;
            }
            Ok(same)
        })();
        match same {
            Ok(true) => Ok(self.size),
            Ok(false) => Err(Error::new(
                ErrorKind::Conflict,
                format!("write {}: another file of this name exists", staging.path.display()),
            )),
            Err(e) => Err(staging.error("compare with existing", e)),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.armed {
            // What cannot be removed here keeps a name that no listing reads.
            let _ = fs::remove_file(&self.path);
        }
    }
}

enum Moved {
    /// The temporary name is gone.
    Renamed,
    /// Both names exist; the temporary one is to be removed.
    Linked,
}

/// Renames without replacing, atomically where the filesystem can.
fn rename_new(from: &Path, to: &Path) -> io::Result<Moved> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Moved::Renamed),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    match fs::hard_link(from, to) {
        Ok(()) => Ok(Moved::Linked),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // Neither is possible here (FAT, some network filesystems): look, then
        // rename. A second writer may slip in between, as it may upstream.
        Err(_) if to.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to).map(|()| Moved::Renamed),
    }
}

fn same_content(a: &mut File, b: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        a.take(READ_LEN).read_to_end(&mut left)?;
        b.take(READ_LEN).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

/// Only root may give files away. A replica owned by the wrong user is still a
/// replica, so that refusal does not stop replication.
fn give_away(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    match File::open(dir)?.sync_all() {
        // Some network filesystems cannot; they make names durable themselves.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
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

/// What the names of files being written end in.
const TEMPORARY: &str = ".tmp";
/// Directories below one another that a listing enters; no layout has as many.
const WALK_DEPTH: u32 = 16;
/// Bytes per read: large enough that the hop to a blocking thread costs nothing.
const READ_LEN: u64 = 1 << 20;
/// Small chunks of a stream are gathered up to this many bytes.
const WRITE_LEN: usize = 1 << 20;
/// A copy looks for cancellation this often, in bytes.
const COPY_STRETCH: u64 = 4 << 20;
/// Chunks of a stream in flight between network and disk.
const STREAM_QUEUE: usize = 4;
