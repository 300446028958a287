//! What the daemon does with the pin chain's orders, and what it believes.
//!
//! Mirrors `capture/pass.rs` and `capture/open.rs` without bytes. Three connections
//! are its own: two that take turns at the pin, one for the write lock.

mod capture;

use ltx::{Checksum, PageSize, Txid};

use self::capture::Plan;
use crate::connection::{Connection, Mode, OURS, Outcome, Progress, Task, give_up, step};
use crate::continuity::{Evidence, judge};
use crate::pin_chain::{Action, Event, Goal, Held, PinChain, Side};
use crate::position::{Inode, Position};
use crate::shared::{Generation, Place, Shared, WRITE};
use crate::wal::{Chain, Salts, WalPosition};
use crate::wal_index::WalIndex;

/// What a violation of a property is called. The text says what went wrong.
pub type Violation = &'static str;

/// The daemon's own state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Daemon {
    pub(crate) life: Life,
    chain: PinChain,
    is_caught_up: bool,
    /// The log contradicted itself: the next opening compares all pages.
    is_broken: bool,
    /// The record was made from the database file that is at the path.
    record_is_of_this_file: bool,
    /// The newest local file has a record: the process did not die between the two.
    is_recorded: bool,
    /// The files that are open are not those at the path any more.
    pub(crate) is_orphaned: bool,
    /// What the capture in progress decided.
    plan: Option<Plan>,
    /// Frames that were certainly in the log when the newest pin was opened.
    pinned: u8,
    actions: u8,
}

/// Where the daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    /// No process.
    Dead,
    /// Taking the first pin.
    Opening,
    /// Between two passes.
    Idle,
    /// In the middle of an action of a pass.
    Pass(Action),
}

/// The goals of a pass, for the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "those of the pin chain")]
pub enum Wish {
    Advance,
    Checkpoint,
    CheckpointUnderLock,
}

/// Faults that make a loss of continuity legitimate, and how it is found.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Nothing in this run can take the pins away, so continuity is never lost.
    pub pins_hold: bool,
    /// Steps of one task are not interrupted by others.
    pub whole_actions: bool,
}

/// Everything an operation of the daemon touches.
pub(crate) struct Site<'a> {
    pub(crate) shared: &'a mut Shared,
    pub(crate) all: &'a mut [Connection],
    pub(crate) rules: Rules,
}

impl Daemon {
    /// A daemon that never ran.
    pub(crate) fn new() -> Self {
        Self {
            life: Life::Dead,
            chain: PinChain::new(),
            is_caught_up: false,
            is_broken: false,
            record_is_of_this_file: true,
            is_recorded: true,
            is_orphaned: false,
            plan: None,
            pinned: 0,
            actions: 0,
        }
    }

    /// Starts the process, or opens the database again.
    pub(crate) fn open(&mut self, site: &mut Site<'_>) {
        for connection in &mut site.all[..OURS] {
            connection.die();
        }
        site.shared.places[HELD] = None;
        site.shared.places[TARGET] = None;
        self.plan = None;
        self.is_orphaned = false;
        (self.is_caught_up, self.pinned, self.actions) = (false, 0, 0);
        self.chain = PinChain::new();
        self.life = Life::Opening;
        site.all[A].start(Task::Read);
    }

    /// The process is killed. With `between`, right after a file became durable and
    /// before its record did.
    pub(crate) fn die(&mut self, site: &mut Site<'_>, between: bool) {
        for connection in &mut site.all[..OURS] {
            connection.die();
        }
        if between {
            site.shared.places[RECORDED] = site.shared.places[CAPTURED];
        }
        let is_recorded = self.is_recorded && !between;
        let record_is_of_this_file = self.record_is_of_this_file;
        *self = Self { is_recorded, record_is_of_this_file, ..Self::new() };
        for place in [CAPTURED, HELD, TARGET] {
            site.shared.places[place] = None;
        }
    }

    /// The file that is recorded is not the one at the path any more.
    pub(crate) fn is_replaced(&mut self) {
        self.record_is_of_this_file = false;
        self.is_orphaned = self.life != Life::Dead;
    }

