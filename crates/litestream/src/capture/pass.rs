//! One pass: capture what is new, move the pin, and checkpoint when the WAL is
//! long enough.

use std::time::{Duration, Instant};

use litestream_replica::flushes::FLUSHES;

use super::l0::Into;
use super::live::Live;
use super::{Base, Capture, MAX_BACKOFF, MIN_BACKOFF, PassReport, Publish};
use crate::continuity::{Gap, Tally};
use crate::error::{Error, ErrorKind, Result};
use crate::pin_chain::{Action, Event, Goal};
use crate::wal;
use crate::wal_index::WalIndex;

impl Capture {
    /// True when there may be something to do: frames beyond the position, or a
    /// database that is not open. Costs one read of shared memory.
    pub(crate) fn is_behind(&self) -> bool {
        if let Some(changed) = self.parked_and_changed() {
            return changed;
        }
        let (Some(live), Ok(position)) = (&self.live, self.captured()) else { return true };
        live.peek().is_none_or(|index| index.end.salts != position.wal.salts || index.end.frame != position.wal.frame)
    }

    /// True when an idle database needs a pass all the same: its file was replaced,
    /// or frames have waited long enough for a checkpoint.
    pub(crate) fn needs_attention(&self, now: Instant) -> bool {
        if let Some(changed) = self.parked_and_changed() {
            return changed;
        }
        let Some(live) = &self.live else { return true };
        let waits = match self.checkpoints.dirty_since {
            Some(since) => self.is_waiting_too_long(since, now) && now >= self.checkpoints.not_before,
            None => live.peek().is_some_and(|index| !index.is_backfilled()),
        };
        waits || live.check().is_err()
    }

    /// True when the file at the path is the one that is open, or parked and unchanged.
    pub(crate) fn is_on_its_file(&self) -> bool {
        if let Some(changed) = self.parked_and_changed() {
            return !changed;
        }
        self.live.as_ref().is_some_and(|live| live.check().is_ok())
    }

    /// WAL bytes beyond the position.
    pub(crate) fn backlog(&self) -> u64 {
        let (Some(live), Ok(position)) = (&self.live, self.captured()) else { return 0 };
        live.peek().map_or(0, |index| {
            let same = index.end.salts == position.wal.salts;
            let from = if same { position.wal.frame } else { 0 };
            u64::from(index.end.frame.saturating_sub(from)) * wal::frame_len(live.page_size) as u64
        })
    }

    /// Runs one pass. Opens the database first when it is not open, and again when
    /// the file behind the path has changed.
    ///
    /// With `publish`, everything that was committed when the call began is in a
    /// level-0 file when it returns; without, it is only safe from the WAL's reuse.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] while there is no database. After any other error the
    /// pins stay as they are and the next pass picks up the thread.
    pub(crate) fn pass(&mut self, now: Instant, publish: Publish) -> Result<PassReport> {
        if self.wal_given_up && self.local_space().is_some_and(|space| space < MIN_SPACE) {
            // A comparison of all pages would end with the same error.
            return Err(Error::new(
                ErrorKind::DiskFull,
                "the disk of the local state is full, the wal was given up for max-wal-bytes",
            ));
        }
        if let Some(live) = &self.live
            && let Err(err) = live.check()
        {
            tracing::warn!(db = %self.options.path.display(), reason = %err, "database must be opened again");
            if err.kind() == ErrorKind::Missing {
                self.capture_last();
            }
            self.live = None;
        }
        if self.live.is_none() {
            self.open()?;
        }
        if self.held.is_some() {
            self.forget();
            self.open()?;
        }
        let mut report = PassReport { txid: None, wal_bytes: 0, wal_size: 0, db_size: 0, checkpoint_pending: false };
        let result = self.run(now, publish, &mut report);
        if let Some(live) = &self.live {
            // Whatever happened above, writers must not wait for us.
            live.unlock_writers()?;
        }
        self.checkpoints.locked_at = None;
        self.checkpoints.quiet = None;
        // A pass that failed under the lock still has to capture what it copied there.
        let result = self.capture_held(&mut report).and(result);
        if let Err(err) = result {
            if err.kind() == ErrorKind::Discontinuous {
                tracing::warn!(db = %self.options.path.display(), reason = %err, "continuity lost, comparing all pages");
                self.forget();
                self.broken = Some(Gap::Broken);
                self.open()?;
            } else {
                return Err(err);
            }
        }
        self.fill(&mut report)?;
        self.wal_given_up = false;
        Ok(report)
    }

    /// Captures what was committed before the file was deleted, from the handles that
    /// are still open on it. The pin that is held keeps it all in the WAL.
    fn capture_last(&mut self) {
        let mut report = PassReport { txid: None, wal_bytes: 0, wal_size: 0, db_size: 0, checkpoint_pending: false };
        let result = self.capture(Into::Delta, &mut report).and_then(|()| self.publish_delta());
        if let Err(err) = result {
            tracing::warn!(db = %self.options.path.display(), error = %err, "last commits of a deleted database may be missing");
        }
    }

