use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{BATCH, Batch, Change, Event, Found, Roster};

const HOUR: Duration = Duration::from_secs(3600);

/// A roster that has had its first look, with nothing to rescan for an hour.
fn roster(known: &[&str], now: Instant) -> Roster {
    let mut roster = Roster::new(known.iter().map(PathBuf::from), now, HOUR);
    assert!(roster.take(now).unwrap().scan_all, "everything is looked at first");
    roster
}

fn note(roster: &mut Roster, path: &str, now: Instant) {
    roster.note(Event::File(path.into()), now, |path| path.extension().is_some_and(|extension| extension == "db"));
}

fn looks(batch: Option<Batch>) -> Vec<String> {
    batch.unwrap_or_default().look.iter().map(|path| path.display().to_string()).collect()
}

#[test]
fn what_arrives_together_is_looked_at_together() {
    let start = Instant::now();
    let mut roster = roster(&[], start);
    note(&mut roster, "/d/a.db", start);
    note(&mut roster, "/d/b.db", start + BATCH / 2);
    note(&mut roster, "/d/b.txt", start + BATCH / 2);
    note(&mut roster, "/d/a.db-wal", start + BATCH / 2);
    assert_eq!(roster.next(), start + BATCH, "counted from the first event");
    assert_eq!(roster.take(start + BATCH / 2), None);
    assert_eq!(looks(roster.take(start + BATCH)), ["/d/a.db", "/d/b.db"]);
    assert_eq!(roster.take(start + 2 * BATCH), None);
}

#[test]
fn databases_come_and_go_with_their_files() {
    let now = Instant::now();
    let mut roster = roster(&["/d/old.db"], now);
    let add = Change::Add("/d/new.db".into());
    let remove = Change::Remove("/d/old.db".into());
    assert_eq!(roster.found("/d/new.db".into(), Found::Database, now), (Some(add.clone()), false));
    assert_eq!(roster.found("/d/old.db".into(), Found::Nothing, now), (Some(remove.clone()), false));
    roster.done(&add, false, now);
    roster.done(&remove, false, now);
    assert_eq!(roster.found("/d/new.db".into(), Found::Database, now), (None, false));
    assert_eq!(roster.found("/d/old.db".into(), Found::Nothing, now), (None, false));
    let again = Some(Change::Add("/d/old.db".into()));
    assert_eq!(roster.found("/d/old.db".into(), Found::Database, now), (again, false), "made anew under the same name");
}

/// Deleted and made anew within one batch: the replication sees another file behind
/// the path and goes on by itself.
#[test]
fn a_database_that_is_replaced_stays() {
    let now = Instant::now();
    let mut roster = roster(&["/d/a.db"], now);
    for found in [Found::Database, Found::Other] {
        assert_eq!(roster.found("/d/a.db".into(), found, now), (None, false));
    }
}

#[test]
fn a_file_that_is_no_database_yet_is_looked_at_again_ever_less_often() {
    let start = Instant::now();
    let mut roster = roster(&[], start);
    let path = PathBuf::from("/d/a.db");
    assert_eq!(roster.found(path.clone(), Found::Other, start), (None, true));
    let (mut now, mut pauses) = (start, Vec::new());
    for _ in 0..8 {
        let next = roster.next();
        pauses.push(next - now);
        now = next;
        assert_eq!(looks(roster.take(now)), ["/d/a.db"]);
        assert_eq!(roster.found(path.clone(), Found::Other, now), (None, false), "told once");
    }
    assert!(pauses.is_sorted() && pauses[0] == BATCH && pauses[7] == Duration::from_secs(10), "{pauses:?}");
    note(&mut roster, "/d/a.db-wal", now);
    assert_eq!(looks(roster.take(now + BATCH)), ["/d/a.db"], "a side file tells of a write to it");
    assert!(roster.found(path.clone(), Found::Database, now).0.is_some());
    assert_eq!(roster.take(now + HOUR / 2), None, "not looked at any more");
}

#[test]
fn changes_of_one_path_come_one_after_the_other() {
    let now = Instant::now();
    let mut roster = roster(&["/d/a.db"], now);
    let path = PathBuf::from("/d/a.db");
    let (remove, _) = roster.found(path.clone(), Found::Nothing, now);
    let remove = remove.unwrap();
    note(&mut roster, "/d/a.db", now);
    assert_eq!(looks(roster.take(now + BATCH)), Vec::<String>::new(), "its removal is under way");
    assert_eq!(roster.found(path.clone(), Found::Database, now + BATCH), (None, false));
    roster.done(&remove, false, now + BATCH);
    assert_eq!(looks(roster.take(now + 2 * BATCH)), ["/d/a.db"]);
    assert_eq!(roster.found(path.clone(), Found::Database, now + 2 * BATCH).0, Some(Change::Add(path)));
}

