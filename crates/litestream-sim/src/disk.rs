//! Our local files: what fails, and what a loss of power takes back.
//!
//! The files are real and show what the page cache would show. Beside them stands what
//! is certainly on the medium: for each file its flushed bytes and the changes since,
//! for each directory its flushed names and the changes since. At a loss of power any
//! part of the changes is there or not, whole or in blocks of 512 bytes, in any order.
//! A flush that failed makes nothing durable, and neither does the next one for what
//! it was to make durable: that is how Linux behaves.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use litestream::{DiskLayer, DiskOp};

use crate::chance::Draws;
use crate::world::{Occasion, World};

/// See the module's description.
pub(crate) struct SimDisk {
    world: Arc<World>,
    medium: Mutex<Medium>,
}

#[derive(Default)]
struct Medium {
    files: BTreeMap<FileNo, Contents>,
    last_file: FileNo,
    /// Names as everybody sees them.
    names: BTreeMap<PathBuf, FileNo>,
    /// Names that are on the medium.
    flushed_names: BTreeMap<PathBuf, FileNo>,
    /// Changes of names since their directory was flushed, oldest first.
    changes: Vec<NameChange>,
}

type FileNo = u64;

#[derive(Default)]
struct Contents {
    flushed: Vec<u8>,
    changes: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

enum NameChange {
    Add(PathBuf, FileNo),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl SimDisk {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world, medium: Mutex::default() }
    }

