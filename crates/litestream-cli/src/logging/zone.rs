//! The local time zone, found as Unix programs find it.
//!
//! No zone database is built in; the system's own files are read. Where there
//! are none (minimal containers), times are UTC.

use std::path::PathBuf;

use jiff::tz::TimeZone;

use crate::environment::Environment;

/// `TZ` if set (a zone name, `:file`, or a POSIX rule such as `EST5EDT`),
/// `/etc/localtime` otherwise, UTC when nothing can be read.
pub(crate) fn local(environment: &Environment) -> TimeZone {
    let found = match environment.get("TZ") {
        None => from_file("localtime", "/etc/localtime".into()),
        Some("" | "UTC" | "UTC0") => None,
        Some(name) => named(name),
    };
    found.unwrap_or(TimeZone::UTC)
}

fn named(name: &str) -> Option<TimeZone> {
    let name = name.strip_prefix(':').unwrap_or(name);
    if name.starts_with('/') {
        return from_file(name, name.into());
    }
    // A name must not lead out of the directories below.
    if !name.split('/').any(|part| part == "..") {
        for directory in ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"] {
            if let Some(zone) = from_file(name, PathBuf::from(directory).join(name)) {
                return Some(zone);
            }
        }
    }
    TimeZone::posix(name).ok()
}

fn from_file(name: &str, path: PathBuf) -> Option<TimeZone> {
    TimeZone::tzif(name, &std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset_hours(tz: &str) -> i32 {
        let environment = Environment::new([("TZ".into(), tz.into())]);
        local(&environment).to_offset("2026-11-22T09:48:56Z".parse().unwrap()).seconds() / 3600
    }

    #[test]
    fn rules_and_utc_need_no_files() {
        assert_eq!(offset_hours(""), 0);
        assert_eq!(offset_hours("UTC"), 0);
        assert_eq!(offset_hours("XYZ-3"), 3);
        assert_eq!(offset_hours("EST5EDT,M3.2.0,M11.1.0"), -5);
    }

    #[test]
    fn what_cannot_be_understood_is_utc() {
        assert_eq!(offset_hours("../../etc/passwd"), 0);
        assert_eq!(offset_hours("Nowhere/Land"), 0);
    }
}