    /// Where no process ever dies, the record makes states differ that do not.
    pub(crate) fn forget_record(&self, shared: &mut Shared) {
        if self.life != Life::Dead && self.life != Life::Opening {
            shared.places[RECORDED] = None;
        }
    }

    /// Everything captured becomes a durable file with a record.
    pub(crate) fn publish(&mut self, site: &mut Site<'_>) {
        site.shared.places[RECORDED] = site.shared.places[CAPTURED];
        self.is_recorded = true;
    }

    /// Begins a pass; opens the database anew if the files at the path changed.
    pub(crate) fn begin(&mut self, site: &mut Site<'_>, wish: Wish) -> Result<(), Violation> {
        if self.is_orphaned {
            self.open(site);
            return Ok(());
        }
        self.actions = 0;
        let action = self.chain.begin(match wish {
            Wish::Advance => Goal::Advance,
            Wish::Checkpoint => Goal::Checkpoint,
            Wish::CheckpointUnderLock => Goal::CheckpointUnderLock,
        });
        self.go_on(site, action)
    }

    /// True while it waits for a lock that somebody else has.
    pub(crate) fn waits(&self, all: &[Connection], shared: &Shared) -> bool {
        // The probe works on copies.
        let (mut all, mut shared) = (all.to_vec(), *shared);
        matches!(self.life, Life::Pass(Action::LockWriters))
            && !all[LOCKER].rests()
            && step(&mut shared, &mut all, LOCKER) == Progress::Blocked
    }

    /// Stops waiting for the write lock.
    pub(crate) fn give_up(&mut self, site: &mut Site<'_>) -> Result<(), Violation> {
        give_up(site.all, LOCKER);
        self.step(site, Event::Busy)
    }

    /// The next operation.
    pub(crate) fn act(&mut self, site: &mut Site<'_>) -> Result<(), Violation> {
        if self.is_orphaned {
            self.drift(site);
            return Ok(());
        }
        match self.life {
            Life::Dead | Life::Idle => unreachable!("only what has begun goes on"),
            Life::Opening => match self.run(site, A) {
                Progress::Done(_) => self.settle(site),
                _ => Ok(()),
            },
            Life::Pass(Action::OpenPin(side)) => {
                let pin = index(side);
                if site.all[pin].rests() {
                    if site.all[pin].slot.is_some() {
                        return Err("a pin was opened on a connection that holds one");
                    }
                    self.pinned = site.shared.frames;
                    site.all[pin].start(Task::Read);
                }
                match self.run(site, pin) {
                    Progress::Done(_) => self.step(site, Event::Ok),
                    _ => Ok(()),
                }
            }
            Life::Pass(Action::ReleasePin(side)) => {
                if site.all[index(side.other())].slot.is_none() {
                    return Err("the last pin was released");
                }
                site.all[index(side)].end();
                self.step(site, Event::Ok)
            }
            Life::Pass(Action::Checkpoint(side)) => self.checkpoint(site, index(side)),
            Life::Pass(Action::LockWriters) => {
                if site.all[LOCKER].rests() {
                    site.all[LOCKER].start(Task::Lock);
                }
                match self.run(site, LOCKER) {
                    Progress::Done(Outcome::Ok) => self.step(site, Event::Ok),
                    Progress::Blocked if site.rules.whole_actions => self.give_up(site),
                    // Somebody committed in between: the product tries again.
                    _ => Ok(()),
                }
            }
            Life::Pass(Action::UnlockWriters) => {
                site.all[LOCKER].end();
                if self.capture_held(site)? { self.step(site, Event::Ok) } else { Ok(()) }
            }
            Life::Pass(Action::Capture) => self.capture(site),
            Life::Pass(Action::Done) => unreachable!("a pass that is done is over"),
        }
    }

    /// The present action fails; the next pass picks up the thread. With `late`, after
    /// it had its effect.
    pub(crate) fn fail(&mut self, site: &mut Site<'_>, late: bool) -> Result<(), Violation> {
        if self.is_orphaned {
            self.drift(site);
            return Ok(());
        }
        if let Life::Pass(action) = self.life {
            match action {
                Action::OpenPin(side) => site.all[index(side)].end(),
                Action::Checkpoint(side) => site.all[index(side)].end(),
                Action::ReleasePin(side) if late => site.all[index(side)].end(),
                _ => {}
            }
        }
        site.shared.places[TARGET] = None;
        self.plan = None;
        self.end_pass(site)
    }

