//! Backups as Litestream 0.3 left them: generations of snapshots and WAL segments.
//!
//! No release of 0.3 is at hand, so this writer follows the published layout, and
//! upstream's binary, which still restores it, is the judge of what it makes. A
//! real database with a live WAL is written to by the test; here its WAL is shipped
//! in segments, and its checkpoints count the index on.
//!
//! Spec: store-and-restore §15.1.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use rusqlite::Connection;

use crate::image::{Image, Wal, quiet_copy, read_image};
use crate::scenario::{self, CheckpointMode};

/// A database and the 0.3 backup that is made of it.
///
/// Every object gets a modification time one second after the one before, from a
/// fixed moment on, so that a test can name the times.
pub struct V3Writer {
    connection: Connection,
    db: PathBuf,
    replica: PathBuf,
    generation: String,
    index: u64,
    /// Bytes of the WAL that are shipped.
    offset: usize,
    clock: SystemTime,
    moments: Vec<Moment>,
}

/// What a restore to one time must give.
#[derive(Clone, Debug)]
pub struct Moment {
    /// When the last object of that state was stored.
    pub at: SystemTime,
    /// The database.
    pub image: Image,
}

impl V3Writer {
    /// A new WAL database `<dir>/app.db`, and a replica `<dir>/replica` without any
    /// object yet.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn begin(dir: &Path, page_size: u32) -> Result<Self> {
        let db = dir.join("app.db");
        Connection::open(&db)?.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal;
             CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)"
        ))?;
        let connection = scenario::quiet_connection(&db)?;
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(FIRST_TIME);
        let replica = dir.join("replica");
        Ok(Self { connection, db, replica, generation: String::new(), index: 0, offset: 0, clock, moments: Vec::new() })
    }

    /// The application's connection. It must not checkpoint.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The backup's directory; a `file` replica's path.
    pub fn replica(&self) -> &Path {
        &self.replica
    }

    /// Starts a generation (16 hexadecimal digits) with a snapshot at `index`, and
    /// notes the moment.
    ///
    /// # Errors
    /// When SQLite or the disk fails.
    pub fn start_generation(&mut self, generation: &str, index: u64) -> Result<()> {
        if !self.generation.is_empty() {
            self.ship()?;
        }
        self.restart_wal(CheckpointMode::Truncate)?;
        self.generation = generation.to_owned();
        self.index = index;
        self.snapshot()?;
        self.note_moment()
    }

    /// Stores a snapshot: the main file, which holds the state at the start of
    /// this index, whatever the WAL holds by now.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn snapshot(&mut self) -> Result<()> {
        let main = fs::read(quiet_copy(&self.db)?.db())?;
        self.store(&format!("snapshots/{:08x}.snapshot.lz4", self.index), &main)
    }

    /// Stores the part of the WAL that is not stored yet, if any, and notes the
    /// moment.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn ship(&mut self) -> Result<()> {
        let wal = fs::read(quiet_copy(&self.db)?.wal())?;
        let end = Wal::parse(&wal).committed_len;
        if let Some(segment) = wal.get(self.offset..end).filter(|segment| !segment.is_empty()) {
            self.store(&format!("wal/{:08x}_{:08x}.wal.lz4", self.index, self.offset), segment)?;
            self.offset = end;
        }
        self.note_moment()
    }

    /// Ships the rest of the WAL, checkpoints, and goes on with the next index.
    ///
    /// # Errors
    /// When SQLite fails or is blocked.
    pub fn checkpoint(&mut self, mode: CheckpointMode) -> Result<()> {
        self.ship()?;
        self.restart_wal(mode)?;
        self.index += 1;
        Ok(())
    }

    /// The states shipped so far, oldest first.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// The newest of [`moments`](Self::moments).
    ///
    /// # Errors
    /// When nothing was shipped.
    pub fn last(&self) -> Result<&Moment> {
        self.moments.last().context("nothing was shipped yet")
    }

    /// The objects of the backup, relative to the replica, sorted.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn objects(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for generation in children(&self.replica.join("generations"))? {
            for kind in children(&generation)? {
                for object in children(&kind)? {
                    found.push(object.strip_prefix(&self.replica)?.to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn note_moment(&mut self) -> Result<()> {
        self.moments.push(Moment { at: self.clock, image: read_image(&self.db)? });
        Ok(())
    }

    fn restart_wal(&mut self, mode: CheckpointMode) -> Result<()> {
        let done = scenario::checkpoint(&self.connection, mode)?;
        ensure!(!done.is_blocked && done.frames == done.copied, "checkpoint is incomplete: {done:?}");
        if mode != CheckpointMode::Truncate {
            // The next writer begins the WAL anew over what is in it. Until then
            // the old frames would look like the new ones.
            self.connection.execute_batch("INSERT OR REPLACE INTO _litestream_seq VALUES (1, random())")?;
        }
        self.offset = 0;
        Ok(())
    }

    fn store(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.clock += Duration::from_secs(1);
        let path = self.replica.join("generations").join(&self.generation).join(name);
        store(&path, &compress(content)?, self.clock)
    }
}

/// Writes an object with a modification time of its own.
///
/// # Errors
/// When the disk fails.
pub fn store(path: &Path, bytes: &[u8], modified: SystemTime) -> Result<()> {
    fs::create_dir_all(path.parent().context("an object has a directory")?)?;
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(bytes)?;
    file.set_modified(modified)?;
    Ok(())
}

/// One LZ4 frame as 0.3 wrote it: blocks of up to 4 MiB and a content checksum.
///
/// # Errors
/// Never in practice: it writes to memory.
pub fn compress(content: &[u8]) -> Result<Vec<u8>> {
    let info = FrameInfo::new().block_size(BlockSize::Max4MB).content_checksum(true);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

/// What such a frame holds.
///
/// # Errors
/// When the frame is damaged.
pub fn decompress(frame: &[u8]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    std::io::copy(&mut lz4_flex::frame::FrameDecoder::new(frame), &mut content)?;
    Ok(content)
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// 2023-01-02 03:04:05 UTC: the objects' times start one second later.
pub const FIRST_TIME: u64 = 1_672_628_645;
