//! One SQLite connection, one lock or shared-memory operation at a time.
//!
//! Follows `wal.c` of the SQLite that is linked in: `walTryBeginRead`,
//! `walRestartLog`, `walCheckpoint` and `sqlite3WalCheckpoint`. What each operation
//! reads and writes stands in docs/spec/sqlite-wal.md. A connection that is killed
//! between two steps loses its locks and nothing else.

use crate::shared::{CKPT, READERS, Shared, WRITE, read_lock};

/// What a connection is doing, and the registers of the procedure it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// The next operation.
    pub at: Step,
    /// What it is for.
    pub task: Task,
    /// Shared lock on a read slot: the connection has a snapshot.
    pub slot: Option<u8>,
    /// SQLite believes that `slot` is locked, but the lock is gone.
    pub lost: bool,
    /// Exclusive locks held, one bit a lock.
    pub exclusive: u8,
    /// `mxFrame` of the private copy of the wal-index header.
    pub header: u8,
    /// The WAL has not been restarted since that copy was made.
    pub fresh: bool,
    /// This connection has restarted the WAL (`nCkpt` is not zero), so it does not
    /// draw new salts for an empty one.
    pub restarted: bool,
    use_wal: bool,
    patient: bool,
    busy: bool,
    demoted: bool,
    index: u8,
    mark: u8,
    safe: u8,
}

/// What a connection can be asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Nothing.
    #[default]
    None,
    /// Begin a read transaction and keep it.
    Read,
    /// Commit one frame in a transaction of its own.
    Write,
    /// As `Write`, but roll back at the end.
    RollBack,
    /// Take the write lock and keep it, as `BEGIN IMMEDIATE` does.
    Lock,
    /// Run a checkpoint.
    Checkpoint(Mode),
}

/// The checkpoint modes of SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// As far as possible without waiting.
    Passive,
    /// Everything, under the write lock.
    Full,
    /// And wait until no reader uses the WAL.
    Restart,
    /// And start it over, emptied.
    Truncate,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Ok,
    /// A lock was not to be had, or the snapshot was too old to write.
    Busy,
    /// What `PRAGMA wal_checkpoint` answers.
    Checkpoint {
        /// The first column.
        busy: bool,
        /// Frames in the WAL, and of these in the database.
        counts: Option<(u8, u8)>,
    },
}

/// What one step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do.
    Moved,
    /// A busy handler waits for a lock; it may wait on, or stop with [`give_up`].
    Blocked,
    /// The task has ended.
    Done(Outcome),
}

/// The operations of `wal.c`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is described where it is carried out")]
pub enum Step {
    #[default]
    Rest,
    ReadHeader,
    Choose,
    ShareZero,
    VerifyZero,
    ReadMarks,
    Claim,
    SetMark,
    Unclaim,
    Share,
    Verify,
    WriteLock,
    WriteCheck,
    Restart,
    ResetHeader,
    ResetBackfill,
    ResetMarks,
    BeginAgain,
    Commit,
    WriteUnlock,
    EndRead,
    CkptLock,
    CkptWrite,
    CkptHeader,
    CkptBegin,
    CkptMark,
    CkptMarkLock,
    CkptMarkSet,
    CkptSafe,
    CkptSlotZero,
    CkptSalts,
    CkptPublish,
    CkptUnlockZero,
    CkptEnd,
    CkptReaders,
    CkptRelease,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            at: Step::Rest,
            task: Task::None,
            slot: None,
            lost: false,
            exclusive: 0,
            header: 0,
            fresh: true,
            restarted: false,
            use_wal: false,
            patient: false,
            busy: false,
            demoted: false,
            index: 0,
            mark: 0,
            safe: 0,
        }
    }
}

impl Connection {
    /// True while it neither works nor holds anything.
    pub fn is_free(&self) -> bool {
        self.at == Step::Rest && self.slot.is_none() && self.exclusive == 0
    }

    /// True when it is between two tasks.
    pub fn rests(&self) -> bool {
        self.at == Step::Rest
    }

    /// Begins a task. A checkpoint needs a connection without a transaction, as in
    /// SQLite; a connection that reads may go on to write.
    pub fn start(&mut self, task: Task) {
        assert!(self.rests(), "one task at a time");
        self.task = task;
        self.at = match task {
            Task::None => Step::Rest,
            Task::Checkpoint(_) => Step::CkptLock,
            Task::Read | Task::Write | Task::RollBack | Task::Lock if self.slot.is_none() => Step::ReadHeader,
            Task::Read => Step::Rest,
            Task::Write | Task::RollBack | Task::Lock => Step::WriteLock,
        };
    }