    fn run(&mut self, now: Instant, publish: Publish, report: &mut PassReport) -> Result<()> {
        self.finish_sealed(false)?;
        let had_delta = self.has_open_delta();
        let mut into = if publish == Publish::Later { Into::Delta } else { Into::File };
        let index = self.live()?.index()?;
        let goal = self.goal(&index, now);
        // The application's own checkpoint may be running and will soon end. Only one
        // of ours tells whether a reader stands in the way.
        self.checkpoints.patience = if goal == Goal::CheckpointUnderLock { LOCK_PATIENCE } else { CHECKPOINT_PATIENCE };
        if goal != Goal::CheckpointUnderLock || self.needs_lock(now, &mut into, report)? {
            self.follow_chain(goal, &mut into, report)?;
        }
        if goal != Goal::Advance {
            self.learn(now);
        }
        match publish {
            Publish::Now if had_delta => self.publish_delta(),
            Publish::Soon if had_delta => self.publish_delta_aside(),
            _ if self.is_delta_full() => self.publish_delta_aside(),
            _ => Ok(()),
        }
    }

    /// Checkpoints and flushes while writers go on, so that little is left to do under
    /// the write lock. False when the lock is not needed any more, or would not help.
    ///
    /// For a writer that fills the WAL as fast as it is emptied it is better to lock at
    /// once: during a flush it adds more than the flush takes off the lock.
    fn needs_lock(&mut self, now: Instant, into: &mut Into, report: &mut PassReport) -> Result<bool> {
        if self.is_pressed(now) {
            return Ok(true);
        }
        self.follow_chain(Goal::Checkpoint, into, report)?;
        if self.checkpoints.blocked || self.live()?.index()?.is_backfilled() {
            return Ok(false);
        }
        // The checkpoint has written pages but, short of the end of the log, not
        // flushed them.
        self.options.disk.reach("flush").map_err(|e| Error::io("flush wal", e))?;
        let live = self.live()?;
        live.db.sync_data().map_err(|e| Error::io("flush database", e))?;
        live.wal.sync_data().map_err(|e| Error::io("flush wal", e))?;
        Ok(true)
    }

    /// True when the WAL is filled as fast as it is emptied.
    fn is_pressed(&self, now: Instant) -> bool {
        self.checkpoints.unlocked_at.is_some_and(|at| now.duration_since(at) < PRESSED_FOR)
    }

    /// Does what the pin chain asks for until the goal is reached.
    fn follow_chain(&mut self, goal: Goal, into: &mut Into, report: &mut PassReport) -> Result<()> {
        let mut action = self.live_mut()?.chain.begin(goal);
        while action != Action::Done {
            if action == Action::Capture {
                self.capture(*into, report)?;
                // What comes in while the pass goes on waits for the next file.
                *into = Into::Delta;
            }
            self.options.disk.reach(action.name()).map_err(|e| Error::io(action.name(), e))?;
            let event = self.perform(action, report)?;
            action = self.live_mut()?.chain.step(event);
        }
        Ok(())
    }

    /// How far this pass goes. The write lock is the last resort: long WAL, and no
    /// gap between commits in which a checkpoint could finish.
    fn goal(&mut self, index: &WalIndex, now: Instant) -> Goal {
        if index.is_backfilled() {
            self.checkpoints.dirty_since = None;
            return Goal::Advance;
        }
        let dirty_since = *self.checkpoints.dirty_since.get_or_insert(now);
        if now < self.checkpoints.not_before {
            return Goal::Advance;
        }
        let frames = index.end.frame;
        let by_time = self.is_waiting_too_long(dirty_since, now);
        if frames >= self.lock_threshold(index, now) {
            Goal::CheckpointUnderLock
        } else if frames >= self.options.min_checkpoint_page_count || by_time {
            Goal::Checkpoint
        } else {
            Goal::Advance
        }
    }

    fn is_waiting_too_long(&self, dirty_since: Instant, now: Instant) -> bool {
        let interval = self.options.checkpoint_interval;
        !interval.is_zero() && now.duration_since(dirty_since) >= interval
    }

    /// WAL length in pages from which the write lock may be taken. A short WAL that
    /// is reused in place costs the disk least, and the less there is to copy, the
    /// shorter the lock: once a writer has shown that it leaves no gaps, a
    /// quarter will do.
    fn lock_threshold(&self, index: &WalIndex, now: Instant) -> u32 {
        let page_len = index.page_size.map_or(4096, ltx::PageSize::get);
        let configured = u32::try_from(self.options.truncate_page_n).ok().filter(|&pages| pages > 0);
        let budget = LOCKED_WAL_LEN / page_len;
        let threshold = configured
            .map_or(budget, |pages| pages.min(budget))
            .max(self.options.min_checkpoint_page_count.saturating_mul(2));
        if self.is_pressed(now) { threshold / 4 } else { threshold }
    }