    fn medium(&self) -> std::sync::MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine loses power: brings the real files to what is left.
    pub(crate) fn lose_power(&self, draws: &mut Draws) -> Result<()> {
        let mut medium = self.medium();
        let names = medium.surviving_names(draws);
        let mut files = BTreeMap::new();
        for path in medium.names.keys().chain(names.keys()) {
            if path.exists() {
                fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        for (path, file) in &names {
            let contents = medium.files.get(file).map(|contents| contents.surviving(draws)).unwrap_or_default();
            fs::write(path, &contents).with_context(|| format!("write {}", path.display()))?;
            files.insert(*file, Contents { flushed: contents, changes: Vec::new() });
        }
        let last_file = medium.last_file;
        *medium = Medium { files, last_file, flushed_names: names.clone(), names, changes: Vec::new() };
        Ok(())
    }

    /// Everything below this directory was deleted by somebody, and that is durable.
    pub(crate) fn forget(&self, dir: &Path) {
        let mut medium = self.medium();
        medium.names.retain(|path, _| !path.starts_with(dir));
        medium.flushed_names.retain(|path, _| !path.starts_with(dir));
        medium.changes.clear();
    }

    fn fault(&self, at: Occasion, op: &DiskOp<'_>) -> io::Result<()> {
        if matches!(op, DiskOp::Reach { .. }) || !self.world.fails(at, "disk", self.world.profile.disk) {
            return Ok(());
        }
        let full = self.world.number(at, "full", 2) == 0;
        match op {
            DiskOp::Write { path, file, offset, bytes } => {
                // A part is written.
                let len = usize::try_from(self.world.number(at, "short", bytes.len() as u64)).unwrap_or(0);
                let part = bytes.get(..len).unwrap_or_default();
                file.write_all_at(part, *offset)?;
                self.medium().write(path, *offset, part);
            }
            DiskOp::Sync { path, .. } => self.medium().fail_sync(path),
            _ => {}
        }
        self.world.tell(|| format!("    local disk fails: {}", name_of(op)));
        Err(io::Error::from_raw_os_error(if full { ENOSPC } else { EIO }))
    }
}

impl DiskLayer for SimDisk {
    fn before(&self, op: &DiskOp<'_>) -> io::Result<()> {
        let world = &self.world;
        if world.is_dead() {
            return Err(io::Error::other("the process is dead"));
        }
        let name = name_of(op);
        let at = world.occasion(&name);
        world.event(&name);
        if world.dies(at, &name) {
            return Err(io::Error::other("the process is dead"));
        }
        self.fault(at, op)?;
        if let DiskOp::Reach { step: "checkpoint" | "flush" } = op {
            world.application().log_is_flushed();
        } else if !is_beside_others(&name) {
            world.interleave(at, &name);
        }
        self.medium().apply(op);
        Ok(())
    }
}

impl Medium {
    fn apply(&mut self, op: &DiskOp<'_>) {
        match op {
            DiskOp::Open { path, truncate } => {
                let is_new = !self.names.contains_key(*path);
                let file = match self.names.get(*path) {
                    Some(file) => *file,
                    None => {
                        self.last_file += 1;
                        self.names.insert(path.to_path_buf(), self.last_file);
                        self.changes.push(NameChange::Add(path.to_path_buf(), self.last_file));
                        self.last_file
                    }
                };
                let contents = self.files.entry(file).or_default();
                if *truncate && !is_new {
                    contents.changes.push(Change::SetLen(0));
                }
            }
            DiskOp::Write { path, offset, bytes, .. } => self.write(path, *offset, bytes),
            DiskOp::SetLen { path, len, .. } => {
                let len = usize::try_from(*len).unwrap_or(0);
                if let Some(contents) = self.contents(path) {
                    contents.changes.push(Change::SetLen(len));
                }
            }
            DiskOp::Sync { path, .. } => {
                if let Some(contents) = self.contents(path) {
                    contents.flush();
                }
            }
            DiskOp::Rename { from, to } => {
                if let Some(file) = self.names.remove(*from) {
                    self.names.insert(to.to_path_buf(), file);
                    self.changes.push(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
                }
            }
            DiskOp::Remove { path } => {
                if self.names.remove(*path).is_some() {
                    self.changes.push(NameChange::Remove(path.to_path_buf()));
                }
            }
            DiskOp::SyncDir { path } => {
                let (flushed, left) = std::mem::take(&mut self.changes)
                    .into_iter()
                    .partition(|change: &NameChange| change.path().parent() == Some(*path));
                self.changes = left;
                for change in flushed {
                    change.apply(&mut self.flushed_names);
                }
            }
            DiskOp::Reach { .. } => {}
        }
    }

    fn write(&mut self, path: &Path, offset: u64, bytes: &[u8]) {
        let change = Change::Write { offset: usize::try_from(offset).unwrap_or(0), bytes: bytes.to_vec() };
        if let Some(contents) = self.contents(path) {
            contents.changes.push(change);
        }
    }

    fn fail_sync(&mut self, path: &Path) {
        if let Some(contents) = self.contents(path) {
            contents.changes.clear();
        }
    }

    fn contents(&mut self, path: &Path) -> Option<&mut Contents> {
        self.files.get_mut(self.names.get(path)?)
    }

    /// The names that are there after a loss of power: changes up to some moment, or any
    /// of them.
    fn surviving_names(&self, draws: &mut Draws) -> BTreeMap<PathBuf, FileNo> {
        let mut names = self.flushed_names.clone();
        let in_order = draws.happens(600);
        let kept = draws.below(self.changes.len() as u64 + 1);
        for (index, change) in (0u64..).zip(&self.changes) {
            let survives = if in_order { index < kept } else { draws.happens(500) };
            if survives {
                change.apply(&mut names);
            }
        }
        names
    }
}

impl NameChange {
    fn path(&self) -> &Path {
        match self {
            Self::Add(path, _) | Self::Rename(_, path) | Self::Remove(path) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, FileNo>) {
        match self {
            Self::Add(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Contents {
    /// Everything written so far is on the medium, but for what a failed flush has lost.
    fn flush(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            change.apply(&mut self.flushed, |_| true);
        }
    }

    fn surviving(&self, draws: &mut Draws) -> Vec<u8> {
        let mut bytes = self.flushed.clone();
        let in_order = draws.happens(400);
        let kept = draws.below(self.changes.len() as u64 + 1);
        for (index, change) in (0u64..).zip(&self.changes) {
            let survives = if in_order { index < kept } else { draws.happens(500) };
            if survives {
                let is_torn = draws.happens(300);
                change.apply(&mut bytes, |_| !is_torn || draws.happens(500));
            }
        }
        bytes
    }
}

impl Change {
    /// Applies the change to the blocks that `survives` names.
    fn apply(&self, file: &mut Vec<u8>, mut survives: impl FnMut(usize) -> bool) {
        match self {
            Self::SetLen(len) => file.resize(*len, 0),
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                let mut at = *offset;
                while at < end {
                    let block_end = ((at / BLOCK_LEN + 1) * BLOCK_LEN).min(end);
                    if survives(at)
                        && let (Some(to), Some(from)) =
                            (file.get_mut(at..block_end), bytes.get(at - offset..block_end - offset))
                    {
                        to.copy_from_slice(from);
                    }
                    at = block_end;
                }
            }
        }
    }
}

/// The step's name: the operation and the kind of file.
fn name_of(op: &DiskOp<'_>) -> String {
    let (what, path) = match op {
        DiskOp::Open { path, .. } => ("open", path),
        DiskOp::Write { path, .. } => ("write", path),
        DiskOp::SetLen { path, .. } => ("set length of", path),
        DiskOp::Sync { path, .. } => ("sync", path),
        DiskOp::Rename { to, .. } => ("rename to", to),
        DiskOp::Remove { path } => ("remove", path),
        DiskOp::SyncDir { path } => ("sync directory", path),
        DiskOp::Reach { step } => return (*step).to_owned(),
    };
    let is_copy = path.components().any(|part| part.as_os_str() == "compacted");
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let kind = match file.split_once('.') {
        Some((_, kind)) if is_copy => format!("copy {kind}"),
        Some((_, kind)) => kind.to_owned(),
        None => file.into_owned(),
    };
    format!("{what} {kind}")
}

/// Done by a thread beside others that the application's actions must not race with.
fn is_beside_others(name: &str) -> bool {
    name.contains("copy")
}

const BLOCK_LEN: usize = 512;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn write(medium: &mut Medium, path: &Path, bytes: &[u8]) {
        medium.apply(&DiskOp::Open { path, truncate: true });
        medium.write(path, 0, bytes);
    }

    /// What a file holds after each of many losses of power; `None` where it is gone.
    fn survivors(medium: &Medium, path: &str) -> Vec<Option<Vec<u8>>> {
        let survivor = |seed| {
            let mut draws = Chance::new(seed).stream("test");
            let file = medium.surviving_names(&mut draws).get(Path::new(path)).copied()?;
            Some(medium.files[&file].surviving(&mut draws))
        };
        (0..200).map(survivor).collect()
    }

    #[test]
    fn what_was_flushed_with_its_name_survives_and_nothing_else_must() {
        let mut medium = Medium::default();
        write(&mut medium, Path::new("/d/a"), b"old");
        let file = tempfile::tempfile().unwrap();
        medium.apply(&DiskOp::Sync { path: Path::new("/d/a"), file: &file });
        assert!(survivors(&medium, "/d/a").contains(&None), "its name was not flushed");
        medium.apply(&DiskOp::SyncDir { path: Path::new("/d") });
        assert!(survivors(&medium, "/d/a").iter().all(|found| found.as_deref() == Some(&b"old"[..])));
        medium.write(Path::new("/d/a"), 0, b"new");
        let found = survivors(&medium, "/d/a");
        assert!(found.contains(&Some(b"old".to_vec())) && found.contains(&Some(b"new".to_vec())));
        medium.fail_sync(Path::new("/d/a"));
        medium.apply(&DiskOp::Sync { path: Path::new("/d/a"), file: &file });
        let found = survivors(&medium, "/d/a");
        assert!(found.iter().all(|found| found.as_deref() == Some(&b"old"[..])), "a failed flush is not made up for");
    }

    #[test]
    fn a_rename_may_be_undone_until_the_directory_is_flushed() {
        let mut medium = Medium::default();
        write(&mut medium, Path::new("/d/a.tmp"), b"x");
        medium.apply(&DiskOp::SyncDir { path: Path::new("/d") });
        medium.apply(&DiskOp::Rename { from: Path::new("/d/a.tmp"), to: Path::new("/d/a") });
        let found = survivors(&medium, "/d/a");
        assert!(found.contains(&None) && found.iter().any(Option::is_some));
        assert!(found.contains(&Some(Vec::new())), "the bytes were not flushed either");
        medium.apply(&DiskOp::SyncDir { path: Path::new("/d") });
        assert!(survivors(&medium, "/d/a").iter().all(Option::is_some));
        assert!(survivors(&medium, "/d/a.tmp").iter().all(Option::is_none));
    }

    #[test]
    fn blocks_of_one_write_survive_each_for_itself() {
        let mut medium = Medium::default();
        write(&mut medium, Path::new("/d/a"), &[1; 4 * BLOCK_LEN]);
        medium.apply(&DiskOp::SyncDir { path: Path::new("/d") });
        let is_torn = |bytes: &Vec<u8>| bytes.contains(&1) && bytes.contains(&0);
        assert!(survivors(&medium, "/d/a").iter().flatten().any(is_torn));
    }
}
