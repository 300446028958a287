//! What must hold, checked against a search that tries everything.

use std::collections::HashSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use litestream::hole::Hole;
use litestream::retention::Deletion;
use litestream::validation::{ProblemKind, check_level};
use litestream_replica::{ErrorKind, FileId, FileInfo, Inventory, Level, Target};
use ltx::Txid;

use crate::model::Content;
use crate::reach::{newest, newest_before, reachable};
use crate::site::Site;

/// A target can be restored exactly when a chain of files leads to it, and what
/// comes out is the database as it was.
pub fn target_is_restored_exactly_when_a_chain_exists(site: &mut Site, target: Target) {
    site.checked += 1;
    let files = site.remote.files();
    let plan = site.remote.plan(target);
    let expected = match target {
        Target::Latest => newest(&reachable(files, |_| true)),
        Target::Txid(txid) => {
            let ends = reachable(files, |file| file.id.max <= txid);
            if ends.get(txid.get() as usize) == Some(&true) { txid.get() } else { 0 }
        }
        Target::Timestamp(moment) => newest_before(files, moment),
    };
    match plan {
        Ok(plan) => {
            assert_eq!(plan.txid().get(), expected, "{target:?}: the plan ends elsewhere than the longest chain");
            let chain: Vec<&Content> = plan.files.iter().map(|file| &site.contents[&file.id]).collect();
            let restored = Content::restore(&chain);
            assert_eq!(restored, site.db.at(expected), "{target:?}: another image than recorded at {expected}");
        }
        Err(err) => {
            let is_refused_for_a_hole = err.kind() == ErrorKind::Hole && !matches!(target, Target::Txid(_));
            if is_refused_for_a_hole {
                let beyond = files.iter().any(|file| file.id.max.get() > expected);
                assert!(beyond, "{target:?}: {err}, but nothing lies beyond {expected}");
            } else {
                assert_eq!(expected, 0, "{target:?}: {err}, but a chain exists");
            }
        }
    }
}

/// Deletions are files of the listing, each once.
pub fn deletions_are_distinct_and_there(site: &Site, deletions: &[Deletion]) {
    let mut seen = HashSet::new();
    for deletion in deletions {
        assert!(seen.insert(deletion.file.id), "{} is deleted twice", deletion.file.id);
        assert!(site.remote.files().contains(&deletion.file), "{} is not in the listing", deletion.file.id);
    }
    for level in Level::all() {
        let files = site.remote.level(level);
        let left = files.iter().filter(|file| !seen.contains(&file.id)).map(|file| file.id.max).max();
        assert_eq!(left, files.iter().map(|file| file.id.max).max(), "the newest file of level {level} goes");
    }
}

/// After a retention pass, whole or interrupted: the newest state, every moment
/// younger than `l0-retention` to the transaction, and every moment of the window
/// to the granularity of the merged files, are what they were.
pub fn nothing_promised_is_lost(site: &mut Site, before: &Inventory) {
    let now = site.now();
    let after = site.remote.files();
    let newest_kept = newest(&reachable(after, |_| true));
    assert_eq!(newest_kept, newest(&reachable(before.files(), |_| true)), "the newest state is gone");
    assert!(site.is_whole(), "the newest state cannot be restored after a retention pass");

    let window = now - span(site.policy.snapshot_retention);
    let fine = now - span(site.policy.l0_retention);
    // What a pass may thin out at most: old level-0 files that a merged file, just
    // as old, contains; and an image that level 9 has as well.
    let coarse: Vec<FileInfo> =
        before.files().iter().filter(|file| !may_be_thinned(file, before, fine)).copied().collect();
    for moment in moments(before, window, now) {
        let was = newest_before(before.files(), moment);
        let is = newest_before(after, moment);
        if moment > fine || site.policy.l0_retention.is_zero() {
            assert_eq!(is, was, "{moment} is restored to another state after a retention pass");
        } else {
            let least = newest_before(&coarse, moment);
            assert!(is >= least, "{moment} gave {was} and gives {is} after a retention pass; {least} was promised");
        }
        site.checked += 1;
        site.tally.moments += 1;
    }
}

fn may_be_thinned(file: &FileInfo, inventory: &Inventory, limit: Timestamp) -> bool {
    let contains = |other: &&FileInfo| other.id.min <= file.id.min && other.id.max >= file.id.max;
    let is_merged = |other: &&FileInfo| (1..=8).contains(&other.id.level.get()) && other.created_at <= limit;
    let is_same_image = |other: &&FileInfo| {
        other.id.level == Level::SNAPSHOT
            && file.id.min == Txid::FIRST
            && other.id.max == file.id.max
            && other.created_at <= limit
            && other.created_at <= file.created_at + SignedDuration::from_secs(30)
    };
    file.id.level == Level::L0
        && file.created_at <= limit
        && inventory.files().iter().any(|other| contains(&other) && (is_merged(&other) || is_same_image(&other)))
}

