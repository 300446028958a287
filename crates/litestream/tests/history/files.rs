//! The model's files as real ones.

use std::fs::{self, File};
use std::path::Path;

use jiff::Timestamp;
use litestream_replica::FileId;
use ltx::{Checksum, Encoder, Header, PageSize, Pgno};

use crate::model::Content;
use crate::site::Site;

const PAGE_SIZE: usize = 512;

/// The bytes of a page: its number and version, all over.
fn page(pgno: u32, version: u64) -> Vec<u8> {
    let text = format!("page {pgno} of transaction {version}. ");
    text.bytes().cycle().take(PAGE_SIZE).collect()
}

/// A database of these versions.
pub fn database(versions: &[u64]) -> Vec<u8> {
    (1..).zip(versions).flat_map(|(pgno, version)| page(pgno, *version)).collect()
}

pub fn encode(content: &Content, id: FileId, timestamp: Timestamp) -> Vec<u8> {
    let size = PageSize::new(PAGE_SIZE as u32).unwrap();
    let header = Header::new(size, content.commit, id.min, id.max, timestamp);
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for (pgno, version) in &content.pages {
        encoder.encode_page(Pgno::new(*pgno).unwrap(), &page(*pgno, *version)).unwrap();
    }
    encoder.finish(Checksum::NONE).unwrap().0
}

/// Merges real files; the result is what its name says and dated by its last
/// transaction.
pub fn merge(inputs: Vec<&[u8]>, into: FileId, timestamp: Timestamp) -> Vec<u8> {
    let mut merged = Vec::new();
    let summary = ltx::merge(inputs, &mut merged).unwrap();
    assert_eq!((summary.header.min, summary.header.max), (into.min, into.max));
    assert_eq!(summary.header.timestamp, timestamp, "{into} is not dated by its last transaction");
    assert_eq!(summary.warnings, []);
    merged
}

/// Lays the replica down as a file replica.
pub fn write_replica(site: &Site, directory: &Path) {
    let files = site.files.as_ref().unwrap();
    for info in site.remote.files() {
        let level = directory.join(format!("ltx/{}", info.id.level));
        fs::create_dir_all(&level).unwrap();
        let path = level.join(info.id.name().to_string());
        fs::write(&path, &files[&info.id]).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(info.created_at.into()).unwrap();
    }
}
