//! Histories to back up, and the images they must restore to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use litestream_replica::restore::NoProgress;
use litestream_replica::{FileId, Level, ReplicaClient, RestoreOptions, Restored, Result, restore};
use ltx::{Checksum, Encoder, Header, PageSize, Pgno, Txid};

use crate::store::Store;

/// A database whose every state is remembered.
pub(crate) struct World {
    pub(crate) page_size: PageSize,
    /// Image after each TXID, from 1.
    pub(crate) images: Vec<Vec<u8>>,
    /// Pages each TXID changed.
    changes: Vec<BTreeMap<u32, Vec<u8>>>,
    rng: fastrand::Rng,
}

impl World {
    pub(crate) fn new(page_size: u32, seed: u64) -> Self {
        Self {
            page_size: PageSize::new(page_size).unwrap(),
            images: Vec::new(),
            changes: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// A page that compresses to about half.
    pub(crate) fn page(&mut self) -> Vec<u8> {
        let len = self.page_size.len();
        let mut page = vec![0; len];
        let noise = self.rng.usize(0..=len);
        self.rng.fill(&mut page[..noise]);
        page
    }

    /// A transaction that leaves `commit` pages and changes these, besides all
    /// that are new.
    pub(crate) fn commit(&mut self, commit: u32, changed: impl IntoIterator<Item = u32>) {
        let len = self.page_size.len();
        let mut image = self.images.last().cloned().unwrap_or_default();
        let before = (image.len() / len) as u32;
        image.resize(commit as usize * len, 0);
        let pages: Vec<u32> = changed.into_iter().chain(before + 1..=commit).collect();
        let mut change = BTreeMap::new();
        for pgno in pages {
            let page = self.page();
            image[(pgno as usize - 1) * len..pgno as usize * len].copy_from_slice(&page);
            change.insert(pgno, page);
        }
        self.images.push(image);
        self.changes.push(change);
    }

    /// A history of `count` transactions that grow, shrink and overwrite.
    pub(crate) fn random(page_size: u32, seed: u64, count: usize) -> Self {
        let mut world = Self::new(page_size, seed);
        let mut commit = world.rng.u32(1..20);
        world.commit(commit, []);
        for _ in 1..count {
            let next = match world.rng.u8(0..4) {
                0 => commit + world.rng.u32(0..12),
                1 => world.rng.u32(1..=commit),
                _ => commit,
            };
            let touched = world.rng.usize(0..4);
            let touched: Vec<u32> = (0..touched).map(|_| world.rng.u32(1..=next)).collect();
            world.commit(next, touched);
            commit = next;
        }
        world
    }

    pub(crate) fn last(&self) -> u64 {
        self.images.len() as u64
    }

    pub(crate) fn image(&self, txid: u64) -> &[u8] {
        &self.images[txid as usize - 1]
    }

    /// The file that takes TXID `min - 1` to `max`.
    pub(crate) fn file(&self, level: u8, min: u64, max: u64) -> (FileId, Vec<u8>) {
        let id = id(level, min, max);
        let len = self.page_size.len();
        let commit = (self.image(max).len() / len) as u32;
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for change in &self.changes[min as usize - 1..max as usize] {
            pages.extend(change.iter().map(|(pgno, page)| (*pgno, page.clone())));
        }
        if min == 1 {
            let image = self.image(max).chunks(len).zip(1..);
            pages = image.map(|(page, pgno)| (pgno, page.to_vec())).collect();
        }
        pages.retain(|pgno, _| *pgno <= commit);
        (id, encode(id, self.page_size, commit, pages))
    }

    pub(crate) fn store(&self, files: &[(u8, u64, u64)]) -> Arc<Store> {
        Store::new(files.iter().map(|(level, min, max)| self.file(*level, *min, *max)))
    }
}

pub(crate) fn id(level: u8, min: u64, max: u64) -> FileId {
    FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) }
}

/// An LTX file of these pages.
pub(crate) fn encode(
    id: FileId,
    page_size: PageSize,
    commit: u32,
    pages: impl IntoIterator<Item = (u32, Vec<u8>)>,
) -> Vec<u8> {
    let header = Header::new(page_size, commit, id.min, id.max, Store::time_of(id.max));
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for (pgno, page) in pages {
        encoder.encode_page(Pgno::new(pgno).unwrap(), &page).unwrap();
    }
    encoder.finish(Checksum::NONE).unwrap().0
}

/// Restores into `dir/db`.
pub(crate) async fn restore_to(
    client: Arc<dyn ReplicaClient>,
    dir: &Path,
    set: impl FnOnce(&mut RestoreOptions),
) -> Result<Restored> {
    let mut options = RestoreOptions::new(dir.join("db"));
    set(&mut options);
    // On a task of its own, as programs do: proves that the future may move.
    tokio::spawn(restore(client, options, Arc::new(NoProgress))).await.unwrap()
}

/// All names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Fails with the first page that differs rather than with two dumps.
pub(crate) fn assert_same_image(found: &[u8], expected: &[u8], page_size: PageSize) {
    let len = page_size.len();
    assert_eq!(found.len(), expected.len(), "length of the database");
    let differing = found.chunks(len).zip(expected.chunks(len)).position(|(a, b)| a != b);
    assert_eq!(differing.map(|at| at + 1), None, "first page that differs");
}