/// Moments of the window worth trying: its start, now, and just behind some files.
fn moments(inventory: &Inventory, window: Timestamp, now: Timestamp) -> Vec<Timestamp> {
    let mut moments: Vec<Timestamp> = inventory
        .files()
        .iter()
        .map(|file| file.created_at + SignedDuration::from_millis(1))
        .filter(|moment| *moment >= window && *moment <= now)
        .collect();
    moments.sort();
    moments.dedup();
    let step = moments.len() / 6 + 1;
    let mut some: Vec<Timestamp> = moments.into_iter().step_by(step).collect();
    some.extend([window, now]);
    some
}

/// In a history that nothing disturbed every moment of the window has a state,
/// and what lies between that state and the moment is within one merged file.
pub fn every_moment_of_the_window_has_a_state(site: &mut Site) {
    if site.is_disturbed {
        return;
    }
    let now = site.now();
    let files = site.remote.files();
    let Some(start) = files.iter().map(|file| file.created_at).min() else { return };
    let window = start.max(now - span(site.policy.snapshot_retention));
    for moment in moments(&site.remote, window, now) {
        let state = newest_before(files, moment);
        let captured = site.captured.iter().take(site.uploaded as usize).rposition(|time| *time < moment);
        let captured = captured.map_or(0, |index| index as u64 + 1);
        site.checked += 1;
        if state >= captured {
            continue;
        }
        if state == 0 {
            // The first state is dated by its image, where that is the only file
            // left of it.
            assert!(moment < start + SignedDuration::from_secs(31), "{moment} has no state");
            continue;
        }
        // The transactions between may have been merged with later ones, or be held
        // by an image alone.
        let is_explained = files
            .iter()
            .any(|file| file.id.min.get() <= state + 1 && file.id.max.get() > state && file.created_at >= moment);
        assert!(is_explained, "{moment} gives {state} although {captured} was stored before it");
    }
}

/// Inputs of a merge as `ltx::merge` wants them, and a name that says what is in
/// them.
pub fn inputs_join_up(site: &Site, inputs: &[FileInfo], into: FileId) {
    assert!(inputs.len() <= 256, "too many inputs");
    for pair in inputs.windows(2) {
        let joins = pair[1].id.min <= pair[0].id.max.next() && pair[1].id.max > pair[0].id.max;
        assert!(joins, "{} does not continue {}", pair[1].id, pair[0].id);
    }
    assert!(inputs.iter().all(|file| file.id.level < into.level && site.remote.files().contains(file)));
    assert_eq!((into.min, into.max), (inputs[0].id.min, inputs[inputs.len() - 1].id.max));
    let is_new = site.remote.level(into.level).iter().all(|file| file.id.min > into.min || file.id.max < into.max);
    assert!(is_new, "{into} takes the level nowhere");
}

/// A compaction adds no gap that nothing bridges, and the state its file ends at
/// can be restored if it could before.
pub fn new_file_is_usable(site: &Site, before: &Inventory, into: FileId) {
    for problem in check_level(site.remote.level(into.level)) {
        if problem.kind != ProblemKind::Gap || problem.next != into {
            continue;
        }
        assert!(problem.is_bridged(&site.remote), "{problem}");
        let files = site.remote.files();
        let mut reached = problem.prev.max;
        while let Some(file) = files.iter().find(|file| {
            let continues = file.id.min <= reached.next() && file.id.max > reached;
            continues && file.id != into
        }) {
            reached = file.id.max;
        }
        assert!(reached.next() >= into.min, "{problem}, and nothing bridges it");
    }
    let was = newest(&reachable(before.files(), |_| true));
    let is = newest(&reachable(site.remote.files(), |_| true));
    assert_eq!(is, was, "a compaction changes the newest state");
}

/// What blocks a level is really nowhere below it.
pub fn is_missing(site: &Site, level: Level, hole: Hole) {
    assert!(hole.first <= hole.last);
    for file in site.remote.files() {
        if file.id.level.get() + 1 == level.get() {
            let holds = file.id.min <= hole.first && file.id.max >= hole.first;
            assert!(!holds, "{} holds {hole}, which is said to block level {level}", file.id);
        }
    }
}

fn span(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap()
}
