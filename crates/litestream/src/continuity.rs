//! May capture go on from a recorded position after a process start?
//!
//! One question, no I/O. The answer "yes" is given only when the log itself
//! proves that the recorded prefix is still there; everything else is a reason to
//! compare the whole database instead. Upstream guesses here, and loses commits
//! silently (spec: replication §6.3, §17 D1, D1b, D3, D5).

use std::fmt;

use ltx::PageSize;

use crate::position::{Inode, Position};
use crate::wal::{Chain, Salts};
use crate::wal_index::WalIndex;

/// What was found when the database was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    /// The database file at the path.
    pub(crate) inode: Inode,
    /// Its page size.
    pub(crate) page_size: PageSize,
    /// The wal-index under the first pin.
    pub(crate) index: WalIndex,
    /// Salts and checksum stored in the frame right before the recorded place;
    /// `None` when the log is too short or the place is its start.
    pub(crate) frame_before: Option<(Salts, Chain)>,
}

/// Why capture cannot simply go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Another file stands at the path.
    Replaced,
    /// The WAL was restarted while nobody was watching.
    Restarted,
    /// The WAL is shorter than what was captured of it.
    Shortened,
    /// The frame before the position is not the one that was captured.
    Overwritten,
    /// Nothing had been captured of the generation, so its start proves nothing.
    Unanchored,
    /// The newest local file is not one we recorded: another program wrote it, or
    /// we died right behind it.
    Unrecorded,
    /// The log contradicted itself while it was being captured.
    Broken,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replaced => "the database file was replaced",
            Self::Restarted => "the wal was restarted while litestream was not watching",
            Self::Shortened => "the wal is shorter than what was captured",
            Self::Overwritten => "the wal was overwritten at the captured position",
            Self::Unanchored => "the wal was empty when litestream last looked",
            Self::Unrecorded => "the newest local file has no record, another program may have written it",
            Self::Broken => "the wal contradicted itself",
        })
    }
}

/// `Ok` when the log continues exactly at `position`.
pub(crate) fn judge(position: &Position, evidence: &Evidence) -> Result<(), Gap> {
    if evidence.inode != position.inode || evidence.page_size != position.page_size {
        return Err(Gap::Replaced);
    }
    if evidence.index.end.salts != position.wal.salts {
        return Err(Gap::Restarted);
    }
    if position.wal.frame == 0 {
        // A WAL without a header has no salts. It looks the same before and after
        // a session of the application that ended by deleting its log.
        return if position.wal.salts == Salts::default() { Err(Gap::Unanchored) } else { Ok(()) };
    }
    if evidence.index.end.frame < position.wal.frame {
        return Err(Gap::Shortened);
    }
    // The checksum is cumulative: this one comparison covers the whole prefix.
    match evidence.frame_before {
        Some(found) if found == (position.wal.salts, position.wal.chain) => Ok(()),
        _ => Err(Gap::Overwritten),
    }
}

#[cfg(test)]
mod tests {
    use ltx::{Checksum, Txid};

    use super::*;
    use crate::wal::WalPosition;

    fn wal(salt: u32, frame: u32, chain: u32) -> WalPosition {
        WalPosition { salts: Salts(salt, 9), frame, chain: Chain(chain, chain) }
    }

    fn position(wal: WalPosition) -> Position {
        Position {
            txid: Txid::new(5),
            file_checksum: Checksum::EMPTY,
            page_size: PageSize::new(4096).unwrap(),
            commit: 10,
            wal,
            inode: Inode { device: 1, number: 2 },
        }
    }

    fn evidence(end: WalPosition, before: Option<(u32, u32)>) -> Evidence {
        Evidence {
            inode: Inode { device: 1, number: 2 },
            page_size: PageSize::new(4096).unwrap(),
            index: WalIndex { end, commit: 10, backfilled: 0, page_size: PageSize::new(4096) },
            frame_before: before.map(|(salt, chain)| (Salts(salt, 9), Chain(chain, chain))),
        }
    }

    #[test]
    fn the_same_prefix_continues() {
        let position = position(wal(7, 20, 33));
        assert_eq!(judge(&position, &evidence(wal(7, 20, 33), Some((7, 33)))), Ok(()));
        assert_eq!(judge(&position, &evidence(wal(7, 50, 44), Some((7, 33)))), Ok(()));
    }

    /// D1: the application checkpointed and restarted the WAL while nobody looked.
    /// The old frames still stand behind the new ones, and upstream goes on.
    #[test]
    fn a_restart_nobody_watched_is_a_gap() {
        let position = position(wal(7, 20, 33));
        assert_eq!(judge(&position, &evidence(wal(8, 2, 99), Some((7, 33)))), Err(Gap::Restarted));
        assert_eq!(judge(&position, &evidence(wal(9, 2, 99), Some((7, 33)))), Err(Gap::Restarted), "D1b: twice");
    }

    #[test]
    fn a_rewritten_tail_is_a_gap() {
        let position = position(wal(7, 20, 33));
        assert_eq!(judge(&position, &evidence(wal(7, 25, 1), Some((7, 34)))), Err(Gap::Overwritten));
        assert_eq!(judge(&position, &evidence(wal(7, 19, 1), None)), Err(Gap::Shortened));
    }

    /// D3: an older copy renamed over the database.
    #[test]
    fn another_file_is_a_gap_even_with_the_same_log() {
        let position = position(wal(7, 20, 33));
        let mut evidence = evidence(wal(7, 20, 33), Some((7, 33)));
        evidence.inode.number = 3;
        assert_eq!(judge(&position, &evidence), Err(Gap::Replaced));
    }

    #[test]
    fn an_empty_log_proves_nothing_without_salts() {
        let empty = WalPosition { salts: Salts(0, 0), frame: 0, chain: Chain(0, 0) };
        assert_eq!(judge(&position(empty), &evidence(empty, None)), Err(Gap::Unanchored));
        assert_eq!(judge(&position(wal(7, 0, 0)), &evidence(wal(7, 3, 5), None)), Ok(()));
    }
}
