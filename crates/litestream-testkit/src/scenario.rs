//! What applications and operators do to a database behind a replicator's back:
//! the single steps that tests of known hazards are made of.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;

use crate::image::sidecar;
use crate::writer::open;

/// How thorough a checkpoint is; see SQLite's `wal_checkpoint` pragma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointMode {
    /// Copies what no reader forbids; waits for nobody.
    Passive,
    /// Waits for writers and old readers, copies everything.
    Full,
    /// Also waits until the next writer can begin the WAL anew.
    Restart,
    /// Also cuts the WAL to nothing.
    Truncate,
}

/// SQLite's answer to a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whether somebody was in the way of a mode other than passive.
    pub is_blocked: bool,
    /// Frames in the WAL.
    pub frames: i64,
    /// Of those, frames copied into the database.
    pub copied: i64,
}

/// Checkpoints over a connection of the caller's.
///
/// # Errors
/// When SQLite fails for another reason than being blocked.
pub fn checkpoint(connection: &Connection, mode: CheckpointMode) -> Result<Checkpoint> {
    let sql = format!("PRAGMA wal_checkpoint({mode:?})");
    Ok(connection.query_row(&sql, [], |row| {
        Ok(Checkpoint { is_blocked: row.get::<_, i64>(0)? != 0, frames: row.get(1)?, copied: row.get(2)? })
    })?)
}

/// Commits `count` transactions of one small row each into table `event`, made if
/// missing.
///
/// # Errors
/// When SQLite fails.
pub fn commit(connection: &Connection, count: u32) -> Result<()> {
    connection.execute_batch("CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY, body BLOB)")?;
    for _ in 0..count {
        connection.execute("INSERT INTO event (body) VALUES (randomblob(200))", [])?;
    }
    Ok(())
}

/// A connection to a WAL database at `db`, made if missing, that never
/// checkpoints by itself.
///
/// # Errors
/// When SQLite fails.
pub fn quiet_connection(db: &Path) -> Result<Connection> {
    let connection = open(db)?;
    connection.execute_batch("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0")?;
    Ok(connection)
}

/// Puts `new`, a closed database, in the place of `db`, as restoring an older
/// backup does: removes the sidecars, then renames. Nobody may have `db` open
/// but the replicator.
///
/// # Errors
/// When a file cannot be moved, or `new` still has a WAL.
pub fn replace_by_rename(db: &Path, new: &Path) -> Result<()> {
    ensure!(!sidecar(new, "-wal").exists(), "{} is not closed", new.display());
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(sidecar(db, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    fs::rename(new, db).with_context(|| format!("rename {} to {}", new.display(), db.display()))
}

/// Rewrites `db` with another page size, which takes it out of WAL mode and back.
///
/// # Errors
/// When somebody else has it open, or SQLite fails.
pub fn change_page_size(db: &Path, page_size: u32) -> Result<()> {
    let connection = open(db)?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = delete; PRAGMA page_size = {page_size}; VACUUM; PRAGMA journal_mode = wal"
    ))?;
    let found: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    ensure!(found == page_size, "page size is {found}, not {page_size}");
    Ok(())
}

/// Flips one bit of a file: byte `offset` from the start, or from the end if
/// negative. Not for a database that this process has open (see
/// [`image`](crate::image)).
///
/// # Errors
/// When the file has no such byte.
pub fn flip_bit(path: &Path, offset: i64) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let from = u64::try_from(offset).map_or(SeekFrom::End(offset), SeekFrom::Start);
    let position = file.seek(from)?;
    let mut byte = [0];
    file.read_exact(&mut byte).with_context(|| format!("byte {offset} of {}", path.display()))?;
    file.seek(SeekFrom::Start(position))?;
    file.write_all(&byte.map(|byte| byte ^ 1))?;
    Ok(())
}
