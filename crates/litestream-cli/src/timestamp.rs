//! Moments as people type them: `2026-11-22T09:50:00Z`, `2026-11-22 09:50`,
//! `now`, `5 minutes ago`, `yesterday 14:00`.
//!
//! What has no zone is meant in the local one. Words are understood in English
//! only; whatever cannot be understood is refused, never guessed at: a restore
//! to another moment than the one that was meant looks like a success.
//!
//! Spec: docs/commands.md, "Moments".

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// A moment and whether its text said all there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) timestamp: Timestamp,
    /// True where zone or day were inferred, so that the result should be shown.
    pub(crate) is_inferred: bool,
}

/// Reads a moment. `now` and `zone` are what relative and local times refer to.
/// `None` for anything that is no moment.
pub(crate) fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Moment> {
    let text = text.trim();
    // RFC 3339 as the original reads it: with a zone, nothing is inferred.
    if let Ok(timestamp) = text.parse() {
        return Some(Moment { timestamp, is_inferred: false });
    }
    let inferred = |timestamp| Moment { timestamp, is_inferred: true };
    let lower = text.to_lowercase();
    if lower == "now" {
        return Some(inferred(now));
    }
    if let Some(span) = lower.strip_suffix(" ago") {
        return ago(span, now, zone).map(inferred);
    }
    civil(&lower, now, zone)?.to_zoned(zone.clone()).ok().map(|zoned| inferred(zoned.timestamp()))
}

/// `5 minutes`, `an hour`, `1h30m`, `2 days 3 hours`: so long before `now`. Days
/// and longer are steps of the calendar.
fn ago(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(duration) = text.parse::<crate::units::GoDuration>() {
        return now.checked_sub(duration.to_duration()).ok();
    }
    let mut moment = now.to_zoned(zone.clone());
    let mut words = text.split_whitespace().filter(|word| *word != "and").peekable();
    words.peek()?;
    while let Some(word) = words.next() {
        let count = match word {
            "a" | "an" | "one" => 1,
            digits => digits.parse::<u32>().ok()?.into(),
        };
        moment = moment.checked_sub(span(count, words.next()?)?).ok()?;
    }
    Some(moment.timestamp())
}

fn span(count: i64, unit: &str) -> Option<Span> {
    let span = Span::new();
    match unit.strip_suffix('s').filter(|unit| unit.len() > 1).unwrap_or(unit) {
        "s" | "sec" | "second" => span.try_seconds(count),
        "m" | "min" | "minute" => span.try_minutes(count),
        "h" | "hour" => span.try_hours(count),
        "d" | "day" => span.try_days(count),
        "w" | "week" => span.try_weeks(count),
        "month" => span.try_months(count),
        "year" => span.try_years(count),
        _ => return None,
    }
    .ok()
}

/// A date, a time of day, or both, without a zone. A date alone is its first
/// moment, a time alone is today's.
fn civil(text: &str, now: Timestamp, zone: &TimeZone) -> Option<DateTime> {
    let today = now.to_zoned(zone.clone()).date();
    let (first, rest) = text.split_once([' ', 't']).unwrap_or((text, ""));
    // "today" and "yesterday" contain a "t" that separates nothing.
    for (word, date) in [("today", Some(today)), ("yesterday", today.yesterday().ok())] {
        if let Some(rest) = text.strip_prefix(word) {
            let is_word = rest.is_empty() || rest.starts_with(' ');
            return if is_word { at(date?, rest.trim().trim_start_matches("at ").trim()) } else { None };
        }
    }
    match date(first) {
        Some(date) => at(date, rest.trim()),
        None if rest.is_empty() => Some(today.to_datetime(time(first)?)),
        None => None,
    }
}

/// Midnight where no time is given.
fn at(date: Date, text: &str) -> Option<DateTime> {
    Some(date.to_datetime(if text.is_empty() { Time::midnight() } else { time(text)? }))
}

