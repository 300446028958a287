//! Missing transactions.
//!
//! Spec: store-and-restore §7.

use std::fmt;

use litestream_replica::{FileInfo, Inventory, Level};
use ltx::Txid;

/// A run of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hole {
    /// The first that is missing.
    pub first: Txid,
    /// The last that is missing.
    pub last: Txid,
}

impl Hole {
    /// Every TXID of the hole, ascending.
    pub fn txids(&self) -> impl Iterator<Item = Txid> + use<> {
        (self.first.get()..=self.last.get()).map(Txid::new)
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{} to {}", self.first, self.last) }
    }
}

/// Transactions above the oldest image that no file of levels 0 to 8 holds,
/// although files beyond them exist; ascending.
///
/// Where an image lies above such a hole the newest state can be restored all
/// the same, but the states between hole and image cannot. Sending the lost
/// files again, where the local state still has them, brings them back.
pub fn missing(inventory: &Inventory) -> Vec<Hole> {
    let base = images(inventory).next().map_or(Txid::NONE, |image| image.id.max);
    let mut files: Vec<&FileInfo> =
        inventory.files().iter().filter(|file| file.id.level != Level::SNAPSHOT && file.id.max > base).collect();
    files.sort_by_key(|file| file.id.min);
    let mut covered = base;
    let mut holes = Vec::new();
    for file in files {
        if file.id.min > covered.next() {
            holes.push(Hole { first: covered.next(), last: file.id.min.previous() });
        }
        covered = covered.max(file.id.max);
    }
    holes
}

/// The images of level 9, oldest first.
pub(crate) fn images(inventory: &Inventory) -> impl DoubleEndedIterator<Item = &FileInfo> {
    inventory.level(Level::SNAPSHOT).iter().filter(|file| is_readable(file))
}

/// Whether a restore can make use of a file: at level 9 it must start at TXID 1.
pub(crate) fn is_readable(file: &FileInfo) -> bool {
    file.id.level != Level::SNAPSHOT || file.id.min == Txid::FIRST
}
