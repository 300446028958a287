//! The pin chain in every state that can be reached within the bounds of each test.

#![allow(clippy::print_stdout, reason = "how much was searched is part of the result")]

use litestream_model::connection::{Mode, Task};
use litestream_model::daemon::Wish;
use litestream_model::explore::{Extent, explore, replay};
use litestream_model::world::{Bounds, Move};

/// Nobody is interrupted in the middle of a task, two others, no limit on how often
/// anybody acts.
const WHOLE: Bounds = Bounds {
    others: 2,
    frames: 2,
    tasks: None,
    passes: None,
    others_in_steps: false,
    daemon_in_steps: false,
    failures: true,
    restarts: true,
    faults: Some(0),
    check_quiet: true,
};

/// Explores and prints what was covered. The limit on states only keeps a mistake in the
/// model from taking all memory.
fn check(name: &str, bounds: &Bounds, depth: usize) -> Extent {
    let began = std::time::Instant::now();
    let extent = explore(bounds, depth, 3_000_000).unwrap_or_else(|broken| panic!("{name}: {broken:?}"));
    println!(
        "{name}: {} states, {} transitions, depth {}{}, {:.1} s",
        extent.states,
        extent.transitions,
        extent.depth,
        if extent.is_complete { ", complete" } else { "" },
        began.elapsed().as_secs_f64()
    );
    extent
}

/// Two others that commit, roll back, read and checkpoint as they like, for ever.
#[test]
fn no_commit_is_lost_while_nobody_fails() {
    let bounds = Bounds { failures: false, restarts: false, ..WHOLE };
    assert!(check("nobody fails", &bounds, 200).is_complete);
}

/// Any action may fail, any process may die and come back, logs are deleted by the last
/// close and wal-indexes rebuilt.
#[test]
fn no_commit_is_lost_whoever_fails_or_dies() {
    assert!(check("failures and deaths", &Bounds { others: 1, ..WHOLE }, 200).is_complete);
    assert_eq!(check("failures and deaths, two others", &WHOLE, 13).depth, 13);
}

/// And the system drops locks, databases are replaced and logs deleted.
#[test]
fn no_commit_is_lost_when_pins_and_files_vanish() {
    let bounds = Bounds { others: 1, faults: None, check_quiet: false, ..WHOLE };
    assert_eq!(check("vanishing pins and files", &bounds, 15).depth, 15);
}

/// Everybody is interrupted between any two locks or words of shared memory.
#[test]
fn no_commit_is_lost_between_two_locks() {
    let bounds = Bounds { tasks: Some(4), passes: Some(2), restarts: false, failures: false, ..IN_STEPS };
    let one = Bounds { others: 1, ..bounds };
    assert_eq!(check("between two locks, one other", &one, 52).depth, 52);
    let two = Bounds { tasks: Some(3), passes: Some(1), ..bounds };
    assert_eq!(check("between two locks, two others", &two, 32).depth, 32);
}

/// The first counterexample this search found: an application restarts the log twice
/// without a commit, by a transaction that is rolled back after it spilled and by a
/// checkpoint. The salts move by two, and every page was compared for nothing.
#[test]
fn two_restarts_without_a_commit_are_followed() {
    let moves = [
        Move::OtherBegins(0, Task::Write),
        Move::OtherBegins(0, Task::Checkpoint(Mode::Passive)),
        Move::DaemonStarts,
        Move::DaemonGoesOn,
        Move::OtherBegins(0, Task::RollBack),
        Move::OtherBegins(0, Task::Checkpoint(Mode::Truncate)),
    ];
    let world = replay(&Bounds { others: 1, ..WHOLE }, &moves);
    assert!(world.is_ok(), "{:?}", world.err());
}

const IN_STEPS: Bounds = Bounds { daemon_in_steps: true, others_in_steps: true, check_quiet: false, ..WHOLE };

/// The second one: locks vanish, a commit leaves the log, and the daemon dies right after
/// it has written down that the log started over, before it counted the commits. The
/// next start believed the record.
#[test]
fn the_record_follows_a_new_generation_only_when_no_commit_is_missing() {
    let moves = [
        Move::DaemonStarts,
        Move::DaemonGoesOn,
        Move::OtherBegins(0, Task::Write),
        Move::Pass(Wish::Advance),
        Move::DaemonGoesOn,
        Move::LocksVanish,
        Move::OtherBegins(0, Task::Checkpoint(Mode::Truncate)),
        Move::DaemonGoesOn,
        Move::DaemonGoesOn,
        Move::DaemonDies { between_file_and_record: false },
        Move::DaemonStarts,
        Move::DaemonGoesOn,
    ];
    let world = replay(&Bounds { others: 1, faults: Some(1), check_quiet: false, ..WHOLE }, &moves);
    assert!(world.is_ok(), "{:?}", world.err());
}
