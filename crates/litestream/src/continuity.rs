//! May capture go on from where it stood: after a process start ([`judge`]), and
//! while it runs ([`proceed`])?
//!
//! Two questions, no I/O. The answer "yes" is given only when the log itself
//! proves that the recorded prefix is still there, or the pins that it was; everything
//! else is a reason to compare the whole database instead. Upstream guesses here, and
//! loses commits silently (spec: replication §6.3, §17 D1, D1b, D3, D5).

use std::cmp::Ordering;
use std::fmt;

use ltx::PageSize;

use crate::position::{Inode, Position};
use crate::wal::{Chain, FRAME_HEADER_LEN, Salts, WalPosition};
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

/// What there is to capture between a place in the log and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Nothing,
    /// The frames after the place.
    Frames,
    /// The log has started over, and everything before was captured: go on from here.
    StartedOver(WalPosition),
}

/// Where capture goes on from `here` when the log ends at `end`, under pins that have
/// been held without a gap. `is_caught_up` when everything under the first of them was
/// captured: before that a restart proves nothing, because it may sit on slot 0.
///
/// Salts do not tell how often the log started over: two restarts without a commit in
/// between are as harmless as one, and one under a pin that was lost is as harmful
/// as two. [`Tally`] tells whether a commit is missing.
///
/// # Errors
/// Why the log does not continue `here`.
pub(crate) fn proceed(here: &WalPosition, end: &WalPosition, is_caught_up: bool) -> Result<Next, &'static str> {
    if end.salts != here.salts {
        if !is_caught_up {
            return Err("the wal was restarted before its end was captured");
        }
        return Ok(Next::StartedOver(WalPosition { salts: end.salts, frame: 0, chain: Chain::default() }));
    }
    match end.frame.cmp(&here.frame) {
        Ordering::Less => Err("the wal became shorter within one generation"),
        Ordering::Equal => Ok(Next::Nothing),
        Ordering::Greater => Ok(Next::Frames),
    }
}

/// The number of commits SQLite had counted at a place up to which everything has been
/// captured.
///
/// The wal-index carries a counter that grows by one with each commit, whatever happens
/// to the log. Between two looks it may not grow by more than the commits found in the
/// frames: a pin that was lost without anybody noticing shows here, and only here
/// (docs/spec/sqlite-wal.md §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    salts: Salts,
    frame: u32,
    /// What the counter said at the last look.
    counted: u32,
    /// Commits found in the frames since then.
    found: u32,
    /// Nothing relates the present generation to the one before it, so that the count
    /// is all there is.
    is_sole_proof: bool,
}

impl Tally {
    /// Everything up to `place` is captured, and the counter stood at `counted` there.
    pub(crate) fn new(place: &WalPosition, counted: u32) -> Self {
        Self { salts: place.salts, frame: place.frame, counted, found: 0, is_sole_proof: false }
    }

    /// True when it belongs to this place.
    pub(crate) fn is_at(&self, place: &WalPosition) -> bool {
        (self.salts, self.frame) == (place.salts, place.frame)
    }

    /// After `found` commits more, up to `end`.
    pub(crate) fn after(self, end: &WalPosition, found: u32) -> Self {
        Self { salts: end.salts, frame: end.frame, found: self.found.saturating_add(found), ..self }
    }

    /// At the start of the generation that the log has now.
    pub(crate) fn started_over(self, start: &WalPosition) -> Self {
        // A generation that never had a frame gets random salts with its first one.
        let is_related = start.salts.follows(self.salts) || self.frame == 0;
        Self { salts: start.salts, frame: 0, is_sole_proof: !is_related, ..self }
    }

    /// True when no commit is missing, the counter being at `counted` now. A counter
    /// that began anew does not add up either.
    ///
    /// More commits may be found than were counted: where a device may tear a sector,
    /// SQLite repeats the last frame of a transaction to fill it.
    pub(crate) fn adds_up(&self, counted: u32) -> bool {
        let expected = counted.wrapping_sub(self.counted);
        if self.is_sole_proof { expected == self.found } else { expected <= self.found }
    }
}

/// What stood in the WAL right behind the captured position when a database was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The position.
    pub(crate) place: WalPosition,
    /// The WAL.
    pub(crate) wal_inode: Inode,
    /// The header of the frame there, left over from an older generation: page number,
    /// size, salts, checksum.
    pub(crate) frame_header: [u8; FRAME_HEADER_LEN],
}

impl Tail {
    /// The frame belongs to another generation than the position.
    fn is_left_over(&self) -> bool {
        let word = |at: usize| self.frame_header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        match (word(8), word(12)) {
            (Some(first), Some(second)) => {
                Salts(u32::from_be_bytes(first), u32::from_be_bytes(second)) != self.place.salts
            }
            _ => false,
        }
    }
}