    /// It works on files that nobody else sees, until the next pass notices.
    fn drift(&mut self, site: &mut Site<'_>) {
        self.life = Life::Idle;
        site.shared.places[TARGET] = None;
        self.plan = None;
        site.shared.places[HELD] = None;
        for connection in &mut site.all[..OURS] {
            connection.die();
        }
    }

    /// True when it could fail in more than one way.
    pub(crate) fn may_fail_late(&self) -> bool {
        matches!(self.life, Life::Pass(Action::ReleasePin(_)))
    }

    /// Another descriptor of the shared memory was closed in the daemon's process:
    /// its locks are gone, and SQLite does not know.
    pub(crate) fn lose_locks(&self, all: &mut [Connection]) {
        for connection in &mut all[..OURS] {
            connection.lost = connection.slot.is_some();
        }
    }

    /// True when locks can be lost: at a moment when no operation is half done.
    pub(crate) fn may_lose_locks(&self, all: &[Connection]) -> bool {
        !self.is_orphaned
            && all[..OURS].iter().all(|connection| connection.rests() && connection.exclusive == 0)
            && all[..OURS].iter().any(|connection| connection.slot.is_some() && !connection.lost)
    }

    fn run(&self, site: &mut Site<'_>, c: usize) -> Progress {
        if !site.rules.whole_actions {
            return step(site.shared, site.all, c);
        }
        loop {
            match step(site.shared, site.all, c) {
                Progress::Moved => {}
                other => return other,
            }
        }
    }

    fn checkpoint(&mut self, site: &mut Site<'_>, c: usize) -> Result<(), Violation> {
        if site.all[c].rests() {
            site.all[c].start(Task::Checkpoint(Mode::Passive));
            if site.rules.whole_actions {
                // Copying takes long: others act in the middle of it.
                while site.all[c].at != crate::connection::Step::CkptPublish && !site.all[c].rests() {
                    if let Progress::Done(outcome) = step(site.shared, site.all, c) {
                        return self.checkpointed(site, outcome);
                    }
                }
                return Ok(());
            }
        }
        match self.run(site, c) {
            Progress::Done(outcome) => self.checkpointed(site, outcome),
            _ => Ok(()),
        }
    }

    fn checkpointed(&mut self, site: &mut Site<'_>, outcome: Outcome) -> Result<(), Violation> {
        let event = match outcome {
            Outcome::Checkpoint { counts: Some((log, backfilled)), .. } => {
                if backfilled < self.pinned.min(log) {
                    Event::Blocked
                } else {
                    Event::Ok
                }
            }
            _ => Event::Busy,
        };
        self.step(site, event)
    }

    fn step(&mut self, site: &mut Site<'_>, event: Event) -> Result<(), Violation> {
        let action = self.chain.step(event);
        self.go_on(site, action)
    }

    fn go_on(&mut self, site: &mut Site<'_>, action: Action) -> Result<(), Violation> {
        self.actions += 1;
        if self.actions > MAX_ACTIONS {
            return Err("a pass does not end");
        }
        if action != Action::Done {
            self.life = Life::Pass(action);
            return Ok(());
        }
        if site.all[LOCKER].exclusive & WRITE != 0 {
            return Err("a pass ended with the write lock");
        }
        if !matches!(self.chain.held(), Held::One(_)) {
            return Err("a pass ended without exactly one pin");
        }
        self.end_pass(site)
    }

    /// What `Capture::pass` does whatever happened before.
    fn end_pass(&mut self, site: &mut Site<'_>) -> Result<(), Violation> {
        site.all[LOCKER].end();
        if !self.capture_held(site)? {
            return Ok(());
        }
        self.actions = 0;
        self.life = Life::Idle;
        if site.all[..LOCKER].iter().all(|pin| pin.slot.is_none()) {
            return Err("a pass ended without a pin");
        }
        Ok(())
    }