    /// True in the middle of `walRestartHdr`. A process that is killed there leaves a
    /// wal-index that SQLite itself does not survive; see docs/spec/sqlite-wal.md.
    pub fn resets_the_log(&self) -> bool {
        matches!(self.at, Step::ResetBackfill | Step::ResetMarks)
    }

    /// Ends whatever transaction it has.
    pub fn end(&mut self) {
        *self = Self { restarted: self.restarted, ..Self::default() };
    }

    /// The process dies, or the connection is closed.
    pub fn die(&mut self) {
        *self = Self::default();
    }

    /// Forgets the registers of a task that has ended, so that states that do not
    /// differ in what can happen next are equal.
    fn settle(&mut self) {
        let keeps_header = self.slot.is_some();
        *self = Self {
            slot: self.slot,
            lost: self.lost,
            exclusive: self.exclusive,
            restarted: self.restarted,
            header: if keeps_header { self.header } else { 0 },
            fresh: if keeps_header { self.fresh } else { true },
            ..Self::default()
        };
    }
}

/// Carries out the next operation of connection `c`.
pub fn step(shared: &mut Shared, all: &mut [Connection], c: usize) -> Progress {
    let mut me = all[c];
    let progress = next(shared, all, c, &mut me);
    if let Progress::Done(_) = progress {
        me.settle();
    }
    all[c] = me;
    progress
}

/// Runs the task of connection `c` to its end while nobody else acts; its busy handler
/// never waits. `None` when it cannot end, because somebody stopped in the middle of
/// a lock that it needs: SQLite gives up with `SQLITE_PROTOCOL` then.
pub fn run(shared: &mut Shared, all: &mut [Connection], c: usize) -> Option<Outcome> {
    for _ in 0..MAX_STEPS {
        let progress = match step(shared, all, c) {
            Progress::Blocked => give_up(all, c),
            other => other,
        };
        if let Progress::Done(outcome) = progress {
            return Some(outcome);
        }
    }
    all[c].end();
    None
}

/// What a busy handler does that stops waiting.
pub fn give_up(all: &mut [Connection], c: usize) -> Progress {
    let me = &mut all[c];
    match me.at {
        Step::WriteLock => {
            me.end();
            return Progress::Done(Outcome::Busy);
        }
        Step::CkptWrite => {
            (me.demoted, me.busy) = (true, true);
            me.at = Step::CkptHeader;
        }
        Step::CkptMarkLock => {
            (me.safe, me.patient) = (me.mark, false);
            me.next_mark();
        }
        Step::CkptSlotZero => me.at = Step::CkptEnd,
        Step::CkptReaders => {
            me.busy = true;
            me.at = Step::CkptRelease;
        }
        other => unreachable!("nobody waits at {other:?}"),
    }
    Progress::Moved
}