/// True when it is proven that the WAL was restarted once, and that nothing had been
/// added to its generation since the position was its end: the frame behind the
/// position, `before`, was left over from an older generation and stands there
/// untouched. Everything since then is in the present generation from its start.
///
/// A frame added to the old generation, or one of the new generation that reaches so
/// far, would have overwritten it; a WAL that was cut off or made anew would not have
/// it. Two restarts add two to the first salt.
pub(crate) fn restarted_at_its_end(
    position: &Position,
    evidence: &Evidence,
    before: Option<Tail>,
    now: Option<Tail>,
) -> bool {
    let Some(before) = before else { return false };
    evidence.inode == position.inode
        && evidence.page_size == position.page_size
        && evidence.index.end.salts.follows(position.wal.salts)
        && evidence.index.end.frame <= position.wal.frame
        && before.place == position.wal
        && before.is_left_over()
        && now == Some(before)
}

#[cfg(test)]
mod tests {
    use ltx::{Checksum, Txid};

    use super::*;

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
            index: WalIndex { end, commit: 10, changes: 1, backfilled: 0, page_size: PageSize::new(4096) },
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

    /// The rest of an older, longer generation stands behind the position.
    fn tail(place: WalPosition, salt: u32) -> Tail {
        let mut frame_header = [3; FRAME_HEADER_LEN];
        frame_header[8..12].copy_from_slice(&salt.to_be_bytes());
        frame_header[12..16].copy_from_slice(&9_u32.to_be_bytes());
        Tail { place, wal_inode: Inode { device: 1, number: 3 }, frame_header }
    }

    #[test]
    fn one_restart_at_the_end_of_what_was_captured_is_proven_by_what_lies_behind() {
        let place = wal(7, 20, 33);
        let position = position(place);
        let restarted = evidence(wal(8, 2, 99), None);
        let left_over = Some(tail(place, 5));
        assert!(restarted_at_its_end(&position, &restarted, left_over, left_over));
        let cases = [
            ("nothing was seen there before", restarted, None, left_over),
            ("the wal was cut off", restarted, left_over, None),
            ("frames were added before the restart", restarted, left_over, Some(tail(place, 7))),
            ("the frame there may be one that was rolled back", restarted, Some(tail(place, 7)), Some(tail(place, 7))),
            ("seen at another place", restarted, Some(tail(wal(7, 19, 1), 5)), Some(tail(wal(7, 19, 1), 5))),
            ("restarted twice", evidence(wal(9, 2, 99), None), left_over, left_over),
            ("the new generation reaches further", evidence(wal(8, 21, 99), None), left_over, left_over),
            (
                "another wal",
                restarted,
                left_over,
                Some(Tail { wal_inode: Inode { device: 1, number: 4 }, ..tail(place, 5) }),
            ),
            ("another database", Evidence { inode: Inode { device: 1, number: 9 }, ..restarted }, left_over, left_over),
        ];
        for (what, evidence, before, now) in cases {
            assert!(!restarted_at_its_end(&position, &evidence, before, now), "{what}");
        }
    }

    #[test]
    fn an_empty_log_proves_nothing_without_salts() {
        let empty = WalPosition { salts: Salts(0, 0), frame: 0, chain: Chain(0, 0) };
        assert_eq!(judge(&position(empty), &evidence(empty, None)), Err(Gap::Unanchored));
        assert_eq!(judge(&position(wal(7, 0, 0)), &evidence(wal(7, 3, 5), None)), Ok(()));
    }

    /// Under pins a generation that starts over is followed, as often as it does so
    /// without a commit; without their proof it is not.
    #[test]
    fn a_generation_that_starts_over_is_followed_under_pins_only() {
        let here = wal(7, 20, 33);
        for salt in [8, 9, 70] {
            let start = WalPosition { salts: Salts(salt, 9), frame: 0, chain: Chain::default() };
            assert_eq!(proceed(&here, &wal(salt, 3, 5), true), Ok(Next::StartedOver(start)));
            assert!(proceed(&here, &wal(salt, 3, 5), false).is_err());
        }
        assert_eq!(proceed(&here, &here, false), Ok(Next::Nothing));
        assert_eq!(proceed(&here, &wal(7, 21, 34), false), Ok(Next::Frames));
        assert!(proceed(&here, &wal(7, 19, 32), true).is_err());
    }

    /// A pin was lost: a commit was checkpointed and overwritten, and the salts look as
    /// if nothing had happened.
    #[test]
    fn a_commit_that_is_counted_but_not_found_is_a_gap() {
        let tally = Tally::new(&wal(7, 20, 33), u32::MAX);
        assert!(tally.is_at(&wal(7, 20, 34)) && !tally.is_at(&wal(7, 21, 33)));
        assert!(tally.adds_up(u32::MAX));
        assert!(!tally.adds_up(0), "one more was counted");
        let next = tally.started_over(&wal(8, 0, 0)).after(&wal(8, 4, 1), 2);
        assert!(next.is_at(&wal(8, 4, 1)));
        assert!(next.adds_up(1));
        assert!(!next.adds_up(2), "three were counted, two were found");
        assert!(next.adds_up(0), "frames that fill a sector are no commits");
        assert!(!next.adds_up(u32::MAX - 1), "the counter began anew");
        let unrelated = tally.started_over(&wal(70, 0, 0)).after(&wal(70, 4, 1), 2);
        assert!(unrelated.adds_up(1));
        assert!(!unrelated.adds_up(0) && !unrelated.adds_up(2), "only the count proves anything");
    }
}