    /// Remembers whether another reader stood in the way. Coming back at once would
    /// only cost work, and under the lock it would make writers wait for nothing
    /// (D12, D13).
    fn learn(&mut self, now: Instant) {
        if std::mem::take(&mut self.checkpoints.blocked) {
            // The next attempt looks for readers before it asks for the lock.
            self.checkpoints.unlocked_at = None;
            // A reader that was only passing through is gone the next time.
            self.checkpoints.not_before = now + self.checkpoints.backoff;
            self.checkpoints.backoff = (self.checkpoints.backoff * 2).clamp(MIN_BACKOFF, MAX_BACKOFF);
        } else {
            self.checkpoints.backoff = Duration::ZERO;
            self.checkpoints.dirty_since = None;
        }
    }

    fn perform(&mut self, action: Action, report: &mut PassReport) -> Result<Event> {
        match action {
            Action::OpenPin(side) => {
                let live = self.live_mut()?;
                let frames = live.index()?.end.frame;
                live.open_pin(side)?.begin_read()?;
                live.pinned_frames = frames;
            }
            Action::ReleasePin(side) => self.live()?.pin(side)?.end()?,
            Action::Checkpoint(side) => return self.checkpoint(side),
            Action::LockWriters => {
                self.checkpoints.quiet = Some(FLUSHES.quiet(QUIET_PATIENCE));
                let locked = self.live_mut()?.locker()?.lock_writers(LOCK_PATIENCE)?;
                self.checkpoints.locked_at = locked.then(Instant::now);
                return Ok(if locked { Event::Ok } else { Event::Busy });
            }
            Action::UnlockWriters => {
                self.live()?.unlock_writers()?;
                self.checkpoints.quiet = None;
                if let Some(locked_at) = self.checkpoints.locked_at.take() {
                    self.checkpoints.unlocked_at = Some(tokio::time::Instant::now().into_std());
                    tracing::debug!(db = %self.options.path.display(), held = ?locked_at.elapsed(), "write lock held");
                }
                self.capture_held(report)?;
            }
            Action::Capture | Action::Done => {}
        }
        Ok(Event::Ok)
    }

    fn checkpoint(&mut self, side: crate::pin_chain::Side) -> Result<Event> {
        let patience = self.checkpoints.patience;
        let live = self.live_mut()?;
        let pinned_frames = live.pinned_frames;
        let began = Instant::now();
        let result = live.open_pin(side)?.checkpoint_passive(patience);
        self.counters.checkpointed(began.elapsed(), result.is_err());
        let Some(outcome) = result? else { return Ok(Event::Busy) };
        tracing::debug!(
            db = %self.options.path.display(),
            mode = "PASSIVE",
            frames = outcome.log,
            backfilled = outcome.backfilled,
            elapsed = ?began.elapsed(),
            "checkpoint"
        );
        // Short of our own pin means that another reader holds an older snapshot.
        // Trying harder would not help, and must not make writers wait.
        if outcome.backfilled < pinned_frames.min(outcome.log) {
            self.checkpoints.blocked = true;
            return Ok(Event::Blocked);
        }
        Ok(Event::Ok)
    }

    /// Captures up to the end of the WAL as it is now.
    fn capture(&mut self, into: Into, report: &mut PassReport) -> Result<()> {
        if !matches!(self.base, Base::Known(_)) {
            // Nothing to continue: the image that is needed will hold it all.
            return Ok(());
        }
        let target = self.live()?.index()?;
        if self.checkpoints.locked_at.is_some() && self.hold_tail(&target)? {
            return Ok(());
        }
        while let Some(captured) = self.capture_chunk(&target, into)? {
            report.wal_bytes += captured;
        }
        let place = self.captured()?.wal;
        self.live_mut()?.tally = Some(Tally::new(&place, target.changes));
        Ok(())
    }

    fn fill(&self, report: &mut PassReport) -> Result<()> {
        let live: &Live = self.live()?;
        let index = live.index()?;
        report.txid = self.txid();
        report.wal_size = wal::frame_offset(live.page_size, index.end.frame);
        report.db_size = live.db.metadata().map_err(|e| Error::io("read attributes of database", e))?.len();
        report.checkpoint_pending = !index.is_backfilled();
        Ok(())
    }
}

/// A writer that keeps the lock longer is in a long transaction, and then the WAL
/// cannot start over anyway.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);
/// The application's own checkpoint after each commit is mostly over sooner.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(5);
/// How long flushes of ours may hold up a checkpoint.
const QUIET_PATIENCE: Duration = Duration::from_millis(100);
/// A WAL that is due for a checkpoint again so soon is filled by a writer that leaves
/// no gaps, or by one too fast to look for them.
const PRESSED_FOR: Duration = Duration::from_millis(100);
/// With less than that at hand, capture does not begin anew after the WAL was given up.
pub(crate) const MIN_SPACE: u64 = 1 << 20;
/// 8 MiB: see [`Capture::lock_threshold`].
const LOCKED_WAL_LEN: u32 = 8 << 20;

#[cfg(test)]
mod tests;
