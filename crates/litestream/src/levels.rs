//! The compaction levels of a configuration, and the moments at which they are due.
//!
//! Boundaries are whole multiples of an interval counted from
//! 0001-01-01T00:00:00Z, not from 1970: two programs that alternate on one
//! replica then agree when a level is due. For intervals that divide a day the
//! two counts are the same; a week begins on Monday in ours.
//!
//! Spec: store-and-restore §1, §4, §5.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use litestream_replica::Level;

use crate::error::{Error, ErrorKind, Result};

/// The intervals of levels 1 upward.
///
/// May be empty: then a replica has level 0 and snapshots only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    intervals: Vec<Duration>,
}

impl Levels {
    /// Levels 1 to n, each with how often it is compacted from the one below.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`], in upstream's words, for an interval of zero or
    /// more than eight levels.
    pub fn new(intervals: Vec<Duration>) -> Result<Self> {
        if let Some(index) = intervals.iter().position(Duration::is_zero) {
            return Err(Error::new(
                ErrorKind::Setup,
                format!("levels[{index}].interval: compaction interval must be greater than 0 (got 0s)"),
            ));
        }
        if intervals.len() > MAX_LEVELS {
            return Err(Error::new(ErrorKind::Setup, format!("compaction level cannot exceed {MAX_LEVELS}")));
        }
        Ok(Self { intervals })
    }

    /// How often a level is compacted; `None` for level 0, for snapshots and for
    /// levels that are not configured.
    pub fn interval(&self, level: Level) -> Option<Duration> {
        let index = usize::from(level.get()).checked_sub(1)?;
        self.intervals.get(index).copied()
    }

    /// The configured levels, lowest first, each with its interval.
    pub fn iter(&self) -> impl Iterator<Item = (Level, Duration)> + '_ {
        Level::all().skip(1).zip(self.intervals.iter().copied())
    }

    /// Whether nothing is ever compacted.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }
}

impl Default for Levels {
    /// 30 seconds, 5 minutes, 1 hour.
    fn default() -> Self {
        Self { intervals: [30, 5 * 60, 60 * 60].map(Duration::from_secs).to_vec() }
    }
}

/// The last boundary at or before `moment`. A zero interval has boundaries
/// everywhere.
pub fn previous_boundary(moment: Timestamp, interval: Duration) -> Timestamp {
    let since = moment.as_nanosecond() + EPOCH_NANOS;
    from_nanos(since - since.rem_euclid(nanos(interval)) - EPOCH_NANOS)
}

/// The first boundary after `moment`.
pub fn next_boundary(moment: Timestamp, interval: Duration) -> Timestamp {
    from_nanos(previous_boundary(moment, interval).as_nanosecond() + nanos(interval))
}

/// Whether a level whose newest file has this time was served since the last
/// boundary.
///
/// A time beyond the *next* boundary comes from a bad clock. It is not believed:
/// otherwise one such file would stop its level until that time has come.
pub(crate) fn is_served(newest: Timestamp, now: Timestamp, interval: Duration) -> bool {
    newest > previous_boundary(now, interval) && newest <= next_boundary(now, interval)
}

/// `moment - age`, at the earliest the first moment there is.
pub(crate) fn before(moment: Timestamp, age: Duration) -> Timestamp {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    moment.checked_sub(age).unwrap_or(Timestamp::MIN)
}

/// `moment + time`, at the latest the last moment there is.
pub(crate) fn after(moment: Timestamp, time: Duration) -> Timestamp {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    moment.checked_add(time).unwrap_or(Timestamp::MAX)
}

fn nanos(interval: Duration) -> i128 {
    i128::try_from(interval.as_nanos()).unwrap_or(i128::MAX / 2).max(1)
}

fn from_nanos(nanos: i128) -> Timestamp {
    let end = if nanos < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_nanosecond(nanos).unwrap_or(end)
}

/// Level 9 holds snapshots, so eight are left for compaction.
const MAX_LEVELS: usize = 8;
/// From 0001-01-01T00:00:00Z to 1970-01-01T00:00:00Z: 719,162 days.
const EPOCH_NANOS: i128 = 719_162 * 86_400 * 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn defaults_are_thirty_seconds_five_minutes_one_hour() {
        let levels: Vec<_> = Levels::default().iter().map(|(level, interval)| (level.get(), interval)).collect();
        assert_eq!(levels, [(1, seconds(30)), (2, seconds(300)), (3, seconds(3600))]);
        assert_eq!(Levels::default().interval(Level::L0), None);
        assert_eq!(Levels::default().interval(Level::SNAPSHOT), None);
    }

    #[test]
    fn no_levels_and_eight_levels_are_fine() {
        assert!(Levels::new(Vec::new()).unwrap().is_empty());
        let eight = Levels::new(vec![seconds(1); 8]).unwrap();
        assert_eq!(eight.iter().last().map(|(level, _)| level.get()), Some(8));
    }

    #[test]
    fn refusals_are_in_upstreams_words() {
        let text = |intervals| Levels::new(intervals).unwrap_err().to_string();
        assert_eq!(text(vec![seconds(1); 9]), "compaction level cannot exceed 8");
        assert_eq!(
            text(vec![Duration::ZERO]),
            "levels[0].interval: compaction interval must be greater than 0 (got 0s)"
        );
    }

    #[test]
    fn a_week_begins_on_monday() {
        let week = seconds(168 * 3600);
        let sunday = at("2026-11-22T19:17:58Z");
        assert_eq!(previous_boundary(sunday, week), at("2026-11-16T00:00:00Z"));
        assert_eq!(next_boundary(sunday, week), at("2026-11-23T00:00:00Z"));
    }

    #[test]
    fn a_boundary_is_its_own_previous_one() {
        let boundary = at("2026-11-22T12:00:30Z");
        assert_eq!(previous_boundary(boundary, seconds(30)), boundary);
        assert_eq!(next_boundary(boundary, seconds(30)), at("2026-11-22T12:01:00Z"));
        assert_eq!(previous_boundary(at("2026-11-22T12:00:59.999Z"), seconds(30)), boundary);
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for moment in [Timestamp::MIN, Timestamp::MAX] {
            for interval in [Duration::ZERO, Duration::from_nanos(1), seconds(30), Duration::MAX] {
                let (previous, next) = (previous_boundary(moment, interval), next_boundary(moment, interval));
                assert!(previous <= moment && next >= moment, "{moment} {interval:?}");
            }
        }
        assert_eq!(before(Timestamp::MIN, seconds(1)), Timestamp::MIN);
        assert_eq!(after(Timestamp::MAX, Duration::MAX), Timestamp::MAX);
    }
}