/// `2026-11-22`, and nothing that merely looks like it.
fn date(text: &str) -> Option<Date> {
    let is_date = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    is_date.then(|| text.parse().ok()).flatten()
}

/// `9:50`, `09:50:00`, `09:50:00.123`.
fn time(text: &str) -> Option<Time> {
    let is_time = text.contains(':') && text.bytes().all(|byte| byte.is_ascii_digit() || b":.".contains(&byte));
    let padded = if text.find(':') == Some(1) { format!("0{text}") } else { text.to_owned() };
    is_time.then(|| padded.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three hours east of Greenwich; it is noon there.
    fn parse_there(text: &str) -> Option<String> {
        let zone = TimeZone::posix("XYZ-3").unwrap();
        let now = "2026-11-22T09:00:00Z".parse().unwrap();
        parse(text, now, &zone).map(|moment| moment.timestamp.to_string())
    }

    #[test]
    fn complete_moments_are_taken_as_they_are() {
        for (text, utc) in [
            ("2000-01-01T00:00:00Z", "2000-01-01T00:00:00Z"),
            ("2000-01-01T02:00:00.5+02:00", "2000-01-01T00:00:00.5Z"),
            ("2000-01-01t00:00:00z", "2000-01-01T00:00:00Z"),
        ] {
            assert_eq!(parse_there(text).as_deref(), Some(utc), "{text}");
            let moment = parse(text, Timestamp::UNIX_EPOCH, &TimeZone::UTC).unwrap();
            assert!(!moment.is_inferred, "{text}");
        }
    }

    #[test]
    fn what_has_no_zone_is_local() {
        for (text, utc) in [
            ("2026-11-22T09:50:00", "2026-11-22T06:50:00Z"),
            ("2026-11-22 09:50:00.25", "2026-11-22T06:50:00.25Z"),
            ("2026-11-22 9:50", "2026-11-22T06:50:00Z"),
            ("2026-11-22", "2026-11-21T21:00:00Z"),
            ("14:00", "2026-11-22T11:00:00Z"),
            ("today", "2026-11-21T21:00:00Z"),
            ("Today 08:00", "2026-11-22T05:00:00Z"),
            ("yesterday", "2026-11-20T21:00:00Z"),
            ("yesterday 14:00", "2026-11-21T11:00:00Z"),
            ("yesterday at 14:00", "2026-11-21T11:00:00Z"),
        ] {
            assert_eq!(parse_there(text).as_deref(), Some(utc), "{text}");
        }
        assert!(parse("2026-11-22", Timestamp::UNIX_EPOCH, &TimeZone::UTC).unwrap().is_inferred);
    }

    #[test]
    fn spans_count_back_from_now() {
        for (text, utc) in [
            ("now", "2026-11-22T09:00:00Z"),
            ("5 minutes ago", "2026-11-22T08:55:00Z"),
            ("an hour ago", "2026-11-22T08:00:00Z"),
            ("1h30m ago", "2026-11-22T07:30:00Z"),
            ("90s ago", "2026-11-22T08:58:30Z"),
            ("2 days and 3 hours ago", "2026-11-20T06:00:00Z"),
            ("1 week ago", "2026-11-15T09:00:00Z"),
            ("3 months ago", "2026-08-22T09:00:00Z"),
            ("10 m ago", "2026-11-22T08:50:00Z"),
        ] {
            assert_eq!(parse_there(text).as_deref(), Some(utc), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "foo",
            "ago",
            " ago",
            "5 ago",
            "minutes ago",
            "5 parsecs ago",
            "-5 minutes ago",
            "tomorrow",
            "2026-13-01",
            "2026-11-31",
            "22.11.2026",
            "11/22/2026",
            "2026-11-22 25:00",
            "2026-11-22 noon",
            "yesterdays",
            "yesterday noon",
            "20261122",
            "1795341000",
            "99999999999999 years ago",
            "last week",
        ] {
            assert_eq!(parse_there(text), None, "{text}");
        }
    }
}
