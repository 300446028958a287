//! The chain of overlapping read transactions that keeps every uncaptured frame
//! in the WAL.
//!
//! The rule that must never break: **at every moment some pin is held whose
//! snapshot has been captured, or that sits on read slot 0 over a generation
//! captured to its end.** Then a foreign checkpoint can neither restart the WAL
//! over frames we have not read nor hide them in the database file. It follows
//! from two habits this machine enforces: a new pin is opened before the old one
//! is released, and between the two everything up to the new pin is captured.
//!
//! The machine has no I/O and no clock: it says what to do next and is told how
//! it went, so that it can be run against a model of SQLite (see the tests).
//!
//! Why this holds: docs/decisions/0002-pin-chain.md.

use std::collections::VecDeque;

/// One of the two connections that take turns at holding the pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    /// The first connection.
    A,
    /// The second connection.
    B,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// How far a pass goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Goal {
    /// Capture and move the pin forward, so that others' checkpoints get through.
    Advance,
    /// Also copy frames into the database file, so that the WAL can start over.
    Checkpoint,
    /// Also hold the write lock for the last few frames, because writers never
    /// leave a gap and the WAL has grown too large.
    CheckpointUnderLock,
}

/// What the executor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Begin a read transaction on this connection.
    OpenPin(Side),
    /// Capture at least to the end of the WAL as it is when this action starts.
    Capture,
    /// End this connection's read transaction.
    ReleasePin(Side),
    /// Run a PASSIVE checkpoint on this connection, which holds no pin.
    Checkpoint(Side),
    /// Take the write lock (on a third connection).
    LockWriters,
    /// Give it back.
    UnlockWriters,
    /// The pass is over.
    Done,
}

impl Action {
    /// The step's name, for messages and for whoever watches.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenPin(_) => "open pin",
            Self::Capture => "capture",
            Self::ReleasePin(_) => "release pin",
            Self::Checkpoint(_) => "checkpoint",
            Self::LockWriters => "lock writers",
            Self::UnlockWriters => "unlock writers",
            Self::Done => "done",
        }
    }
}

/// How the last action went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// It succeeded.
    Ok,
    /// Somebody else is checkpointing, or keeps the write lock.
    Busy,
    /// Another reader holds an older snapshot: the rest of the goal waits for
    /// another pass.
    Blocked,
}

/// Which pins are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Held {
    /// None: nothing protects the WAL, and nothing may be assumed about it.
    None,
    /// One, and everything up to its snapshot has been captured.
    One(Side),
    /// Two: `old` is still needed until everything up to `new` is captured.
    Both {
        /// Opened first.
        old: Side,
    },
}

/// See the module's description.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PinChain {
    held: Held,
    stages: VecDeque<Stage>,
    last: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Advance,
    Checkpoint,
    Lock,
    Unlock,
}

impl PinChain {
    /// A chain that holds nothing yet.
    pub(crate) fn new() -> Self {
        Self { held: Held::None, stages: VecDeque::new(), last: Action::Done }
    }

    pub(crate) fn held(&self) -> Held {
        self.held
    }

    /// Starts a pass. Whatever an earlier pass left undone by an error is
    /// finished first, because a stage begins from what is held.
    pub(crate) fn begin(&mut self, goal: Goal) -> Action {
        self.stages.clear();
        let stages: &[Stage] = match goal {
            Goal::Advance => &[Stage::Advance],
            Goal::Checkpoint => &[Stage::Advance, Stage::Checkpoint, Stage::Advance],
            // What is captured before the lock need not be copied under it.
            Goal::CheckpointUnderLock => {
                &[Stage::Advance, Stage::Lock, Stage::Advance, Stage::Checkpoint, Stage::Advance, Stage::Unlock]
            }
        };
        self.stages.extend(stages);
        self.last = Action::Done;
        self.next_action()
    }

    /// Reports how the last action went and asks for the next one. After a
    /// *failed* action the pass simply ends: call [`begin`](Self::begin) next time.
    pub(crate) fn step(&mut self, event: Event) -> Action {
        match (self.last, event) {
            (Action::OpenPin(side), Event::Ok) => {
                self.held = match self.held {
                    // The first pin protects from its own snapshot on; what lies
                    // before it is the continuity rule's business.
                    Held::None => Held::One(side),
                    Held::One(old) => Held::Both { old },
                    both @ Held::Both { .. } => both,
                };
            }
            (Action::ReleasePin(side), Event::Ok) => self.held = Held::One(side.other()),
            (Action::Checkpoint(_) | Action::LockWriters | Action::UnlockWriters, Event::Ok) => {
                self.stages.pop_front();
            }
            (Action::Checkpoint(_) | Action::LockWriters, Event::Busy | Event::Blocked) => {
                // Leave it to a later pass, but never leave without giving the
                // lock back.
                let locked = self.stages.contains(&Stage::Unlock) && !self.stages.contains(&Stage::Lock);
                self.stages.clear();
                if locked {
                    self.stages.push_back(Stage::Unlock);
                }
            }
            _ => {}
        }
        self.next_action()
    }

    fn next_action(&mut self) -> Action {
        let action = match (self.stages.front(), self.held) {
            (None, _) => Action::Done,
            (Some(Stage::Advance), held) => return self.advance(held),
            (Some(Stage::Checkpoint), Held::One(side)) => Action::Checkpoint(side.other()),
            (Some(Stage::Checkpoint), held) => return self.advance(held),
            (Some(Stage::Lock), _) => Action::LockWriters,
            (Some(Stage::Unlock), _) => Action::UnlockWriters,
        };
        self.last = action;
        action
    }

    /// One stage of: open a newer pin, capture up to it, release the older.
    fn advance(&mut self, held: Held) -> Action {
        let action = match (held, self.last) {
            (Held::None, _) => Action::OpenPin(Side::A),
            (Held::Both { old }, Action::Capture) => Action::ReleasePin(old),
            (Held::Both { .. }, _) => Action::Capture,
            (Held::One(_), Action::ReleasePin(_)) | (Held::One(_), Action::OpenPin(_)) => {
                // The stage is complete.
                self.last = Action::Done;
                if self.stages.front() == Some(&Stage::Advance) {
                    self.stages.pop_front();
                }
                return self.next_action();
            }
            (Held::One(side), _) => Action::OpenPin(side.other()),
        };
        self.last = action;
        action
    }
}

#[cfg(test)]
mod tests;