fn next(shared: &mut Shared, all: &mut [Connection], c: usize, me: &mut Connection) -> Progress {
    match me.at {
        Step::Rest => unreachable!("a connection at rest has no next operation"),

        // walTryBeginRead
        Step::ReadHeader => {
            (me.header, me.fresh) = (shared.frames, true);
            me.at = Step::Choose;
        }
        Step::Choose => {
            me.at = if shared.backfilled == me.header { Step::ShareZero } else { Step::ReadMarks };
        }
        Step::ShareZero => {
            if may_share(all, c, 0) {
                me.take_slot(all, c, 0);
                me.at = Step::VerifyZero;
            } else {
                me.at = Step::ReadMarks;
            }
        }
        Step::VerifyZero => {
            if me.is_current(shared) {
                return me.begun();
            }
            (me.slot, me.lost) = (None, false);
            me.at = Step::ReadHeader;
        }
        Step::ReadMarks => {
            (me.mark, me.safe) = (0, 0);
            for slot in READERS {
                let mark = shared.marks[usize::from(slot)];
                if me.mark <= mark && mark <= me.header {
                    (me.mark, me.safe) = (mark, slot);
                }
            }
            me.index = 1;
            me.at = if me.mark < me.header || me.safe == 0 { Step::Claim } else { Step::Share };
        }
        Step::Claim => {
            if may_exclude(all, c, read_lock(me.index)) {
                me.exclusive |= read_lock(me.index);
                me.at = Step::SetMark;
            } else if me.index < 4 {
                me.index += 1;
            } else if me.safe == 0 {
                me.retry();
            } else {
                me.at = Step::Share;
            }
        }
        Step::SetMark => {
            shared.marks[usize::from(me.index)] = me.header;
            (me.mark, me.safe) = (me.header, me.index);
            me.at = Step::Unclaim;
        }
        Step::Unclaim => {
            me.exclusive &= !read_lock(me.index);
            me.at = Step::Share;
        }
        Step::Share => {
            if may_share(all, c, me.safe) {
                me.take_slot(all, c, me.safe);
                me.at = Step::Verify;
            } else {
                me.retry();
            }
        }
        Step::Verify => {
            if shared.marks[usize::from(me.safe)] == me.mark && me.is_current(shared) {
                return me.begun();
            }
            (me.slot, me.lost) = (None, false);
            me.retry();
        }

        // sqlite3WalBeginWriteTransaction, walRestartLog, sqlite3WalFrames
        Step::WriteLock => {
            if !may_exclude(all, c, WRITE) {
                return Progress::Blocked;
            }
            me.exclusive |= WRITE;
            me.at = Step::WriteCheck;
        }
        Step::WriteCheck => {
            if !me.is_current(shared) {
                me.end();
                return Progress::Done(Outcome::Busy);
            }
            if me.task == Task::Lock {
                return Progress::Done(Outcome::Ok);
            }
            me.at = Step::Restart;
        }
        Step::Restart => {
            me.at = match me.slot {
                Some(0) if shared.backfilled > 0 && may_exclude(all, c, READER_LOCKS) => {
                    me.exclusive |= READER_LOCKS;
                    Step::ResetHeader
                }
                Some(0) => Step::BeginAgain,
                _ => Step::Commit,
            };
        }
        Step::ResetHeader => {
            shared.restart(all);
            (me.header, me.fresh, me.restarted) = (0, true, true);
            me.at = Step::ResetBackfill;
        }
        Step::ResetBackfill => {
            shared.backfilled = 0;
            me.at = Step::ResetMarks;
        }
        Step::ResetMarks => {
            shared.reset_marks();
            if matches!(me.task, Task::Checkpoint(_)) {
                shared.truncate();
                me.at = Step::CkptRelease;
            } else {
                me.at = Step::BeginAgain;
            }
            me.exclusive &= !READER_LOCKS;
        }
        Step::BeginAgain => {
            (me.slot, me.lost, me.use_wal) = (None, false, true);
            me.at = Step::ReadMarks;
        }
        Step::Commit => {
            if me.task == Task::Write && shared.may_grow() {
                shared.commit(all, me.restarted);
            }
            me.at = Step::WriteUnlock;
        }
        Step::WriteUnlock => {
            me.exclusive &= !WRITE;
            me.at = Step::EndRead;
        }
        Step::EndRead => {
            (me.slot, me.lost) = (None, false);
            return Progress::Done(Outcome::Ok);
        }

        // sqlite3WalCheckpoint
        Step::CkptLock => {
            if !may_exclude(all, c, CKPT) {
                return Progress::Done(Outcome::Checkpoint { busy: true, counts: None });
            }
            me.exclusive |= CKPT;
            me.at = if me.task == Task::Checkpoint(Mode::Passive) { Step::CkptHeader } else { Step::CkptWrite };
        }
        Step::CkptWrite => {
            if !may_exclude(all, c, WRITE) {
                return Progress::Blocked;
            }
            me.exclusive |= WRITE;
            me.patient = true;
            me.at = Step::CkptHeader;
        }
        Step::CkptHeader => {
            (me.header, me.fresh) = (shared.frames, true);
            me.at = Step::CkptBegin;
        }

        // walCheckpoint
        Step::CkptBegin => {
            if shared.backfilled < me.header {
                (me.safe, me.index) = (me.header, 1);
                me.at = Step::CkptMark;
            } else {
                me.at = Step::CkptEnd;
            }
        }
        Step::CkptMark => {
            me.mark = shared.marks[usize::from(me.index)];
            if me.safe > me.mark {
                me.at = Step::CkptMarkLock;
            } else {
                me.next_mark();
            }
        }
        Step::CkptMarkLock => {
            if may_exclude(all, c, read_lock(me.index)) {
                me.exclusive |= read_lock(me.index);
                me.at = Step::CkptMarkSet;
            } else if me.patient {
                return Progress::Blocked;
            } else {
                me.safe = me.mark;
                me.next_mark();
            }
        }
        Step::CkptMarkSet => {
            shared.marks[usize::from(me.index)] = if me.index == 1 { me.safe } else { Shared::UNUSED };
            me.exclusive &= !read_lock(me.index);
            me.next_mark();
        }
        Step::CkptSafe => {
            me.at = if shared.backfilled < me.safe { Step::CkptSlotZero } else { Step::CkptEnd };
        }
        Step::CkptSlotZero => {
            if may_exclude(all, c, read_lock(0)) {
                me.exclusive |= read_lock(0);
                me.at = Step::CkptSalts;
            } else if me.patient {
                return Progress::Blocked;
            } else {
                me.at = Step::CkptEnd;
            }
        }
        Step::CkptSalts => {
            me.at = if me.fresh { Step::CkptPublish } else { Step::CkptUnlockZero };
        }
        // The pages were copied and flushed before this.
        Step::CkptPublish => {
            shared.backfilled = me.safe;
            me.at = Step::CkptUnlockZero;
        }
        Step::CkptUnlockZero => {
            me.exclusive &= !read_lock(0);
            me.at = Step::CkptEnd;
        }
        Step::CkptEnd => {
            me.at = Step::CkptRelease;
            if me.task != Task::Checkpoint(Mode::Passive) && !me.demoted {
                if shared.backfilled < me.header {
                    me.busy = true;
                } else if me.task != Task::Checkpoint(Mode::Full) {
                    me.at = Step::CkptReaders;
                }
            }
        }
        Step::CkptReaders => {
            if !may_exclude(all, c, READER_LOCKS) {
                // The busy handler of a checkpoint that has met a reader is spent.
                if !me.patient {
                    return give_up_readers(me);
                }
                return Progress::Blocked;
            }
            if me.task == Task::Checkpoint(Mode::Truncate) {
                me.exclusive |= READER_LOCKS;
                me.at = Step::ResetHeader;
            } else {
                me.at = Step::CkptRelease;
            }
        }
        Step::CkptRelease => {
            let counts = Some((me.header, shared.backfilled));
            let busy = me.busy;
            me.exclusive = 0;
            return Progress::Done(Outcome::Checkpoint { busy, counts });
        }
    }
    Progress::Moved
}

