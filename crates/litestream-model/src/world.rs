//! One state of everything, what can happen in it, and what must hold.

use std::hash::{Hash, Hasher};

use crate::connection::{Connection, Mode, OURS, Progress, Task, give_up, run, step};
use crate::daemon::{Daemon, Life, Rules, Site, Violation, Wish};
use crate::shared::Shared;

/// The daemon, the database, and the other connections.
#[derive(Clone, Debug)]
pub struct World {
    shared: Shared,
    all: [Connection; MAX],
    daemon: Daemon,
    left: Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    tasks: u8,
    passes: u8,
    faults: u8,
}

/// What a run explores.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections of others.
    pub others: usize,
    /// Longest generation of the log, in commits.
    pub frames: u8,
    /// Tasks that others begin; `None` without a limit.
    pub tasks: Option<u8>,
    /// Passes the daemon begins; `None` without a limit.
    pub passes: Option<u8>,
    /// Others are interrupted between any two locks or words of shared memory.
    pub others_in_steps: bool,
    /// So is the daemon.
    pub daemon_in_steps: bool,
    /// Actions of the daemon may fail, and processes may die.
    pub failures: bool,
    /// The daemon dies and comes back.
    pub restarts: bool,
    /// What takes protection away: locks that vanish, files that are replaced or
    /// deleted. `None` without a limit, `Some(0)` for none.
    pub faults: Option<u8>,
    /// Quiet must let the log start over, from every state.
    pub check_quiet: bool,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum Move {
    OtherBegins(u8, Task),
    OtherGoesOn(u8),
    OtherGivesUp(u8),
    OtherEnds(u8),
    OtherDies(u8),
    Pass(Wish),
    DaemonGoesOn,
    DaemonGivesUp,
    DaemonFails { late: bool },
    DaemonPublishes,
    DaemonDies { between_file_and_record: bool },
    DaemonStarts,
    LocksVanish,
    DatabaseIsReplaced,
    LogIsDeleted,
    LastConnectionCloses,
    SharedMemoryIsRebuilt,
}

impl World {
    /// A database nobody has written to, and no daemon yet.
    pub fn new(bounds: &Bounds) -> Self {
        assert!(OURS + bounds.others <= MAX, "room for {} others", MAX - OURS);
        Self {
            shared: Shared::new(bounds.frames),
            all: [Connection::default(); MAX],
            daemon: Daemon::new(),
            left: Left {
                tasks: bounds.tasks.unwrap_or(UNLIMITED),
                passes: bounds.passes.unwrap_or(UNLIMITED),
                faults: bounds.faults.unwrap_or(UNLIMITED),
            },
        }
    }

    /// Everything that can happen next.
    pub fn moves(&self, bounds: &Bounds, into: &mut Vec<Move>) {
        into.clear();
        self.moves_of_others(bounds, into);
        self.moves_of_the_daemon(bounds, into);
        if bounds.restarts && self.daemon.life == Life::Dead && self.others(bounds).iter().all(Connection::is_free) {
            into.push(Move::LastConnectionCloses);
            into.push(Move::SharedMemoryIsRebuilt);
        }
        if self.left.faults > 0 {
            if self.daemon.may_lose_locks(&self.all) && self.daemon.life != Life::Dead {
                into.push(Move::LocksVanish);
            }
            if self.others(bounds).iter().all(Connection::is_free) && !self.daemon.is_orphaned {
                into.push(Move::DatabaseIsReplaced);
                into.push(Move::LogIsDeleted);
            }
        }
    }

