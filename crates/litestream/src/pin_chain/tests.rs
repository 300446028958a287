//! The machine against a model of SQLite's WAL and every foreign process that
//! may act between two of its steps.

use super::*;

/// What other connections may do at any moment.
#[derive(Clone, Copy, Debug)]
enum Foreign {
    Commit,
    Passive,
    Restart,
    Truncate,
    ReaderOpens,
    ReaderCloses,
    Nothing,
}

const FOREIGN: [Foreign; 7] = [
    Foreign::Commit,
    Foreign::Passive,
    Foreign::Restart,
    Foreign::Truncate,
    Foreign::ReaderOpens,
    Foreign::ReaderCloses,
    Foreign::Nothing,
];

#[derive(Clone, Copy, Debug)]
struct Reader {
    /// Slot 0 ignores the WAL; other slots hold a mark.
    mark: Option<usize>,
}

/// SQLite's WAL as replication §2 describes it. Frames carry the number of the
/// commit that wrote them, so a lost one is a gap.
#[derive(Clone, Debug, Default)]
struct Wal {
    generation: u32,
    frames: Vec<u32>,
    backfilled: usize,
    commits: u32,
    pins: [Option<Reader>; 2],
    reader: Option<Reader>,
    locked_by_us: bool,
    captured_generation: u32,
    captured_frames: usize,
    captured_commits: u32,
}

impl Wal {
    fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.pins.iter().flatten().chain(&self.reader)
    }

    fn snapshot(&self) -> Reader {
        Reader { mark: (self.backfilled < self.frames.len()).then_some(self.frames.len()) }
    }

    fn commit(&mut self) {
        if self.locked_by_us {
            return;
        }
        let everything_copied = self.backfilled == self.frames.len() && !self.frames.is_empty();
        if everything_copied && self.readers().all(|reader| reader.mark.is_none()) {
            self.restart();
        }
        self.commits += 1;
        self.frames.push(self.commits);
    }

    fn restart(&mut self) {
        self.generation += 1;
        self.frames.clear();
        self.backfilled = 0;
    }

    fn backfill(&mut self, until: usize) {
        let safe = self.readers().filter_map(|reader| reader.mark).min().unwrap_or(until).min(until);
        let blocked = self.readers().any(|reader| reader.mark.is_none());
        if safe > self.backfilled && !blocked {
            self.backfilled = safe;
        }
    }

    fn foreign(&mut self, what: Foreign) {
        match what {
            Foreign::Commit => self.commit(),
            Foreign::Passive => self.backfill(self.frames.len()),
            Foreign::Restart | Foreign::Truncate => {
                if self.locked_by_us {
                    return;
                }
                self.backfill(self.frames.len());
                let idle = self.readers().all(|reader| reader.mark.is_none());
                if matches!(what, Foreign::Truncate) && idle && self.backfilled == self.frames.len() {
                    self.restart();
                }
            }
            Foreign::ReaderOpens => self.reader = Some(self.snapshot()),
            Foreign::ReaderCloses => self.reader = None,
            Foreign::Nothing => {}
        }
    }

    /// Does what the machine asks. `flushing` splits our checkpoint in two, so
    /// that others act in the middle of it.
    fn perform(&mut self, action: Action, foreign: &mut dyn FnMut(&mut Self)) -> Event {
        let index = |side: Side| usize::from(side == Side::B);
        match action {
            Action::OpenPin(side) => {
                assert!(self.pins[index(side)].is_none(), "a connection holds one pin at a time");
                self.pins[index(side)] = Some(self.snapshot());
            }
            Action::ReleasePin(side) => {
                assert!(self.pins[index(side)].is_some());
                self.pins[index(side)] = None;
                assert!(self.pins.iter().any(Option::is_some), "the last pin is never released");
            }
            Action::Capture => self.capture(),
            Action::Checkpoint(side) => {
                assert!(self.pins[index(side)].is_none(), "SQLite refuses to checkpoint on a pinned connection");
                let until = self.frames.len();
                let generation = self.generation;
                foreign(self);
                if self.generation == generation {
                    self.backfill(until);
                }
            }
            Action::LockWriters => {
                assert!(!self.locked_by_us);
                self.locked_by_us = true;
            }
            Action::UnlockWriters => {
                assert!(self.locked_by_us);
                self.locked_by_us = false;
            }
            Action::Done => unreachable!("the driver stops at Done"),
        }
        Event::Ok
    }

    fn capture(&mut self) {
        if self.captured_generation != self.generation {
            self.captured_generation = self.generation;
            self.captured_frames = 0;
        }
        for &commit in &self.frames[self.captured_frames..] {
            assert_eq!(commit, self.captured_commits + 1, "a commit left the WAL before it was captured");
            self.captured_commits = commit;
        }
        self.captured_frames = self.frames.len();
    }
}