#[test]
fn a_directory_that_goes_takes_its_databases_along() {
    let now = Instant::now();
    let mut roster = roster(&["/d/a.db", "/d/t/b.db", "/d/t/u/c.db", "/d/tt/d.db"], now);
    roster.note(Event::DirectoryGone("/d/t".into()), now, |_| true);
    assert_eq!(looks(roster.take(now + BATCH)), ["/d/t/b.db", "/d/t/u/c.db"]);
}

#[test]
fn a_listing_finds_what_events_have_missed() {
    let mut roster = roster(&["/d/a.db", "/d/gone.db"], Instant::now());
    let files: BTreeSet<PathBuf> = ["/d/a.db", "/d/new.db"].map(PathBuf::from).into();
    let paths = |paths: BTreeSet<PathBuf>| paths.into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    assert_eq!(paths(roster.listed(&files, true)), ["/d/gone.db", "/d/new.db"]);
    assert_eq!(paths(roster.listed(&files, false)), ["/d/new.db"], "absence from part of the tree proves nothing");
    roster.note(Event::Lost, Instant::now(), |_| true);
    assert!(roster.take(Instant::now() + BATCH).unwrap().scan_all);
}

/// Whatever is made, deleted and lost in whatever order: when it is quiet, exactly
/// the databases that exist are replicated, and no change overtook another.
#[test]
fn the_roster_ends_up_with_what_exists() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut roster = Roster::new([], now, Duration::from_secs(60));
        let mut disk: BTreeMap<PathBuf, Found> = BTreeMap::new();
        let mut replicated: BTreeSet<PathBuf> = BTreeSet::new();
        let mut running: Vec<Change> = Vec::new();
        let acts = 60;
        for act in 0..acts + 40 {
            now += Duration::from_millis(rng.u64(0..2_000));
            if act < acts {
                let path = PathBuf::from(format!("/d/{}.db", rng.u8(0..6)));
                match rng.u8(0..3) {
                    0 => disk.remove(&path),
                    1 => disk.insert(path.clone(), Found::Other),
                    _ => disk.insert(path.clone(), Found::Database),
                };
                // One event in five is lost.
                if rng.u8(0..5) > 0 {
                    roster.note(Event::File(path), now, |_| true);
                }
            } else {
                now += Duration::from_secs(30);
            }
            if let Some(batch) = roster.take(now) {
                let mut look = batch.look;
                if batch.scan_all {
                    look.extend(roster.listed(&disk.keys().cloned().collect(), true));
                }
                for path in look {
                    let found = disk.get(&path).copied().unwrap_or(Found::Nothing);
                    if let (Some(change), _) = roster.found(path.clone(), found, now) {
                        let touches =
                            |other: &Change| matches!(other, Change::Add(p) | Change::Remove(p) if *p == path);
                        assert!(!running.iter().any(touches), "seed {seed}: two changes of {}", path.display());
                        running.push(change);
                    }
                }
            }
            while !running.is_empty() && (act >= acts || rng.bool()) {
                let change = running.swap_remove(rng.usize(0..running.len()));
                let failed = act < acts && rng.u8(0..10) == 0;
                match &change {
                    Change::Add(path) if !failed => assert!(replicated.insert(path.clone()), "seed {seed}"),
                    Change::Remove(path) => assert!(replicated.remove(path), "seed {seed}"),
                    Change::Add(_) => {}
                }
                roster.done(&change, failed, now);
            }
        }
        // A file that was a database when it was found stays, whatever it holds later:
        // then the replication says what is wrong with it.
        let is_database = |path: &Path| disk.get(path) == Some(&Found::Database);
        let missing: Vec<_> = disk.keys().filter(|path| is_database(path) && !replicated.contains(*path)).collect();
        let superfluous: Vec<_> = replicated.iter().filter(|path| !disk.contains_key(*path)).collect();
        assert!(missing.is_empty() && superfluous.is_empty(), "seed {seed}: {missing:?} {superfluous:?}");
    }
}