    fn moves_of_others(&self, bounds: &Bounds, into: &mut Vec<Move>) {
        for (i, other) in (0_u8..).zip(self.others(bounds)) {
            if other.rests() {
                if other.slot.is_some() {
                    into.push(Move::OtherEnds(i));
                }
                if self.left.tasks == 0 {
                    continue;
                }
                into.push(Move::OtherBegins(i, Task::Write));
                into.push(Move::OtherBegins(i, Task::RollBack));
                if other.slot.is_none() {
                    into.push(Move::OtherBegins(i, Task::Read));
                    for mode in [Mode::Passive, Mode::Full, Mode::Restart, Mode::Truncate] {
                        into.push(Move::OtherBegins(i, Task::Checkpoint(mode)));
                    }
                }
                if other.restarted && other.slot.is_none() {
                    // Closed and opened again: it draws new salts once more.
                    into.push(Move::OtherDies(i));
                }
            } else {
                let (mut shared, mut all) = (self.shared, self.all);
                if step(&mut shared, &mut all, OURS + usize::from(i)) == Progress::Blocked {
                    into.push(Move::OtherGivesUp(i));
                } else {
                    into.push(Move::OtherGoesOn(i));
                }
                if bounds.failures && !other.resets_the_log() {
                    into.push(Move::OtherDies(i));
                }
            }
        }
    }

    fn moves_of_the_daemon(&self, bounds: &Bounds, into: &mut Vec<Move>) {
        match self.daemon.life {
            Life::Dead => {
                into.push(Move::DaemonStarts);
                return;
            }
            Life::Idle => {
                if self.left.passes > 0 {
                    into.extend([Wish::Advance, Wish::Checkpoint, Wish::CheckpointUnderLock].map(Move::Pass));
                }
                if bounds.restarts {
                    into.push(Move::DaemonPublishes);
                }
            }
            Life::Opening => into.push(Move::DaemonGoesOn),
            Life::Pass(_) => {
                if self.daemon.waits(&self.all, &self.shared) {
                    into.push(Move::DaemonGivesUp);
                } else {
                    into.push(Move::DaemonGoesOn);
                }
                if bounds.failures {
                    into.push(Move::DaemonFails { late: false });
                    if self.daemon.may_fail_late() {
                        into.push(Move::DaemonFails { late: true });
                    }
                }
            }
        }
        if bounds.restarts {
            into.push(Move::DaemonDies { between_file_and_record: false });
            if self.daemon.life != Life::Opening {
                into.push(Move::DaemonDies { between_file_and_record: true });
            }
        }
    }

    /// Lets it happen.
    ///
    /// # Errors
    /// The property that is broken.
    pub fn apply(&mut self, happens: Move, bounds: &Bounds) -> Result<(), Violation> {
        let rules = Rules { pins_hold: bounds.faults == Some(0), whole_actions: !bounds.daemon_in_steps };
        let Self { shared, all, daemon, left } = self;
        let mut site = Site { shared, all, rules };
        match happens {
            Move::OtherBegins(i, task) => {
                spend(&mut left.tasks);
                let c = OURS + usize::from(i);
                site.all[c].start(task);
                if !bounds.others_in_steps {
                    run(site.shared, site.all, c);
                }
            }
            Move::OtherGoesOn(i) => {
                step(site.shared, site.all, OURS + usize::from(i));
            }
            Move::OtherGivesUp(i) => {
                give_up(site.all, OURS + usize::from(i));
            }
            Move::OtherEnds(i) => site.all[OURS + usize::from(i)].end(),
            Move::OtherDies(i) => site.all[OURS + usize::from(i)].die(),
            Move::Pass(wish) => {
                spend(&mut left.passes);
                daemon.begin(&mut site, wish)?;
            }
            Move::DaemonGoesOn => daemon.act(&mut site)?,
            Move::DaemonGivesUp => daemon.give_up(&mut site)?,
            Move::DaemonFails { late } => daemon.fail(&mut site, late)?,
            Move::DaemonPublishes => daemon.publish(&mut site),
            Move::DaemonDies { between_file_and_record } => daemon.die(&mut site, between_file_and_record),
            Move::DaemonStarts => daemon.open(&mut site),
            Move::LocksVanish => {
                spend(&mut left.faults);
                daemon.lose_locks(site.all);
            }
            Move::DatabaseIsReplaced | Move::LogIsDeleted => {
                spend(&mut left.faults);
                for connection in site.all[..OURS].iter_mut() {
                    connection.die();
                }
                site.shared.replace(site.all);
                if happens == Move::DatabaseIsReplaced {
                    daemon.is_replaced();
                } else {
                    daemon.is_orphaned = daemon.life != Life::Dead;
                }
            }
            Move::LastConnectionCloses => {
                site.all.iter_mut().for_each(Connection::die);
                site.shared.remove_log(site.all);
            }
            Move::SharedMemoryIsRebuilt => {
                site.all.iter_mut().for_each(Connection::die);
                site.shared.recover(site.all);
            }
        }
        if !bounds.restarts && bounds.faults == Some(0) {
            // Nobody will ever ask for the record.
            self.daemon.forget_record(&mut self.shared);
        }
        Ok(())
    }