/// Runs passes of random goals while `choose` picks what others do between steps.
fn drive(passes: &[Goal], choose: &mut dyn FnMut() -> Foreign) -> Wal {
    let mut wal = Wal::default();
    let mut chain = PinChain::new();
    let first = chain.begin(Goal::Advance);
    assert_eq!(first, Action::OpenPin(Side::A));
    wal.perform(first, &mut |_| {});
    assert_eq!(chain.step(Event::Ok), Action::Done);
    wal.capture();
    for &goal in passes {
        let mut action = chain.begin(goal);
        let mut steps = 0;
        while action != Action::Done {
            let acts = choose();
            wal.foreign(acts);
            let event = wal.perform(action, &mut |wal| {
                let acts = choose();
                wal.foreign(acts);
            });
            action = chain.step(event);
            steps += 1;
            assert!(steps < 60, "a pass ends");
        }
        assert!(!wal.locked_by_us, "no pass ends with the write lock held");
        assert!(matches!(chain.held(), Held::One(_)), "a pass ends with one pin");
    }
    wal.capture();
    assert_eq!(wal.captured_commits, wal.commits, "everything committed is captured in the end");
    wal
}

#[test]
fn no_commit_is_lost_whatever_others_do_between_two_steps() {
    // Every choice of one foreign act before each of the first six steps.
    let depth = 6_u32;
    for case in 0..7_u32.pow(depth) {
        for goal in [Goal::Checkpoint, Goal::CheckpointUnderLock] {
            let mut code = case;
            let mut turn = 0;
            drive(&[goal], &mut || {
                turn += 1;
                if turn > depth {
                    return Foreign::Commit;
                }
                let choice = FOREIGN[(code % 7) as usize];
                code /= 7;
                choice
            });
        }
    }
}

#[test]
fn no_commit_is_lost_over_long_random_histories() {
    for seed in 0..3000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let goals: Vec<Goal> =
            (0..30).map(|_| [Goal::Advance, Goal::Checkpoint, Goal::CheckpointUnderLock][rng.usize(..3)]).collect();
        let wal = drive(&goals, &mut || FOREIGN[rng.usize(..FOREIGN.len())]);
        assert!(wal.commits > 0, "seed {seed} wrote nothing");
    }
}

#[test]
fn a_checkpoint_between_commits_lets_the_wal_start_over() {
    let mut wal = Wal::default();
    let mut chain = PinChain::new();
    wal.perform(chain.begin(Goal::Advance), &mut |_| {});
    chain.step(Event::Ok);
    for _ in 0..3 {
        wal.commit();
    }
    let mut action = chain.begin(Goal::Checkpoint);
    while action != Action::Done {
        let event = wal.perform(action, &mut |_| {});
        action = chain.step(event);
    }
    wal.commit();
    assert_eq!((wal.generation, wal.frames.len()), (1, 1), "the next writer reuses the file");
}

/// Writers that commit between any two steps never leave a gap; the write lock
/// is what bounds the WAL then.
#[test]
fn the_write_lock_lets_the_wal_start_over_under_constant_writes() {
    let restarts = |goal| drive(&[goal; 20], &mut || Foreign::Commit).generation;
    assert_eq!(restarts(Goal::Checkpoint), 0);
    assert!(restarts(Goal::CheckpointUnderLock) > 10);
}

#[test]
fn a_busy_lock_ends_the_pass_without_keeping_anything() {
    let mut chain = PinChain::new();
    chain.begin(Goal::Advance);
    chain.step(Event::Ok);
    let mut action = chain.begin(Goal::CheckpointUnderLock);
    while action != Action::LockWriters {
        action = chain.step(Event::Ok);
    }
    assert_eq!(chain.step(Event::Busy), Action::Done);
    assert!(matches!(chain.held(), Held::One(_)));
}

/// A pass that failed between opening and releasing leaves two pins; the next
/// one captures and releases before it opens another.
#[test]
fn a_failed_pass_is_finished_by_the_next() {
    let mut chain = PinChain::new();
    chain.begin(Goal::Advance);
    chain.step(Event::Ok);
    assert_eq!(chain.begin(Goal::Advance), Action::OpenPin(Side::B));
    assert_eq!(chain.step(Event::Ok), Action::Capture);
    // The capture fails here: disk full, say.
    assert_eq!(chain.held(), Held::Both { old: Side::A });
    assert_eq!(chain.begin(Goal::Advance), Action::Capture);
    assert_eq!(chain.step(Event::Ok), Action::ReleasePin(Side::A));
    assert_eq!(chain.step(Event::Ok), Action::Done);
}
