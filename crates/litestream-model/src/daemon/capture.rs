//! What a capture decides and reads.
//!
//! Mirrors `capture/l0.rs` and `capture/held.rs` without bytes.

use super::{CAPTURED, Daemon, HELD, LOCKER, RECORDED, Site, TARGET, Violation, counted, is_true, place};
use crate::continuity::{Next, Tally, proceed};
use crate::pin_chain::Event;
use crate::shared::{Generation, Place, WRITE};

/// What a capture decided when it looked at the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Plan {
    Broken,
    Nothing,
    Frames,
    StartedOver,
    /// The frames were read; their pages are next.
    Pages,
}

impl Plan {
    fn of(here: Place, target: Place, is_caught_up: bool) -> Self {
        match proceed(&place(here), &place(target), is_caught_up) {
            Err(_) => Self::Broken,
            Ok(Next::Nothing) => Self::Nothing,
            Ok(Next::Frames) => Self::Frames,
            Ok(Next::StartedOver(_)) => Self::StartedOver,
        }
    }
}

impl Daemon {
    /// Three steps, and others act in between: look at the end of the log and decide,
    /// read the frames up to it, then their pages.
    pub(super) fn capture(&mut self, site: &mut Site<'_>) -> Result<(), Violation> {
        let Some(here) = site.shared.places[CAPTURED] else { unreachable!("a pass has a base") };
        let Some(plan) = self.plan.take() else {
            let target = site.shared.end();
            site.shared.places[TARGET] = Some(target);
            self.plan = Some(Plan::of(here, target, self.is_caught_up));
            return Ok(());
        };
        let Some(target) = site.shared.places[TARGET] else { unreachable!("a plan has a target") };
        let is_locked = site.all[LOCKER].exclusive & WRITE != 0;
        if is_locked && matches!(plan, Plan::Nothing | Plan::Frames) {
            if plan == Plan::Frames && site.shared.places[HELD].is_none() {
                site.shared.places[HELD] = Some(target);
            }
            site.shared.places[TARGET] = None;
            return self.step(site, Event::Ok);
        }
        match plan {
            Plan::Pages if is_over(target) => self.lose_continuity(site),
            Plan::Pages if !site.shared.holds(target) => Err("pages of overwritten frames were captured"),
            Plan::Pages => {
                site.shared.places[CAPTURED] = Some(target);
                self.captured(site)
            }
            _ => match self.scan(site, plan, here, target) {
                None => self.lose_continuity(site),
                Some(0) => self.captured(site),
                Some(_) => {
                    self.plan = Some(Plan::Pages);
                    Ok(())
                }
            },
        }
    }

    /// Everything up to the target is captured.
    fn captured(&mut self, site: &mut Site<'_>) -> Result<(), Violation> {
        site.shared.places[TARGET] = None;
        self.is_caught_up = true;
        is_true(site, CAPTURED)?;
        self.step(site, Event::Ok)
    }

    /// How many frames there are; `None` when the log does not continue what was captured.
    fn scan(&self, site: &mut Site<'_>, plan: Plan, here: Place, target: Place) -> Option<u32> {
        let found = match plan {
            Plan::Broken | Plan::Pages => return None,
            Plan::Nothing => 0,
            Plan::Frames => u32::from(target.frame - here.frame),
            Plan::StartedOver => u32::from(target.frame),
        };
        if found > 0 && is_over(target) {
            return None;
        }
        let tally = Tally::new(&place(here), counted(here)).after(&place(target), found);
        if self.is_caught_up && !tally.adds_up(counted(target)) {
            return None;
        }
        if plan == Plan::StartedOver {
            let start = Place { generation: target.generation, frame: 0, behind: here.behind };
            self.move_captured(site, here, start);
        }
        Some(found)
    }

    /// The log started over. Without an open delta the record moves along.
    fn move_captured(&self, site: &mut Site<'_>, from: Place, to: Place) {
        if site.shared.places[RECORDED] == Some(from) && self.is_recorded {
            site.shared.places[RECORDED] = Some(to);
        }
        site.shared.places[CAPTURED] = Some(to);
    }

    /// What was copied under the write lock is captured from the copy. False when that
    /// showed a gap, and the database is being opened anew.
    pub(super) fn capture_held(&mut self, site: &mut Site<'_>) -> Result<bool, Violation> {
        let Some(held) = site.shared.places[HELD].take() else { return Ok(true) };
        let Some(here) = site.shared.places[CAPTURED] else { unreachable!("a pass has a base") };
        // From the copy, whatever became of the log.
        let tally = Tally::new(&place(here), counted(here)).after(&place(held), u32::from(held.frame - here.frame));
        if !self.is_caught_up || tally.adds_up(counted(held)) {
            site.shared.places[CAPTURED] = Some(held);
        } else {
            self.lose_continuity(site)?;
            return Ok(false);
        }
        is_true(site, CAPTURED)?;
        Ok(true)
    }
}

/// Frames of a generation that is over may be overwritten. The checksums of frames
/// show it when they are read, the salts in the wal-index behind the reading of pages.
fn is_over(target: Place) -> bool {
    !matches!(target.generation, Generation::Present | Generation::Bare)
}