    fn lose_continuity(&mut self, site: &mut Site<'_>) -> Result<(), Violation> {
        // Before the first capture under it, a pin proves nothing.
        if site.rules.pins_hold && self.is_caught_up {
            return Err("continuity was lost under pins that hold");
        }
        self.is_broken = true;
        self.open(site);
        Ok(())
    }

    /// The first pin is held: may what is recorded be continued?
    fn settle(&mut self, site: &mut Site<'_>) -> Result<(), Violation> {
        if self.chain.begin(Goal::Advance) != Action::OpenPin(Side::A) || self.chain.step(Event::Ok) != Action::Done {
            return Err("opening is not the first pin");
        }
        let verdict = site.shared.places[RECORDED].is_some_and(|recorded| {
            !self.is_broken
                && self.is_recorded
                && judge(&self.position(recorded), &evidence(site.shared, recorded)).is_ok()
        });
        self.life = Life::Idle;
        self.is_broken = false;
        if verdict {
            site.shared.places[CAPTURED] = site.shared.places[RECORDED];
            return is_true(site, CAPTURED);
        }
        // All pages are compared under a pin of their own; what differs is a new file.
        self.is_caught_up = true;
        self.record_is_of_this_file = true;
        site.shared.places[CAPTURED] = Some(site.shared.end());
        self.publish(site);
        Ok(())
    }

    fn position(&self, recorded: Place) -> Position {
        Position {
            txid: Txid::new(1),
            file_checksum: Checksum::NONE,
            page_size: page_size(),
            commit: 1,
            wal: place(recorded),
            inode: Inode { device: 1, number: u64::from(self.record_is_of_this_file) },
        }
    }
}

/// What was captured up to a place in the present log is everything committed before.
fn is_true(site: &Site<'_>, which: usize) -> Result<(), Violation> {
    let Some(place) = site.shared.places[which] else { return Ok(()) };
    let is_here = place.generation == site.shared.end().generation;
    if is_here && place.behind != site.shared.frames - place.frame {
        return Err("commits left the wal uncaptured and nobody noticed");
    }
    Ok(())
}

/// The evidence an opening finds. Where the log is another one, the frame at the
/// recorded place is still the old one: that is what misleads upstream (D1).
fn evidence(shared: &Shared, recorded: Place) -> Evidence {
    let frame_before = (recorded.frame > 0).then(|| (place(recorded).salts, place(recorded).chain));
    Evidence {
        inode: Inode { device: 1, number: 1 },
        page_size: page_size(),
        index: WalIndex {
            end: place(shared.end()),
            commit: 1,
            changes: counted(shared.end()),
            backfilled: u32::from(shared.backfilled),
            page_size: Some(page_size()),
        },
        frame_before,
    }
}

/// In the product's terms. The checksum stands for the content up to a frame.
fn place(place: Place) -> WalPosition {
    let salts = match place.generation {
        Generation::Present => Salts(8, 1),
        Generation::Before => Salts(7, 2),
        Generation::Other => Salts(90, 3),
        Generation::Bare => Salts(0, 0),
    };
    WalPosition { salts, frame: u32::from(place.frame), chain: Chain(u32::from(place.frame), salts.1) }
}

/// SQLite's count of commits at a place. Counted from the present, so that states do not
/// differ by how much was ever written.
fn counted(place: Place) -> u32 {
    1000 - u32::from(place.behind)
}

fn page_size() -> PageSize {
    PageSize::new(4096).unwrap_or_else(|| unreachable!("4096 is a page size"))
}

fn index(side: Side) -> usize {
    match side {
        Side::A => A,
        Side::B => B,
    }
}

/// The first connection for pins.
const A: usize = 0;
/// The second.
const B: usize = 1;
/// The connection for the write lock.
const LOCKER: usize = 2;
/// The place up to which everything is captured, durable or not.
pub(crate) const CAPTURED: usize = 0;
/// The place that the position record tells.
pub(crate) const RECORDED: usize = 1;
/// The end of what was copied under the write lock.
const HELD: usize = 2;
/// The end of the log as a capture saw it when it began.
const TARGET: usize = 3;
/// Twice what the longest pass takes.
const MAX_ACTIONS: u8 = 40;
