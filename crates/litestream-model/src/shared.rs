//! The shared memory of one database in WAL mode, and what is known of its log.
//!
//! Commits are one frame long and are counted, not stored: a place in the log
//! carries how many commits it is behind the newest one, so that a commit that
//! was passed over shows as a difference, and states that differ only in how much
//! was ever written are one state.

use crate::connection::Connection;

/// The wal-index, as far as it decides anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shared {
    /// `mxFrame`: committed frames in the present generation.
    pub frames: u8,
    /// `nBackfill`.
    pub backfilled: u8,
    /// `aReadMark`; slot 0 has none.
    pub marks: [u8; 5],
    /// The log file is empty, and the header of the wal-index holds no salts.
    pub is_bare: bool,
    /// The log file still holds the generation before, with this many frames,
    /// because nothing was written since the restart.
    pub before: u8,
    /// Places that are remembered by somebody.
    pub places: [Option<Place>; PLACES],
    limit: u8,
}

/// A place in the log, as it looks from the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which generation it is in.
    pub generation: Generation,
    /// Frames before it.
    pub frame: u8,
    /// Commits since then, whether they are in the log or not; counts to twice the longest log.
    pub behind: u8,
}

/// How a generation is related to the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// It is the present one.
    Present,
    /// The present one was made from it by one restart: `salt1 + 1`.
    Before,
    /// Neither; the salts share nothing.
    Other,
    /// The log had no salts.
    Bare,
}

impl Shared {
    /// `READMARK_NOT_USED`.
    pub const UNUSED: u8 = u8::MAX;

    /// A database that has just been opened for the first time. No generation grows
    /// beyond `limit` frames.
    pub fn new(limit: u8) -> Self {
        Self { frames: 0, backfilled: 0, marks: FRESH_MARKS, is_bare: true, before: 0, places: [None; PLACES], limit }
    }

    /// The end of the log as it is.
    pub fn end(&self) -> Place {
        let generation = if self.is_bare { Generation::Bare } else { Generation::Present };
        Place { generation, frame: self.frames, behind: 0 }
    }

    /// True while the log file has all frames up to `place`.
    pub fn holds(&self, place: Place) -> bool {
        match place.generation {
            Generation::Present => place.frame <= self.frames,
            Generation::Before => place.frame <= self.before,
            Generation::Other | Generation::Bare => place.frame == 0,
        }
    }

    /// Behind by more than any log holds, even one that grows while it is read.
    fn far(&self) -> u8 {
        self.limit.saturating_mul(2).saturating_add(1)
    }

    /// True while the bound on the length of the log allows a commit.
    pub fn may_grow(&self) -> bool {
        self.frames < self.limit
    }

    /// One more committed frame. An empty log gets new salts, unless the connection has
    /// restarted it before.
    pub fn commit(&mut self, all: &mut [Connection], has_restarted: bool) {
        if self.frames == 0 && !has_restarted {
            self.forget_generation(all);
        }
        (self.is_bare, self.before) = (false, 0);
        self.frames += 1;
        let far = self.far();
        for place in self.places.iter_mut().flatten() {
            place.behind = (place.behind + 1).min(far);
        }
    }

    /// `walRestartHdr`, its first half: a new generation, `salt1 + 1`.
    pub fn restart(&mut self, all: &mut [Connection]) {
        for place in self.places.iter_mut().flatten() {
            place.generation = match place.generation {
                Generation::Present => Generation::Before,
                Generation::Bare => Generation::Bare,
                Generation::Before | Generation::Other => Generation::Other,
            };
        }
        // A log without frames is restarted by TRUNCATE only, which cuts the file.
        self.before = self.frames;
        self.frames = 0;
        self.is_bare = false;
        self.age(all);
    }

    /// The second half of `walRestartHdr`.
    pub fn reset_marks(&mut self) {
        self.marks = [0, 0, Self::UNUSED, Self::UNUSED, Self::UNUSED];
    }

    /// The log file is cut to nothing.
    pub fn truncate(&mut self) {
        self.before = 0;
    }

    /// Nobody has the database open, and the last one to close it removed the log.
    pub fn remove_log(&mut self, all: &mut [Connection]) {
        self.forget_generation(all);
        *self = Self { places: self.places, ..Self::new(self.limit) };
    }

    /// Another database, or another log, stands at the path: whatever was known is
    /// far behind.
    pub fn replace(&mut self, all: &mut [Connection]) {
        self.remove_log(all);
        let far = self.far();
        for place in self.places.iter_mut().flatten() {
            place.behind = far;
        }
    }

    /// The shared memory is built anew from the log file (`walIndexRecover`).
    pub fn recover(&mut self, all: &mut [Connection]) {
        if self.frames == 0 {
            if self.before == 0 {
                self.remove_log(all);
            } else {
                // The restart was never written: the generation before is back.
                self.frames = self.before;
                self.before = 0;
                for place in self.places.iter_mut().flatten() {
                    place.generation = match place.generation {
                        Generation::Before => Generation::Present,
                        Generation::Bare => Generation::Bare,
                        Generation::Present | Generation::Other => Generation::Other,
                    };
                }
                self.age(all);
            }
        }
        self.backfilled = 0;
        self.marks =
            [0, if self.frames > 0 { self.frames } else { Self::UNUSED }, Self::UNUSED, Self::UNUSED, Self::UNUSED];
    }

    fn forget_generation(&mut self, all: &mut [Connection]) {
        for place in self.places.iter_mut().flatten() {
            if place.generation != Generation::Bare {
                place.generation = Generation::Other;
            }
        }
        self.before = 0;
        self.age(all);
    }

    /// Copies of the header that connections hold are of an older generation.
    fn age(&self, all: &mut [Connection]) {
        for connection in all {
            connection.fresh = connection.fresh && connection.is_free();
        }
    }
}

/// How many places the daemon remembers: see [`crate::daemon`].
pub const PLACES: usize = 4;
/// Slots that have a mark.
pub const READERS: std::ops::RangeInclusive<u8> = 1..=4;
/// The write lock.
pub const WRITE: u8 = 1;
/// The checkpoint lock.
pub const CKPT: u8 = 2;

/// The lock on a read slot.
pub const fn read_lock(slot: u8) -> u8 {
    1 << (slot + 3)
}

/// What `walIndexRecover` leaves for an empty log.
const FRESH_MARKS: [u8; 5] = [0, Shared::UNUSED, Shared::UNUSED, Shared::UNUSED, Shared::UNUSED];