    /// What must hold in a state whatever led to it.
    ///
    /// # Errors
    /// The property that is broken.
    pub fn check(&self, bounds: &Bounds) -> Result<(), Violation> {
        if bounds.check_quiet && self.is_quiet(bounds) { self.clone().starts_over(bounds) } else { Ok(()) }
    }

    /// Two numbers that are equal for equal states only, as good as certainly.
    pub fn fingerprint(&self, bounds: &Bounds) -> u128 {
        let mut canonical = self.all;
        canonical[OURS..OURS + bounds.others].sort_unstable();
        let mut state = Fingerprint::default();
        (self.shared, canonical, &self.daemon, self.left).hash(&mut state);
        state.value()
    }

    fn others(&self, bounds: &Bounds) -> &[Connection] {
        &self.all[OURS..OURS + bounds.others]
    }

    fn is_quiet(&self, bounds: &Bounds) -> bool {
        self.daemon.life == Life::Idle
            && !self.daemon.is_orphaned
            && self.others(bounds).iter().all(Connection::is_free)
            && self.all.iter().all(|connection| !connection.lost)
    }

    /// With nobody else about, two checkpoints are enough for the next writer to
    /// start the log over.
    fn starts_over(&mut self, bounds: &Bounds) -> Result<(), Violation> {
        let quiet = Bounds { others_in_steps: false, ..*bounds };
        for _ in 0..2 {
            self.left.passes = UNLIMITED;
            self.apply(Move::Pass(Wish::Checkpoint), &quiet)?;
            let mut turns = 0;
            while self.daemon.life != Life::Idle {
                self.apply(Move::DaemonGoesOn, &quiet)?;
                turns += 1;
                if turns > 1000 {
                    return Err("a pass in quiet does not end");
                }
            }
        }
        self.apply(Move::OtherBegins(0, Task::Write), &quiet)?;
        if self.shared.frames == 1 { Ok(()) } else { Err("the wal does not start over in quiet") }
    }
}

fn spend(budget: &mut u8) {
    if *budget != UNLIMITED {
        *budget -= 1;
    }
}

#[derive(Clone, Copy)]
struct Fingerprint(u64, u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344)
    }
}

impl Fingerprint {
    fn push(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, 0x9e37_79b9_7f4a_7c15);
        self.1 = fold(self.1.rotate_left(23) ^ word, 0xd6e8_feb8_6659_fd93);
    }

    fn value(self) -> u128 {
        (u128::from(self.0) << 64) | u128::from(self.1)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "both halves of the product are used")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64) ^ a.rotate_left(31)
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.push(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, i: u8) {
        self.push(u64::from(i) | 0x100);
    }

    fn write_u64(&mut self, i: u64) {
        self.push(i);
    }

    fn write_usize(&mut self, i: usize) {
        self.push(i as u64);
    }
}

/// The daemon's connections and up to three others.
const MAX: usize = OURS + 3;
const UNLIMITED: u8 = u8::MAX;