fn give_up_readers(me: &mut Connection) -> Progress {
    me.busy = true;
    me.at = Step::CkptRelease;
    Progress::Moved
}

impl Connection {
    fn is_current(&self, shared: &Shared) -> bool {
        self.fresh && self.header == shared.frames
    }

    fn begun(&mut self) -> Progress {
        if self.use_wal {
            self.use_wal = false;
            self.at = Step::Commit;
            return Progress::Moved;
        }
        if self.task == Task::Read {
            return Progress::Done(Outcome::Ok);
        }
        self.at = Step::WriteLock;
        Progress::Moved
    }

    fn retry(&mut self) {
        self.at = if self.use_wal { Step::ReadMarks } else { Step::ReadHeader };
    }

    fn next_mark(&mut self) {
        self.at = if self.index < 4 { Step::CkptMark } else { Step::CkptSafe };
        self.index += 1;
    }

    /// Takes the shared lock on a slot. Within one process SQLite asks the system only
    /// for the first lock on a slot; where that one has silently gone, the next is
    /// none either.
    fn take_slot(&mut self, all: &[Connection], c: usize, slot: u8) {
        self.slot = Some(slot);
        self.lost = c < OURS
            && all[..OURS].iter().enumerate().any(|(i, other)| i != c && other.slot == Some(slot) && other.lost);
    }
}

fn may_share(all: &[Connection], c: usize, slot: u8) -> bool {
    all.iter().enumerate().all(|(i, other)| i == c || other.exclusive & read_lock(slot) == 0)
}

fn may_exclude(all: &[Connection], c: usize, locks: u8) -> bool {
    all.iter().enumerate().all(|(i, other)| {
        let shared = match other.slot {
            Some(slot) if !other.lost => read_lock(slot),
            _ => 0,
        };
        i == c || (other.exclusive | shared) & locks == 0
    })
}

/// Connections of the daemon come first: two for pins, one for the write lock.
pub const OURS: usize = 3;
const READER_LOCKS: u8 = 0b1111_0000;
/// More than the longest task takes.
const MAX_STEPS: usize = 200;
