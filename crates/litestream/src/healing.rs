//! What a replica lacks, and which local copies can stand in.
//!
//! Decisions over an inventory, without I/O, and the one check a local copy must
//! pass before it is sent: it is whole and is what its name says.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use litestream_replica::{FileId, Inventory, Level, Target};
use ltx::{Decoder, Header, Txid};

use crate::error::{Error, ErrorKind, Result};
use crate::hole::missing;

/// True when the newest state can be restored without any damaged file, and
/// stands at `newest`. A damaged file spoils the restore of upstream, which does
/// not plan around it, so a snapshot must have been made since.
pub(crate) fn reaches(inventory: &Inventory, damaged: &BTreeSet<FileId>, newest: Txid) -> bool {
    let snapshot = inventory.level(Level::SNAPSHOT).iter().rfind(|file| !damaged.contains(&file.id));
    let covered = snapshot.map_or(Txid::NONE, |file| file.id.max);
    let is_covered = damaged.iter().all(|id| id.max <= covered);
    is_covered && inventory.plan(Target::Latest).is_ok_and(|plan| plan.txid() == newest)
}

/// The local files, of `files`, that the replica lacks in the midst of its history.
pub(crate) fn refill(inventory: &Inventory, files: &[Txid]) -> Vec<Txid> {
    let holes = missing(inventory);
    let is_missing = |txid: &Txid| holes.iter().any(|hole| hole.first <= *txid && *txid <= hole.last);
    files.iter().copied().filter(is_missing).collect()
}

/// True when something is missing that can be, or must be, put back. `newest` is
/// the newest transaction that the replica is said to have.
pub(crate) fn is_needed(inventory: &Inventory, damaged: &BTreeSet<FileId>, files: &[Txid], newest: Txid) -> bool {
    let newest_l0 = inventory.level(Level::L0).last().map_or(Txid::NONE, |file| file.id.max);
    newest_l0 < newest || !reaches(inventory, damaged, newest) || !refill(inventory, files).is_empty()
}

/// The header of a local copy of `id`; `None` when there is none or it is not
/// fit to be sent.
pub(crate) async fn verify_copy(path: &Path, id: FileId) -> Result<Option<Header>> {
    let path = path.to_owned();
    let checked = tokio::task::spawn_blocking(move || {
        let header = match read_to_end(&path) {
            Ok(header) => header,
            Err(ltx::Error::Read(err)) if err.kind() == io::ErrorKind::NotFound => return None,
            Err(err) => {
                tracing::warn!(path = %path.display(), error = %err, "local copy is damaged");
                return None;
            }
        };
        (header.min == id.min && header.max == id.max).then_some(header)
    });
    checked.await.map_err(|err| Error::with_source(ErrorKind::Transient, "verify local copy", err))
}

fn read_to_end(path: &Path) -> ltx::Result<Header> {
    let file = File::open(path).map_err(ltx::Error::Read)?;
    let mut decoder = Decoder::new(BufReader::with_capacity(256 << 10, file))?;
    let mut page = vec![0; decoder.header().page_size.len()];
    while decoder.next_page(&mut page)?.is_some() {}
    Ok(decoder.finish()?.header)
}
